#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/error.pb.h"
#include "vmmanager/sandbox/arriving_disks.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// What a machine that is to come from another host would be on this one.
struct IncomingMachine {
  schema::ComputeSystem document;           // with this host's paths and context id
  state::v1::Fingerprint fingerprint;       // as this host would make it
  std::vector<v1::Difference> differences;  // why it could not go on here; empty if it could
  std::vector<ArrivingDisk> copies;         // disks whose content is to come with it
};

// Looks at this host and changes nothing. The guest image is found by its content: at the source's
// path, or as this host's default. INVALID_ARGUMENT if the payload's document cannot be read. The
// references must outlive the task.
Task<absl::StatusOr<IncomingMachine>> FitMachine(state::v1::VmPayload vm,
                                                 const VmInventory& inventory,
                                                 ImageDigests& digests);

// Whether the source says of each of the VM's own disks how it can be told from others; FitMachine
// has looked at that then. What is copied need not be told.
bool DisksAreProved(const state::v1::VmPayload& vm, const IncomingMachine& machine);

// The disks of a machine as its own host sees them, for the payload. One that cannot be read is
// left out; an error if one cannot be read in time. `reads` must outlive the task.
Task<absl::StatusOr<std::vector<state::v1::DiskPayload>>> DescribeDisks(
    schema::ComputeSystem document, FileReads& reads);

}  // namespace ferry::vm
