#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/sandbox/checkpoint_tree.h"
#include "vmmanager/sandbox/file_reads.h"

// What a migration carries of a VM's checkpoints: what is known of them, but not their files, which
// lie where both hosts see them.
namespace ferry::vm {

// FAILED_PRECONDITION "vm_has_checkpoints", with what to do, if they have files that no other host
// can have. Those that there are only half of are not looked at.
absl::Status CheckCheckpointsMayMove(const std::string& vm_name, const CheckpointRecords& records);

// As the source sees them and their files; `vm_files` are those that the VM goes on in. `reads`
// must outlive the task.
Task<absl::StatusOr<std::vector<state::v1::CheckpointPayload>>> DescribeForMove(
    CheckpointRecords records, std::set<std::string> vm_files, FileReads* reads);

// The records as the destination is to keep them. FAILED_PRECONDITION "checkpoint_not_seen", naming
// the file, if it does not see the same files; INVALID_ARGUMENT if they name what no host would.
// `state_folder` is ferryd's own. `reads` must outlive the task.
Task<absl::StatusOr<CheckpointRecords>> FitCheckpoints(state::v1::VmPayload vm,
                                                       std::string state_folder, FileReads* reads);

}  // namespace ferry::vm
