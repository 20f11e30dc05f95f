// The disks of UtilityVm's own, which come and go at any time and stay with it.
#include <spdlog/spdlog.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/snapshot_plan.h"
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

Task<absl::Status> UtilityVm::WriteOwnDisks() {
  CO_RETURN_IF_ERROR(WriteSpec(spec_, &row_.spec_json));
  co_return co_await PersistDisks();
}

void UtilityVm::DropOwnDisk(const std::string& name, const std::string& lun) {
  if (const auto index = OwnDiskNamed(spec_, name)) RemoveOwnDisk(&spec_, *index);
  auto& scsi = document_.virtual_machine.devices.scsi;
  const auto controller = scsi.find(kDiskController);
  if (controller == scsi.end()) return;
  controller->second.attachments.erase(lun);
  if (controller->second.attachments.empty()) scsi.erase(controller);
}

absl::Status UtilityVm::CheckFileIsNew(const std::string& file) const {
  for (const auto& [name, its] : DisksByName(document_)) {
    if (its.disk.path != file) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("VM ", row_.name, " has ", file, " already, as disk ", name));
  }
  return absl::OkStatus();
}

Task<absl::Status> UtilityVm::AttachOwnDisk(v1::DiskSpec disk) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckOwnDisksMayChange("given a disk"));
  CO_RETURN_IF_ERROR(CheckFileIsNew(disk.file()));
  if (!disk.has_lun()) {
    CO_ASSIGN_OR_RETURN(const uint32_t free, FreeLun());
    disk.set_lun(free);
  }
  v1::VmSpec wanted = spec_;
  *wanted.add_disks() = disk;
  CO_ASSIGN_OR_RETURN(wanted, CompleteSpec(wanted));
  disk = wanted.disks(wanted.disks_size() - 1);
  const std::string lun = absl::StrCat(disk.lun());
  auto& attachments = document_.virtual_machine.devices.scsi[kDiskController].attachments;
  if (attachments.contains(lun)) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("VM ", row_.name, " has another disk at LUN ", lun, "; leave lun out"));
  }
  attachments[lun] = AttachmentFor(disk);
  AddOwnDisk(&spec_, disk);
  // Known before it is there: a daemon that finds the VM again must know of every disk.
  absl::Status added = co_await WriteOwnDisks();
  Reached("DISK.recorded");
  std::shared_ptr<ComputeSystem> system = system_;
  if (added.ok() && system != nullptr) {
    schema::ModifySettingRequest request = RequestFor(lun, "Add");
    request.settings_json = schema::ToJson(AttachmentFor(disk));
    added = co_await system->Modify(request);
    Reached("DISK.plugged");
    if (GotNoAnswer(added) && system_ != nullptr) co_return MayHaveCome(disk.name(), added);
    // A VM that has ended meanwhile has it at its next boot.
    if (system_ == nullptr) added = absl::OkStatus();
  }
  if (added.ok()) co_return added;
  DropOwnDisk(disk.name(), lun);
  const absl::Status undone = co_await WriteOwnDisks();
  if (!undone.ok()) {
    spdlog::error("vm {}: {}", row_.name, undone.ToString());
    PersistSoon();
  }
  co_return added;
}

absl::Status UtilityVm::MayHaveCome(const std::string& disk, const absl::Status& silence) const {
  return rpc::ErrorWithReason(
      silence.code(),
      absl::StrCat("the VMM of VM ", row_.name, " does not say whether it has disk ", disk,
                   " now: ", silence.message()),
      "disk_in_doubt",
      absl::StrCat("Once it answers, detach it and try again: ferryctl disk detach ", row_.name,
                   " ", disk));
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
    Reached("DISK.unplugged");
    if (!removed.ok() && !absl::IsNotFound(removed) && system_ != nullptr) co_return removed;
  }
  DropOwnDisk(name, lun);
  const absl::Status written = co_await WriteOwnDisks();
  if (written.ok()) co_return written;
  // Whatever is written down of the VM next says it, too.
  PersistSoon();
  co_return absl::Status(written.code(),
                         absl::StrCat("disk ", name, " is detached, and that is not written down ",
                                      "yet: ", written.message()));
}

Task<void> UtilityVm::SettleOwnDisks() {
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr || spec_.disks().empty()) co_return;
  const auto present = co_await system->ListDisks();
  if (!present.ok()) spdlog::warn("vm {}: {}", row_.name, present.status().ToString());
  if (!present.ok() || system_ != system) co_return;
  std::vector<std::pair<std::string, std::string>> gone;
  for (int i = 0; i < spec_.disks_size(); ++i) {
    const std::string lun = absl::StrCat(LunOf(spec_, i));
    if (!present->contains({kDiskController, lun})) gone.emplace_back(spec_.disks(i).name(), lun);
  }
  for (const auto& [name, lun] : gone) {
    spdlog::warn("vm {}: disk {} was on its way when ferryd ended, and is not attached", row_.name,
                 name);
    // What is left of it there must go, too.
    const schema::ModifySettingRequest request = RequestFor(lun, "Remove");
    const absl::Status removed = co_await system->Modify(request);
    if (!removed.ok()) spdlog::warn("vm {}: {}", row_.name, removed.ToString());
    // Where it could not be, it is still to be detached.
    const bool stays = !removed.ok() && !absl::IsNotFound(removed) && system_ == system;
    if (!stays) DropOwnDisk(name, lun);
  }
  if (gone.empty()) co_return;
  const absl::Status written = co_await WriteOwnDisks();
  if (!written.ok()) spdlog::error("vm {}: {}", row_.name, written.ToString());
}

Task<absl::StatusOr<bool>> UtilityVm::CheckGrows(std::string name, std::string file,
                                                 std::string format, uint64_t bytes) const {
  if (deps_.overlays == nullptr) co_return absl::UnimplementedError("there is no qemu-img here");
  CO_ASSIGN_OR_RETURN(const DiskImage now,
                      co_await deps_.overlays->Examine(std::move(file), std::move(format)));
  if (now.bytes <= bytes) co_return now.bytes < bytes;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("disk ", name, " of VM ", row_.name, " has ", now.bytes,
                   " bytes already, and is not made smaller: what is at its end would be lost"),
      "disk_is_larger", "Give a larger size.");
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
  CO_ASSIGN_OR_RETURN(const bool grows,
                      co_await CheckGrows(name, disk.file(), disk.format(), bytes));
  if (!grows) co_return absl::OkStatus();
  std::shared_ptr<ComputeSystem> system = system_;
  if (system != nullptr) co_return co_await system->ResizeDisk(place, bytes);
  co_return co_await deps_.overlays->Resize(disk.file(), disk.format(), bytes);
}

}  // namespace ferry::vm
