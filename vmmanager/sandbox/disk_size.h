#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "vmmanager/sandbox/file_reads.h"

namespace ferry::vm {

// How many bytes a guest sees of the disk in a qcow2 or raw file. The path may come from a peer:
// FAILED_PRECONDITION if it is no such file or device, NOT_FOUND or PERMISSION_DENIED if it cannot
// be read, and see FileReads. `reads` must outlive the task.
Task<absl::StatusOr<uint64_t>> DiskBytes(FileReads* reads, std::string path, std::string format);

}  // namespace ferry::vm
