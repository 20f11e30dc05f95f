#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/disk_copies.h"
#include "vmmanager/backend/overlays.h"

namespace ferry::vm {

class QemuMachine;

// ComputeSystem's verbs of the disks that are copied to another host: QEMU's NBD server at the
// destination, and its job blockdev-mirror at the source.
Task<absl::Status> OpenQemuDisks(std::shared_ptr<QemuMachine> machine, std::vector<DiskPlace> disks,
                                 std::string unix_path);
Task<absl::Status> CloseQemuDisks(std::shared_ptr<QemuMachine> machine);
Task<absl::Status> MirrorQemuDisks(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskMirror> disks, std::string unix_path,
                                   uint64_t bytes_per_second, MergeProgress progress);
// How far all mirrors together are, with what the guest has written since.
struct CopiedBytes {
  uint64_t done = 0;
  uint64_t total = 0;
};
Task<absl::StatusOr<CopiedBytes>> MeasureQemuMirrors(std::shared_ptr<QemuMachine> machine);
Task<absl::Status> SealQemuMirrors(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskPlace> disks);
// Ends all mirrors, however far they are, and those that a former daemon left. Idempotent.
Task<absl::Status> DropQemuMirrors(std::shared_ptr<QemuMachine> machine);

}  // namespace ferry::vm
