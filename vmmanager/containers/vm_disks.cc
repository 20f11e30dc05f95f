#include "vmmanager/containers/vm_disks.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

bridge::MappedVirtualDisk Mapped(const ContainerDisk& disk) {
  bridge::MappedVirtualDisk mapped;
  mapped.mount_path = disk.mount_path();
  mapped.controller = disk.controller();
  mapped.lun = disk.lun();
  return mapped;
}

}  // namespace

ContainerDisk DiskAt(DiskSlot slot, const std::string& mount_path) {
  ContainerDisk disk;
  disk.set_controller(slot.controller);
  disk.set_lun(slot.lun);
  disk.set_mount_path(mount_path);
  if (mount_path.empty()) {
    disk.set_mount_path(absl::StrCat(kLayerRoot, "/", slot.controller, "-", slot.lun));
  }
  return disk;
}

Task<absl::StatusOr<ContainerDisk>> BringDisk(ContainerMachine& machine, DiskToBring disk) {
  schema::Attachment attachment;
  attachment.path = disk.file;
  attachment.read_only = disk.read_only;
  attachment.name = disk.name;
  attachment.format = disk.format;
  CO_ASSIGN_OR_RETURN(const DiskSlot slot, co_await machine.AttachDisk(std::move(attachment)));
  const ContainerDisk brought = DiskAt(slot, disk.mount_path);
  bridge::MappedVirtualDisk mapped = Mapped(brought);
  mapped.read_only = disk.read_only;
  mapped.ensure_filesystem = disk.ensure_filesystem;
  mapped.filesystem = disk.filesystem;
  const absl::Status mounted = co_await machine.MountDisk(std::move(mapped));
  if (mounted.ok()) co_return brought;
  const absl::Status taken = co_await TakeDisk(machine, brought);
  if (!taken.ok()) spdlog::warn("disk {} stays in its VM: {}", disk.file, taken.ToString());
  co_return mounted;
}

Task<absl::Status> TakeDisk(ContainerMachine& machine, ContainerDisk disk) {
  CO_RETURN_IF_ERROR(co_await machine.UnmountDisk(Mapped(disk)));
  const bridge::ScsiDevice device{disk.controller(), disk.lun()};
  CO_RETURN_IF_ERROR(co_await machine.EjectDisk(device));
  const DiskSlot slot{disk.controller(), disk.lun()};
  const absl::Status detached = co_await machine.DetachDisk(slot);
  co_return absl::IsNotFound(detached) ? absl::OkStatus() : detached;
}

void VmLayers::Look() {
  if (boot_ == machine_.boot()) return;
  boot_ = machine_.boot();
  layers_.clear();
}

Task<absl::StatusOr<ContainerDisk>> VmLayers::Acquire(std::string digest, std::string file) {
  const AsyncMutex::Guard turn = co_await turn_.Lock();
  Look();
  if (const auto found = layers_.find(digest); found != layers_.end()) {
    ++found->second.users;
    co_return found->second.disk;
  }
  DiskToBring layer;
  layer.name = absl::StrCat("layer-", digest.substr(digest.find(':') + 1, 16));
  layer.file = std::move(file);
  layer.format = "raw";
  layer.read_only = true;
  layer.filesystem = "erofs";
  CO_ASSIGN_OR_RETURN(const ContainerDisk disk, co_await BringDisk(machine_, std::move(layer)));
  layers_[digest] = {disk, 1};
  co_return disk;
}

Task<absl::Status> VmLayers::Release(std::string digest) {
  const AsyncMutex::Guard turn = co_await turn_.Lock();
  Look();
  const auto found = layers_.find(digest);
  if (found == layers_.end()) co_return absl::OkStatus();
  if (found->second.users > 0) --found->second.users;
  if (found->second.users > 0) co_return absl::OkStatus();
  // One that cannot be taken out stays for whoever wants it next.
  const ContainerDisk disk = found->second.disk;
  const absl::Status taken = co_await TakeDisk(machine_, disk);
  if (taken.ok()) layers_.erase(digest);
  co_return taken;
}

void VmLayers::TakeUp(const std::string& digest, const ContainerDisk& disk) {
  Look();
  Layer& layer = layers_[digest];
  layer.disk = disk;
  ++layer.users;
}

}  // namespace ferry::vm
