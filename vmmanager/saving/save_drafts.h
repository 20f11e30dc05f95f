#pragma once

#include <optional>
#include <string>

#include "bridge/runtime/async.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// What becomes of a user's file that a VM was being written to when ferryd ended.
enum class DraftFate {
  kStays,    // the VM is in it, or may be
  kGoes,     // its memory is elsewhere
  kMayServe  // nothing else has its memory: it stays, and its user is told
};

// `saved`: what the VM is saved in, if it is; without a file that cannot be read.
DraftFate FateOfDraft(const std::string& draft_file,
                      const std::optional<state::v1::SavedRecord>& saved, bool has_vmm);

// Of all VMs, whose former daemon did not come to that; none is remembered afterwards. Files go on
// threads of their own: whatever their disks do, nobody waits for it. Once the VMs are adopted; on
// the executor's thread.
Task<void> SweepSaveDrafts(VmInventory& vms);

}  // namespace ferry::vm
