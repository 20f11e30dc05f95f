#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/v1/checkpoint.pb.h"
#include "vmmanager/sandbox/checkpoint_tree.h"
#include "vmmanager/sandbox/snapshot_plan.h"

// Whether a checkpoint can be taken, and of what. Without I/O.
namespace ferry::vm {

// The VM as it is.
struct CheckpointScene {
  std::string vm;
  v1::VmState state = v1::VM_STATE_UNSPECIFIED;
  NamedDisks disks;
  const CheckpointRecords& records;
};

// INVALID_ARGUMENT "bad_name".
absl::Status CheckCheckpointName(const std::string& name);
// ALREADY_EXISTS "checkpoint_exists".
absl::Status CheckIsNew(const CheckpointScene& scene, const std::string& name);
// FAILED_PRECONDITION "vm_has_checkpoints": none is taken that is not remembered if others are.
absl::Status CheckMayBeForgotten(const CheckpointScene& scene);
// INVALID_ARGUMENT if a disk is named twice, or a file in another way than by its absolute path.
absl::Status CheckDiskWishes(
    const google::protobuf::RepeatedPtrField<v1::CheckpointDiskWish>& wishes);

// INVALID_ARGUMENT if the request contradicts itself.
absl::Status CheckRequest(const v1::CreateCheckpointRequest& request);

// The record of the checkpoint as it is to become, its overlays as they are to be called. Those of
// disks for which the request names no file may be numbered. An error says why it cannot be, and
// what to do.
absl::StatusOr<state::v1::CheckpointRecord> PlanCheckpoint(
    const CheckpointScene& scene, const v1::CreateCheckpointRequest& request);

// What the file is to be called that a disk goes on in after a checkpoint, or going back to it:
// "disk.qcow2" in "disk.a.qcow2", and that, after another checkpoint, in "disk.b.qcow2".
std::string OverlayName(const CheckpointRecords& records, const std::string& file,
                        const std::string& name);

// Whether a file that a VM goes on in was there before, and is its user's.
bool IsUsersOverlay(const CheckpointRecords& records, const std::string& file);

// Whether the request names the file that the disk is to go on in.
bool NamesFileOf(const v1::CreateCheckpointRequest& request, const std::string& disk);

// ABORTED unless the disks are still those that were planned for; with memory that is all that are
// written to.
absl::Status CheckStillFits(const CheckpointScene& scene,
                            const state::v1::CheckpointRecord& planned, bool with_memory);

}  // namespace ferry::vm
