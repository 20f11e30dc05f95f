#include "vmmanager/containers/vm_disks.h"

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

Task<absl::StatusOr<ContainerDisk>> PlugDisk(ContainerMachine& machine, DiskToBring disk) {
  schema::Attachment attachment;
  attachment.path = disk.file;
  attachment.read_only = disk.read_only;
  attachment.name = disk.name;
  attachment.format = disk.format;
  CO_ASSIGN_OR_RETURN(const DiskSlot slot, co_await machine.AttachDisk(std::move(attachment)));
  co_return DiskAt(slot, disk.mount_path);
}

Task<absl::Status> MountDisk(ContainerMachine& machine, ContainerDisk place, DiskToBring disk) {
  bridge::MappedVirtualDisk mapped = Mapped(place);
  mapped.read_only = disk.read_only;
  mapped.ensure_filesystem = disk.ensure_filesystem;
  mapped.filesystem = disk.filesystem;
  co_return co_await machine.MountDisk(std::move(mapped));
}

Task<absl::Status> GrowDisk(ContainerMachine& machine, ContainerDisk disk, uint64_t bytes) {
  const DiskSlot slot{disk.controller(), disk.lun()};
  CO_RETURN_IF_ERROR(co_await machine.ResizeDisk(slot, bytes));
  const absl::Status grown = co_await machine.GrowDisk(Mapped(disk));
  if (!absl::IsInvalidArgument(grown)) co_return grown;
  co_return absl::UnimplementedError(
      "the disk is larger now, but the agent of this VM's guest image is too old to enlarge the "
      "file system on it");
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

Task<absl::StatusOr<ContainerDisk>> VmLayers::Acquire(std::string digest, std::string file,
                                                      std::string container_id) {
  const AsyncMutex::Guard turn = co_await turn_.Lock();
  Look();
  if (const auto found = layers_.find(digest); found != layers_.end() && found->second.whole) {
    found->second.users.insert(container_id);
    co_return found->second.disk;
  }
  // Nobody knows how far it is in or out, so it comes anew.
  CO_RETURN_IF_ERROR(co_await TakeAway(digest));
  DiskToBring layer;
  layer.name = absl::StrCat("layer-", digest.substr(digest.find(':') + 1, 16));
  layer.file = std::move(file);
  layer.format = "raw";
  layer.read_only = true;
  layer.filesystem = "erofs";
  CO_ASSIGN_OR_RETURN(const ContainerDisk disk, co_await PlugDisk(machine_, layer));
  layers_[digest] = {disk, {container_id}, false};
  CO_RETURN_IF_ERROR(co_await MountDisk(machine_, disk, std::move(layer)));
  // Unless the VM ended, and with it the layer.
  if (const auto found = layers_.find(digest); found != layers_.end()) found->second.whole = true;
  co_return disk;
}

Task<absl::Status> VmLayers::Release(std::string digest, std::string container_id) {
  const AsyncMutex::Guard turn = co_await turn_.Lock();
  Look();
  const auto found = layers_.find(digest);
  if (found == layers_.end()) co_return absl::OkStatus();
  found->second.users.erase(container_id);
  if (!found->second.users.empty()) co_return absl::OkStatus();
  co_return co_await TakeAway(digest);
}

Task<absl::Status> VmLayers::TakeAway(std::string digest) {
  const auto found = layers_.find(digest);
  if (found == layers_.end()) co_return absl::OkStatus();
  found->second.whole = false;
  const ContainerDisk disk = found->second.disk;
  CO_RETURN_IF_ERROR(co_await TakeDisk(machine_, disk));
  layers_.erase(digest);
  co_return absl::OkStatus();
}

void VmLayers::TakeUp(const std::string& digest, const ContainerDisk& disk,
                      const std::string& container_id, bool whole) {
  Look();
  Layer& layer = layers_[digest];
  layer.disk = disk;
  layer.users.insert(container_id);
  layer.whole = layer.whole || whole;
}

}  // namespace ferry::vm
