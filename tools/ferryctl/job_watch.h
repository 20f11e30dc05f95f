#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/job_view.h"

namespace ferry::ctl {

// Shows a job until it has ended, and returns it. Goes on when the daemon is away for a moment (at
// most `patience` at a time).
Task<absl::StatusOr<v1::Job>> WatchJob(Client* client, std::string id, JobProgressView* view,
                                       milliseconds patience = milliseconds(60000));

// `ferryctl job watch`: returns its exit status.
Task<int> RunJobWatch(Client* client, std::string id);

}  // namespace ferry::ctl
