#include <sys/sysinfo.h>

#include "absl/strings/str_cat.h"
#include "bridge/container/oci_spec.h"
#include "bridge/guest/container_host.h"
#include "bridge/runtime/status_macros.h"

// ContainerHost's answers to ModifySettings.
namespace ferry::bridge {
namespace {

// What the agent and the kernel keep when the pods' limit is theirs to choose.
constexpr uint64_t kReserve = 48ull << 20;

absl::Status NotPossible(const ModifySettingsRequest& request) {
  return absl::InvalidArgumentError(
      absl::StrCat("cannot ", request.request_type, " a resource '", request.resource_type, "'"));
}

uint64_t SpareMemory() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) return 0;
  const uint64_t all = static_cast<uint64_t>(info.totalram) * info.mem_unit;
  return all > 2 * kReserve ? all - kReserve : all / 2;
}

}  // namespace

Task<absl::Status> ContainerHost::Modify(std::string id, ModifySettingsRequest request) {
  if (id.empty()) co_return co_await ModifyVm(std::move(request));
  if (request.resource_type != kResourceContainerConstraints || request.request_type != "Update") {
    co_return NotPossible(request);
  }
  CO_ASSIGN_OR_RETURN(ContainerConstraints constraints,
                      Decode<ContainerConstraints>(request.settings));
  co_return co_await Constrain(std::move(id), std::move(constraints));
}

Task<absl::Status> ContainerHost::ModifyVm(ModifySettingsRequest request) {
  const std::string& type = request.resource_type;
  const bool add = request.request_type == "Add";
  const bool remove = request.request_type == "Remove";
  const bool update = request.request_type == "Update";
  if (type == kResourceMappedVirtualDisk && (add || remove || update)) {
    CO_ASSIGN_OR_RETURN(MappedVirtualDisk disk, Decode<MappedVirtualDisk>(request.settings));
    if (remove) co_return co_await parts_.volumes->Unmount(disk.mount_path);
    if (update) co_return co_await parts_.volumes->GrowDisk(std::move(disk));
    co_return co_await MountDisk(std::move(disk));
  }
  if (type == kResourceMappedDirectory && (add || remove)) {
    CO_ASSIGN_OR_RETURN(MappedDirectory directory, Decode<MappedDirectory>(request.settings));
    if (remove) co_return co_await parts_.volumes->Unmount(directory.mount_path);
    co_return co_await parts_.volumes->MountDirectory(std::move(directory));
  }
  if (type == kResourceCombinedLayers && (add || remove)) {
    CO_ASSIGN_OR_RETURN(CombinedLayers layers, Decode<CombinedLayers>(request.settings));
    if (remove) co_return co_await parts_.volumes->Unmount(layers.container_root_path);
    co_return co_await parts_.volumes->CombineLayers(std::move(layers));
  }
  if (type == kResourceScsiDevice && remove) {
    CO_ASSIGN_OR_RETURN(const ScsiDevice device, Decode<ScsiDevice>(request.settings));
    co_return co_await parts_.volumes->RemoveDevice(device);
  }
  // hcsshim's hosts say nothing, which is Add, where they mean Update.
  if (type == kResourcePodCgroupMemoryLimit && (add || update)) {
    CO_ASSIGN_OR_RETURN(const PodCgroupMemoryLimit limit,
                        Decode<PodCgroupMemoryLimit>(request.settings));
    co_return LimitPods(limit);
  }
  co_return NotPossible(request);
}

Task<absl::Status> ContainerHost::MountDisk(MappedVirtualDisk disk) {
  const ScsiDevice device{disk.controller, disk.lun};
  CO_RETURN_IF_ERROR(co_await parts_.volumes->AwaitDisk(device));
  co_return co_await parts_.volumes->MountDisk(std::move(disk));
}

Task<absl::Status> ContainerHost::Constrain(std::string id, ContainerConstraints constraints) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<Container> container, Find(id));
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await TakeTurn(container));
  if (container->state == ContainerState::kStopped) {
    co_return absl::FailedPreconditionError(absl::StrCat("container ", id, " has stopped"));
  }
  co_return co_await parts_.runtime->Update(id, constraints.linux_resources);
}

absl::Status ContainerHost::LimitPods(const PodCgroupMemoryLimit& limit) const {
  const uint64_t bytes =
      limit.memory_limit_in_bytes == 0 ? SpareMemory() : limit.memory_limit_in_bytes;
  return cgroups_.LimitMemory(kContainersCgroup, bytes);
}

}  // namespace ferry::bridge
