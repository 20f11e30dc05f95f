#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/state/v1/checkpoint.pb.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/checkpoint.pb.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/sandbox/checkpoint_plan.h"
#include "vmmanager/schema/compute_system.h"

// What a VM is to be that is made of another one's checkpoint. Without I/O.
namespace ferry::vm {

struct ClonePlan {
  v1::VmSpec spec;  // the files of its disks are still the other VM's
  // The disks to be copied, the VM's own: from `file` to `overlay`, of which those may be numbered
  // that the request does not name.
  state::v1::CheckpointRecord disks;
  bool memory = false;
};

// `spec` is the VM's as it is. An error says why it cannot be, and what to do.
absl::StatusOr<ClonePlan> PlanClone(const CheckpointScene& scene, const v1::VmSpec& spec,
                                    const v1::RestoreCheckpointAsRequest& request);
// Whether the request names the file of that disk.
bool NamesFileOf(const v1::RestoreCheckpointAsRequest& request, const std::string& disk);

// Puts the copies into the specification.
void UseCopies(const state::v1::CheckpointRecord& disks, v1::VmSpec* spec);

// Who a VM is whose memory was another one's.
struct CloneIdentity {
  std::string vm_id;
  std::string journal_id;  // of its host
  std::string session;     // a new name under which its file is written
  v1::VmSpec spec;
  std::map<std::string, std::string> copies;  // by what the memory's file calls the disk
};

// What comes before a memory, as that VM's.
struct ClonedHead {
  std::string head;
  schema::ComputeSystem document;
};

// FAILED_PRECONDITION "containers_not_cloned" if there were containers in it: what is in the
// guest's memory of them has their ids, of which a host has each only once.
absl::StatusOr<ClonedHead> CloneHead(std::string_view head, const CloneIdentity& identity);

// Of which VM a memory is, and of what.
struct MemoryFacts {
  std::string vm_id;
  std::string vm_name;
  uint64_t saved_unix_ms = 0;
  bool paused = false;
  uint32_t processes = 0;
  uint32_t containers = 0;
};
absl::StatusOr<MemoryFacts> ReadMemoryFacts(std::string_view head);

// The machine with the disks that it can write to, as the memory's file calls them, and of which
// generation each has to be there now. `tail` is what comes after the memory.
struct DisksThen {
  schema::ComputeSystem document;  // where they are now
  std::vector<state::v1::DiskGeneration> generations;
};
absl::StatusOr<DisksThen> DisksOfMemory(std::string_view head, std::string_view tail,
                                        const state::v1::CheckpointRecord& record);

}  // namespace ferry::vm
