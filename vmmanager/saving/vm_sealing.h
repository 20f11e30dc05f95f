#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saves/saved_file.h"
#include "vmmanager/saving/returning_containers.h"

// What is in a VM's file beside its memory, be it the VM's saved state or a checkpoint's.
namespace ferry::vm {

// INVALID_ARGUMENT names what cannot be.
absl::StatusOr<SavedFileOptions> ToFileOptions(const v1::SaveOptions& wanted);

// All must outlive it.
class VmSealing {
 public:
  VmSealing(VmInventory& vms, const ReturningContainers& returning, ImageDigests& digests)
      : vms_(vms), returning_(returning), digests_(digests) {}

  // Of a VM that stands still: what comes before its memory. `kind` begins the name under which it
  // was written.
  Task<absl::StatusOr<std::string>> Head(std::shared_ptr<UtilityVm> vm, guest::GuestState guest,
                                         std::string kind);
  // And after it. Whoever may write to the disks of that machine has let go of them.
  Task<absl::StatusOr<std::string>> Tail(schema::ComputeSystem document);

 private:
  Task<absl::StatusOr<std::string>> Plan(std::shared_ptr<UtilityVm> vm, std::string session);

  VmInventory& vms_;
  const ReturningContainers& returning_;
  ImageDigests& digests_;
};

// Of an error for want of room, with how much a VM takes.
absl::Status WithRoomNeeded(const absl::Status& why, const UtilityVm& vm);

}  // namespace ferry::vm
