#pragma once

#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// Returns once every process of the cgroup whose folder this is stands still. NOT_FOUND if there is
// no such cgroup; DEADLINE_EXCEEDED.
Task<absl::Status> AwaitFrozen(std::string folder, milliseconds limit);

}  // namespace ferry::bridge
