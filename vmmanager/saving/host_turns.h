#pragma once

#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "vmmanager/saving/saved_states.h"

// What happens to all VMs of a host when it goes down, and when it is back.
namespace ferry::vm {

struct HostDownOptions {
  milliseconds within{300'000};  // for all of them together
  // What cannot be saved although it is to be is shut down; otherwise it runs on.
  bool or_shutdown = false;
};

// Stops each VM that runs as `stop` does, all at once; returns when they have stopped or time is
// up. What did not stop is in the log, and runs on.
Task<void> StopAll(VmInventory& vms, SavedStates& saves, HostDownOptions options);

// Starts those that are to be started after a boot of their host, one after the other, unless that
// was done since: `state_file` says for which boot it was done last. What does not start is in the
// log and among the events.
Task<void> StartAfterBoot(VmInventory& vms, SavedStates& saves, std::string state_file,
                          std::string boot_id);

}  // namespace ferry::vm
