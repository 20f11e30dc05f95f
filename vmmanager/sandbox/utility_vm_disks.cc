// Disks that come and go while the VM runs.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/schema/attachments.h"

namespace ferry::vm {
absl::Status UtilityVm::CheckDisksMayChange(const std::string& operation) const {
  RETURN_IF_ERROR(CheckHere());
  RETURN_IF_ERROR(RefuseIfMigrating(operation));
  if (writes_checkpoint_) return CheckCheckpointsRest(operation);
  if (phase_ != Phase::kUp) return Refuse(operation);
  return absl::OkStatus();
}

Task<absl::Status> UtilityVm::PersistDisks() {
  row_.document_json = schema::ToJson(document_);
  co_return co_await Persist();
}

absl::StatusOr<uint32_t> UtilityVm::FreeLun() const {
  const auto& scsi = document_.virtual_machine.devices.scsi;
  const auto controller = scsi.find(kDiskController);
  if (controller == scsi.end()) return 0;
  const auto& attachments = controller->second.attachments;
  for (uint32_t lun = 0; lun < schema::Scsi::kMaxLuns; ++lun) {
    const std::string text = absl::StrCat(lun);
    if (!attachments.contains(text) && !OwnDiskAt(spec_, text)) return lun;
  }
  return rpc::ErrorWithReason(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("VM ", row_.name, " has ", attachments.size(), " disks, the most it can have"),
      "too_many_disks", "Remove containers from it (ferryctl container rm), or use another VM.");
}

Task<absl::StatusOr<DiskSlot>> UtilityVm::AttachDisk(schema::Attachment disk) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckDisksMayChange("given a disk"));
  DiskSlot slot;
  CO_ASSIGN_OR_RETURN(slot.lun, FreeLun());
  auto& attachments = document_.virtual_machine.devices.scsi[kDiskController].attachments;
  const std::string lun = absl::StrCat(slot.lun);
  std::shared_ptr<ComputeSystem> system = system_;
  schema::ModifySettingRequest request;
  request.resource_path = DiskResource(lun);
  request.request_type = "Add";
  request.settings_json = schema::ToJson(disk);
  // Known before it is there: a daemon that finds the VM again must know of every disk.
  attachments[lun] = std::move(disk);
  absl::Status added = co_await PersistDisks();
  if (added.ok()) added = co_await system->Modify(request);
  if (added.ok()) co_return slot;
  if (GotNoAnswer(added) && system_ == system) {
    // It may have come, or come later. What cannot be taken back must stay known.
    request.request_type = "Remove";
    const absl::Status removed = co_await system->Modify(request);
    if (!removed.ok() && !absl::IsNotFound(removed)) co_return added;
  }
  document_.virtual_machine.devices.scsi[kDiskController].attachments.erase(lun);
  if (system_ != nullptr) (void)co_await PersistDisks();
  co_return added;
}

Task<absl::Status> UtilityVm::DetachDisk(DiskSlot slot) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckDisksMayChange("relieved of a disk"));
  const std::string lun = absl::StrCat(slot.lun);
  auto& attachments = document_.virtual_machine.devices.scsi[kDiskController].attachments;
  if (absl::StrCat(slot.controller) != kDiskController || !attachments.contains(lun)) {
    co_return absl::NotFoundError(
        absl::StrCat("VM ", row_.name, " has no disk at Scsi/", slot.controller, "/", slot.lun));
  }
  if (OwnDiskAt(spec_, lun).has_value()) {
    co_return absl::FailedPreconditionError(absl::StrCat("the disk at Scsi/", slot.controller, "/",
                                                         slot.lun, " belongs to VM ", row_.name));
  }
  std::shared_ptr<ComputeSystem> system = system_;
  schema::ModifySettingRequest request;
  request.resource_path = DiskResource(lun);
  request.request_type = "Remove";
  const absl::Status removed = co_await system->Modify(request);
  // One that the machine does not have was on its way when a daemon died.
  if (!removed.ok() && !absl::IsNotFound(removed)) co_return removed;
  if (system_ == nullptr) co_return absl::OkStatus();
  document_.virtual_machine.devices.scsi[kDiskController].attachments.erase(lun);
  co_return co_await PersistDisks();
}

Task<absl::Status> UtilityVm::ResizeDisk(DiskSlot slot, uint64_t bytes) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  const std::string why = "those are of the disks as they are";
  CO_RETURN_IF_ERROR(CheckDisksMayChange("given a larger disk"));
  CO_RETURN_IF_ERROR(CheckHasNoCheckpoints("given a larger disk", why));
  CO_RETURN_IF_ERROR(CheckHasNoSnapshots("given a larger disk", why));
  const DiskPlace place{absl::StrCat(slot.controller), absl::StrCat(slot.lun)};
  const schema::Attachment* found = schema::FindAttachment(document_, place.controller, place.lun);
  if (found == nullptr) {
    co_return absl::NotFoundError(absl::StrCat("VM ", row_.name, " has no disk there"));
  }
  const schema::Attachment disk = *found;
  CO_ASSIGN_OR_RETURN(const bool grows,
                      co_await CheckGrows(ToText(place), disk.path, disk.format, bytes));
  std::shared_ptr<ComputeSystem> system = system_;
  if (!grows) co_return absl::OkStatus();
  if (system == nullptr) co_return Refuse("given a larger disk");
  co_return co_await system->ResizeDisk(place, bytes);
}

absl::Status UtilityVm::BindDisk(DiskSlot slot, const std::string& path) {
  if (phase_ != Phase::kStopped || incoming_session_.empty()) return Refuse("given other disks");
  schema::Attachment* const found =
      schema::FindAttachment(&document_, absl::StrCat(slot.controller), absl::StrCat(slot.lun));
  if (found == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("VM ", row_.name, " has no disk at Scsi/", slot.controller, "/", slot.lun));
  }
  schema::Attachment& disk = *found;
  for (const auto& [name, record] : checkpoints_) {
    const bool is_part = std::any_of(
        record.disks().begin(), record.disks().end(),
        [&disk](const auto& its) { return disk.path == its.file() || disk.path == its.overlay(); });
    if (!is_part) continue;
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("the disk ", disk.path, " of VM ", row_.name, " is part of its checkpoint ",
                     name, ", so it must have that path on both hosts"),
        "vm_has_checkpoints", "Put it there, or delete the checkpoint at the source.");
  }
  disk.path = path;
  row_.document_json = schema::ToJson(document_);
  return absl::OkStatus();
}

void UtilityVm::DropAttachedDisks() {
  auto& scsi = document_.virtual_machine.devices.scsi;
  const auto controller = scsi.find(kDiskController);
  if (controller == scsi.end()) return;
  std::erase_if(controller->second.attachments, [this](const auto& attachment) {
    return !OwnDiskAt(spec_, attachment.first).has_value();
  });
  if (controller->second.attachments.empty()) scsi.erase(controller);
  row_.document_json = schema::ToJson(document_);
}

}  // namespace ferry::vm
