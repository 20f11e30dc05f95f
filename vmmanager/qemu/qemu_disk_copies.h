#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/backend/disk_copies.h"
#include "vmmanager/qemu/mirror_watch.h"

namespace ferry::vm {

class QemuMachine;

// ComputeSystem's verbs of the disks that are copied to another host: QEMU's NBD server at the
// destination, and its job blockdev-mirror at the source.
Task<absl::Status> OpenQemuDisks(std::shared_ptr<QemuMachine> machine, std::vector<DiskPlace> disks,
                                 std::string unix_path);
Task<absl::Status> CloseQemuDisks(std::shared_ptr<QemuMachine> machine);
Task<absl::Status> MirrorQemuDisks(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskMirror> disks, std::string unix_path,
                                   MirrorLimits limits, TellCopied tell);
// How far all mirrors together are.
Task<absl::StatusOr<CopiedBytes>> MeasureQemuMirrors(std::shared_ptr<QemuMachine> machine);
Task<absl::Status> SealQemuMirrors(std::shared_ptr<QemuMachine> machine,
                                   std::vector<DiskPlace> disks);
// Ends all mirrors, however far they are, and those that a former daemon left; the guest may write
// as it will again. Idempotent.
Task<absl::Status> DropQemuMirrors(std::shared_ptr<QemuMachine> machine);

}  // namespace ferry::vm
