#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

// What process 1 of a guest does before and after it is an agent.
namespace ferry {

// Says something on the console (standard error), and as process 1 in the kernel's log, which the
// host gets.
void Say(const std::string& text);

// For reading, from the oldest record, without blocking.
absl::StatusOr<UniqueFd> OpenKernelLog();

// Mounts what programs expect, moves the root onto a tmpfs (a container cannot pivot away from an
// initramfs), and brings up the host name and the loopback device.
absl::Status PrepareRoot();

// Whether the kernel's command line holds this word.
bool KernelArgument(const std::string& word);

// Loads the modules listed in /etc/ferry/modules, in their order. One that fails is reported, and
// the rest is loaded: what is missing shows in its consequence.
void LoadModules();

// Opens the virtio-serial port with this name; waits for the device to appear.
absl::StatusOr<UniqueFd> OpenVirtioPort(const std::string& name);

// Ends the VM. Does not return.
[[noreturn]] void PowerOff();

}  // namespace ferry
