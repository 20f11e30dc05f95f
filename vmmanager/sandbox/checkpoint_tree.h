#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ferry/state/v1/checkpoint.pb.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/checkpoint.pb.h"

// The checkpoints of one VM, each after the one that it was taken after. Without I/O.
namespace ferry::vm {

using CheckpointRecords = std::map<std::string, state::v1::CheckpointRecord>;  // by name

// The one after which comes what the VM does now; empty: none.
std::string CurrentCheckpoint(const CheckpointRecords& records);
// One that is not whole, as a former daemon left it, or this one is at it; empty: none.
std::string UnsettledCheckpoint(const CheckpointRecords& records);
std::vector<std::string> FollowersOf(const CheckpointRecords& records, const std::string& name);
// All files that checkpoints need.
std::set<std::string> FilesOf(const CheckpointRecords& records);

// Each after the one that it follows; those that follow the same one by their age.
std::vector<v1::Checkpoint> DescribeCheckpoints(const CheckpointRecords& records);

// Of one disk of a checkpoint that is deleted: what is in the overlay goes into the file.
struct OverlayMerge {
  state::v1::CheckpointDisk disk;  // the checkpoint's
  std::string overlay;
  bool is_vms = false;             // the VM goes on in the overlay, and will in the file
  std::vector<std::string> above;  // other overlays over this one, which go on over the file
};

// What becomes of a checkpoint that is deleted.
struct CheckpointDeletion {
  std::vector<OverlayMerge> merges;
  CheckpointRecords changed;  // other records that change, as they are afterwards
};
// `vm_files` are those that the VM goes on in. NOT_FOUND; FAILED_PRECONDITION
// "checkpoint_has_branches".
absl::StatusOr<CheckpointDeletion> PlanDeletion(const std::string& vm_name,
                                                const CheckpointRecords& records,
                                                const std::set<std::string>& vm_files,
                                                const std::string& name);

// Which checkpoint's file is below a file that the VM goes on in; empty: none's.
std::string BelowOf(const CheckpointRecords& records, const std::string& vm_file);
// All checkpoints' files below it, the next one first.
std::vector<std::string> ChainBelow(const CheckpointRecords& records, const std::string& vm_file);

// The records in which the VM went on in one of these files, without that: the files are left, and
// others may come to be called so.
CheckpointRecords WithoutOverlays(const CheckpointRecords& records,
                                  const std::set<std::string>& files);

// The memory of a checkpoint as a file that its VM is saved in, with its disks over the
// checkpoint's.
state::v1::SavedRecord MemoryOf(const std::string& name, const state::v1::CheckpointRecord& record);

// The one whose memory has that digest; empty: none.
std::string CheckpointOfMemory(const CheckpointRecords& records, const std::string& sha256);

// NOT_FOUND "no_such_checkpoint".
absl::Status NoSuchCheckpoint(const std::string& vm_name, const std::string& name);

}  // namespace ferry::vm
