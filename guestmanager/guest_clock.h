#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

namespace ferry::guest {

// One call to the agent; the answer's JSON text.
using AgentCall = std::function<Task<absl::StatusOr<std::string>>(uint32_t type, std::string text)>;

// Brings the guest's clock to the host's, if it is off. Only for an agent that announces
// ClockSupported. An error of `call` is returned as it is; UNKNOWN says that the agent refused.
Task<absl::Status> SetGuestClock(AgentCall call);

}  // namespace ferry::guest
