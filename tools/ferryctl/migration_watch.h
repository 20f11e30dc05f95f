#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/progress.h"

namespace ferry::ctl {

// Shows a session's notifications until nothing more will happen in it, and returns how it ended.
// Goes on where it was when the daemon is away for a moment (at most `patience` at a time).
Task<absl::StatusOr<v1::Session>> WatchSession(Client* client, std::string session_id,
                                               ProgressView* view,
                                               milliseconds patience = milliseconds(60000));

// The view that fits stdout and the options.
ProgressView MakeProgressView(bool json);

// Prints the end of a migration and returns its exit status.
int Conclude(const Client& client, const std::string& doing,
             const absl::StatusOr<v1::Session>& session, ProgressView* view, bool json);

}  // namespace ferry::ctl
