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
  absl::Status CombineLayers(const CombinedLayers& layers) override;
  absl::Status Unmount(const std::string& path) override;
  absl::Status RemoveDevice(const ScsiDevice& device) override;
  absl::Status WriteBundle(const std::string& bundle, const std::string& config) override;
  absl::Status RemoveBundle(const std::string& bundle) override;

  std::vector<std::string> calls;
  std::map<std::string, std::string> bundles;  // path to config.json
  absl::Status disk_status;                    // what AwaitDisk() says
};

}  // namespace ferry::bridge
