// The disks of UtilityVm's own, which come and go at any time and stay with it.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {
namespace {

schema::ModifySettingRequest RequestFor(const std::string& lun, const std::string& type) {
  schema::ModifySettingRequest request;
  request.resource_path = DiskResource(lun);
  request.request_type = type;
  return request;
}

}  // namespace

absl::Status UtilityVm::CheckOwnDisksMayChange(const std::string& operation) const {
  const std::string why = "those are of the disks as they are";
  RETURN_IF_ERROR(CheckHere());
  RETURN_IF_ERROR(RefuseIfMigrating(operation));
  RETURN_IF_ERROR(CheckArrived(operation));
  RETURN_IF_ERROR(CheckCheckpointsRest(operation));
  RETURN_IF_ERROR(CheckHasNoCheckpoints(operation, why));
  RETURN_IF_ERROR(CheckHasNoSnapshots(operation, why));
  const bool stands = phase_ == Phase::kStopped || phase_ == Phase::kFailed;
  if (in_file() || (phase_ != Phase::kUp && !stands)) return Refuse(operation);
  return stands && system_ != nullptr ? VmmHasNotEnded() : absl::OkStatus();
}

absl::StatusOr<int> UtilityVm::FindOwnDisk(const std::string& name) const {
  if (const auto found = OwnDiskNamed(spec_, name)) return *found;
  return rpc::ErrorWithReason(
      absl::StatusCode::kNotFound,
      absl::StrCat("VM ", row_.name, " has no disk of its own named \"", name, "\""),
      "no_such_disk", absl::StrCat("See which it has: ferryctl disk list ", row_.name));
}

Task<absl::Status> UtilityVm::WriteOwnDisks(v1::VmSpec spec, schema::ComputeSystem document) {
  const v1::VmSpec spec_before = std::exchange(spec_, std::move(spec));
  const schema::ComputeSystem before = std::exchange(document_, std::move(document));
  absl::Status written = WriteSpec(spec_, &row_.spec_json);
  if (written.ok()) written = co_await PersistDisks();
  if (written.ok()) co_return written;
  spec_ = spec_before;
  document_ = before;
  (void)WriteSpec(spec_, &row_.spec_json);
  row_.document_json = schema::ToJson(document_);
  co_return written;
}

Task<absl::Status> UtilityVm::AttachOwnDisk(v1::DiskSpec disk) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckOwnDisksMayChange("given a disk"));
  if (!disk.has_lun()) {
    CO_ASSIGN_OR_RETURN(const uint32_t free, FreeLun());
    disk.set_lun(free);
  }
  v1::VmSpec spec = spec_;
  FixLuns(&spec);
  *spec.add_disks() = disk;
  CO_ASSIGN_OR_RETURN(spec, CompleteSpec(spec));
  const std::string lun = absl::StrCat(disk.lun());
  schema::ComputeSystem document = document_;
  auto& attachments = document.virtual_machine.devices.scsi[kDiskController].attachments;
  if (attachments.contains(lun)) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("VM ", row_.name, " has another disk at LUN ", lun, "; leave lun out"));
  }
  const schema::Attachment attachment = AttachmentFor(spec.disks(spec.disks_size() - 1));
  attachments[lun] = attachment;
  const v1::VmSpec spec_before = spec_;
  const schema::ComputeSystem before = document_;
  // Known before it is there: a daemon that finds the VM again must know of every disk.
  CO_RETURN_IF_ERROR(co_await WriteOwnDisks(std::move(spec), std::move(document)));
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return absl::OkStatus();
  schema::ModifySettingRequest request = RequestFor(lun, "Add");
  request.settings_json = schema::ToJson(attachment);
  const absl::Status added = co_await system->Modify(request);
  // A VM that has ended meanwhile has it at its next boot.
  if (added.ok() || system_ == nullptr) co_return absl::OkStatus();
  const absl::Status undone = co_await WriteOwnDisks(spec_before, before);
  if (!undone.ok()) spdlog::error("vm {}: {}", row_.name, undone.ToString());
  co_return added;
}

Task<absl::Status> UtilityVm::DetachOwnDisk(std::string name) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckOwnDisksMayChange("relieved of a disk"));
  CO_ASSIGN_OR_RETURN(const int index, FindOwnDisk(name));
  const std::string lun = absl::StrCat(LunOf(spec_, index));
  if (std::shared_ptr<ComputeSystem> system = system_) {
    const schema::ModifySettingRequest request = RequestFor(lun, "Remove");
    const absl::Status removed = co_await system->Modify(request);
    // One that the machine does not have was on its way when a daemon died.
    if (!removed.ok() && !absl::IsNotFound(removed) && system_ != nullptr) co_return removed;
  }
  v1::VmSpec spec = spec_;
  FixLuns(&spec);
  spec.mutable_disks()->DeleteSubrange(index, 1);
  schema::ComputeSystem document = document_;
  auto& scsi = document.virtual_machine.devices.scsi;
  scsi[kDiskController].attachments.erase(lun);
  if (scsi[kDiskController].attachments.empty()) scsi.erase(kDiskController);
  co_return co_await WriteOwnDisks(std::move(spec), std::move(document));
}

Task<absl::Status> UtilityVm::ResizeOwnDisk(std::string name, uint64_t bytes) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckOwnDisksMayChange("given a larger disk"));
  CO_ASSIGN_OR_RETURN(const int index, FindOwnDisk(name));
  const v1::DiskSpec disk = spec_.disks(index);
  const DiskPlace place{kDiskController, absl::StrCat(LunOf(spec_, index))};
  if (disk.read_only()) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("disk ", name, " of VM ", row_.name, " is only read, and stays as it is"));
  }
  CO_ASSIGN_OR_RETURN(const DiskImage now,
                      co_await deps_.overlays->Examine(disk.file(), disk.format()));
  if (now.bytes == bytes) co_return absl::OkStatus();
  if (now.bytes > bytes) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("disk ", name, " of VM ", row_.name, " has ", now.bytes,
                     " bytes already, and is not made smaller: what is at its end would be lost"),
        "disk_is_larger", "Give a larger size.");
  }
  std::shared_ptr<ComputeSystem> system = system_;
  if (system != nullptr) co_return co_await system->ResizeDisk(place, bytes);
  co_return co_await deps_.overlays->Resize(disk.file(), disk.format(), bytes);
}

}  // namespace ferry::vm
