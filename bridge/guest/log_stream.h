#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

struct LogStreamOptions {
  // Opens /dev/kmsg for reading without blocking: each read gives one record, from the oldest that
  // the kernel still has.
  std::function<absl::StatusOr<UniqueFd>()> open;
  // After the link came up: processes and their streams go first, nobody waits for the log.
  milliseconds patience{1'000};
};

// Sends the guest's kernel log, where the agent writes as well, to the host, for as long as it
// runs. The kernel's buffer is what bridges the time without a host; records that the host has
// acknowledged are not sent again, whichever host that was. `transport` must outlive the task.
Task<void> StreamLog(GuestTransport& transport, LogStreamOptions options);

}  // namespace ferry::bridge
