#pragma once

#include <map>
#include <string>
#include <vector>

#include "bridge/container/volumes.h"

namespace ferry::bridge {

// Notes what it is asked for; nothing is mounted, and bundles are texts.
class FakeVolumes : public Volumes {
 public:
  Task<absl::Status> AwaitDisk(ScsiDevice device) override;
  Task<absl::Status> MountDisk(MappedVirtualDisk disk) override;
  Task<absl::Status> CombineLayers(CombinedLayers layers) override;
  Task<absl::Status> MountDirectory(MappedDirectory directory) override;
  Task<absl::Status> Unmount(std::string path) override;
  Task<absl::Status> GrowDisk(MappedVirtualDisk disk) override;
  Task<absl::Status> RemoveDevice(ScsiDevice device) override;
  absl::Status WriteBundle(const std::string& bundle, const BundleFiles& files) override;
  absl::Status RewriteBundleFile(const std::string& bundle, const std::string& name,
                                 const std::string& from, const std::string& to) override;
  void DiscardBundle(const std::string& bundle) override;
  Task<absl::Status> RemoveBundle(std::string bundle) override;
  Task<absl::StatusOr<UserFiles>> ReadUserFiles(ContainerRoot root) override;
  Task<absl::StatusOr<std::vector<std::string>>> FindNameFiles(ContainerRoot root,
                                                               bool writable) override;

  std::vector<std::string> calls;
  std::map<std::string, std::string> bundles;       // path to config.json
  std::map<std::string, BundleFiles> bundle_files;  // path to all of them
  std::vector<std::string> name_files;              // for which every root has a place
  UserFiles user_files;                             // every container's
  absl::Status disk_status;                         // what AwaitDisk() says
};

}  // namespace ferry::bridge
