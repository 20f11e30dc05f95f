#include "bridge/container/fake_volumes.h"

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

Task<absl::Status> FakeVolumes::AwaitDisk(ScsiDevice device) {
  calls.push_back(absl::StrCat("await ", device.controller, ":", device.lun));
  co_return disk_status;
}

Task<absl::Status> FakeVolumes::MountDisk(MappedVirtualDisk disk) {
  calls.push_back(absl::StrCat("mount ", disk.controller, ":", disk.lun, " ", disk.mount_path));
  co_return absl::OkStatus();
}

absl::Status FakeVolumes::CombineLayers(const CombinedLayers& layers) {
  calls.push_back(absl::StrCat("combine ", layers.layers.size(), " ", layers.container_root_path));
  return absl::OkStatus();
}

absl::Status FakeVolumes::Unmount(const std::string& path) {
  calls.push_back(absl::StrCat("unmount ", path));
  return absl::OkStatus();
}

absl::Status FakeVolumes::RemoveDevice(const ScsiDevice& device) {
  calls.push_back(absl::StrCat("remove ", device.controller, ":", device.lun));
  return absl::OkStatus();
}

absl::Status FakeVolumes::WriteBundle(const std::string& bundle, const std::string& config) {
  bundles[bundle] = config;
  return absl::OkStatus();
}

absl::Status FakeVolumes::RemoveBundle(const std::string& bundle) {
  bundles.erase(bundle);
  return absl::OkStatus();
}

}  // namespace ferry::bridge
