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

Task<absl::Status> FakeVolumes::CombineLayers(CombinedLayers layers) {
  calls.push_back(absl::StrCat("combine ", layers.layers.size(), " ", layers.container_root_path));
  co_return absl::OkStatus();
}

Task<absl::Status> FakeVolumes::MountDirectory(MappedDirectory directory) {
  calls.push_back(absl::StrCat("mount ", directory.share_name, directory.read_only ? " ro " : " ",
                               directory.mount_path));
  co_return absl::OkStatus();
}

Task<absl::Status> FakeVolumes::Unmount(std::string path) {
  calls.push_back(absl::StrCat("unmount ", path));
  co_return absl::OkStatus();
}

Task<absl::Status> FakeVolumes::GrowDisk(MappedVirtualDisk disk) {
  calls.push_back(absl::StrCat("grow ", disk.mount_path));
  co_return absl::OkStatus();
}

Task<absl::Status> FakeVolumes::RemoveDevice(ScsiDevice device) {
  calls.push_back(absl::StrCat("remove ", device.controller, ":", device.lun));
  co_return absl::OkStatus();
}

absl::Status FakeVolumes::WriteBundle(const std::string& bundle, const BundleFiles& files) {
  bundles[bundle] = files.at("config.json");
  bundle_files[bundle] = files;
  return absl::OkStatus();
}

absl::Status FakeVolumes::RewriteBundleFile(const std::string& bundle, const std::string& name,
                                            const std::string& from, const std::string& to) {
  std::string& text = bundle_files[bundle][name];
  if (text != from) return absl::FailedPreconditionError("it was changed");
  text = to;
  return absl::OkStatus();
}

void FakeVolumes::DiscardBundle(const std::string& bundle) { bundles.erase(bundle); }

Task<absl::Status> FakeVolumes::RemoveBundle(std::string bundle) {
  calls.push_back(absl::StrCat("remove bundle ", bundle));
  bundles.erase(bundle);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<UserFiles>> FakeVolumes::ReadUserFiles(ContainerRoot root) {
  calls.push_back(absl::StrCat("read users ", root.path));
  co_return user_files;
}

Task<absl::StatusOr<std::vector<std::string>>> FakeVolumes::FindNameFiles(ContainerRoot root,
                                                                          bool writable) {
  calls.push_back(absl::StrCat("find names ", root.path, writable ? "" : " ro"));
  co_return name_files;
}

}  // namespace ferry::bridge
