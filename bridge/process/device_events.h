#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// The kernel's announcements of devices as a descriptor that becomes readable; not valid where the
// kernel refuses.
UniqueFd OpenDeviceEvents();

// Throws away what the kernel has announced so far.
void DrainDeviceEvents(int events);

// Looks with `there()`, and again after each announcement on `events` (OpenDeviceEvents()), until
// it is true or `limit` has passed (DEADLINE_EXCEEDED with `what`).
Task<absl::Status> AwaitDevice(UniqueFd events, std::string what, milliseconds limit,
                               std::function<Task<bool>()> there);

}  // namespace ferry::bridge
