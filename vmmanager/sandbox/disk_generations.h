#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "vmmanager/sandbox/file_reads.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// Whether the machine has a disk that its guest may write to, whoever brought it.
bool HasWritableDisks(const schema::ComputeSystem& document);

// Which files the machine writes to, and when each was written to last. The VMM must have let go of
// them. `reads` must outlive the task.
Task<absl::StatusOr<std::vector<state::v1::DiskGeneration>>> ReadGenerations(
    schema::ComputeSystem document, FileReads* reads);

// Of one file.
Task<absl::StatusOr<state::v1::DiskGeneration>> ReadGeneration(std::string path, FileReads* reads);

// FAILED_PRECONDITION, naming the first, if one is not what it was then.
Task<absl::Status> CheckGenerations(schema::ComputeSystem document,
                                    std::vector<state::v1::DiskGeneration> then, FileReads* reads);

}  // namespace ferry::vm
