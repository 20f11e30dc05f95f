#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "vmmanager/sandbox/file_reads.h"
#include "vmmanager/sandbox/overlay_files.h"
#include "vmmanager/sandbox/vm_inventory.h"

// Whose the files of disks are, whatever they are called. Thread: the executor's only.
namespace ferry::vm {

// A file and those below it; no format: the one above does not say.
struct ChainFile {
  std::string file;
  std::string format;
};
using Chain = std::vector<ChainFile>;
// Adds those that are below the last one, as the files say. An error is that of
// OverlayFiles::Examine, and about the last one then.
Task<absl::Status> ReadDiskChain(OverlayFiles* overlays, std::shared_ptr<Chain> chain);

// What tells files apart: the device and the inode. Those that are not there have none.
using FileIds = std::map<std::string, std::pair<uint64_t, uint64_t>>;
// FAILED_PRECONDITION if it cannot be found out of one.
Task<absl::StatusOr<FileIds>> IdentifyFiles(FileReads* reads, std::set<std::string> files);
// Whether both are there, and one.
bool AreSame(const FileIds& ids, const std::string& one, const std::string& other);

struct DiskOfVm {
  std::string vm_id;
  std::string disk;  // empty: all that the VM has, with its checkpoints
};
// FAILED_PRECONDITION "chain_unknown" if that of a VM cannot be read, and "file_in_use" if a disk
// of any VM, but that one, or any checkpoint is in the file, or over it: by whichever name. All
// must outlive the task.
Task<absl::Status> CheckIsNobodys(const VmInventory* vms, std::string file, DiskOfVm but);

}  // namespace ferry::vm
