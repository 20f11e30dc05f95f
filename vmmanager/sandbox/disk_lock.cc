#include "vmmanager/sandbox/disk_lock.h"

#include "absl/strings/str_cat.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/fence/fence.h"

namespace ferry::vm {

absl::Status AsFenceHeld(absl::Status status) {
  if (!status.GetPayload(kDiskInUse)) return status;
  return FenceHeld(absl::StrCat("a disk of the VM is in use by another process, which may run "
                                "another copy of it: ",
                                status.message()),
                   "go on with that copy, or end what uses the disk, and try again");
}

}  // namespace ferry::vm
