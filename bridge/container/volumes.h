#pragma once

#include <string>

#include "absl/status/status.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// Disks and layers of the guest. Removing what is not there is OK, so that requests can be
// repeated.
class Volumes {
 public:
  virtual ~Volumes() = default;

  // Returns once the kernel has the disk, whose hot-plug may still be under way. DEADLINE_EXCEEDED,
  // or NOT_FOUND if there is no such controller.
  virtual Task<absl::Status> AwaitDisk(ScsiDevice device) = 0;

  // Mounts a disk that is there; may run a helper program, so call it inside a ChildGate.
  virtual Task<absl::Status> MountDisk(MappedVirtualDisk disk) = 0;
  virtual absl::Status CombineLayers(const CombinedLayers& layers) = 0;

  virtual absl::Status Unmount(const std::string& path) = 0;

  // Lets go of a disk that nothing has mounted, so that it can be unplugged.
  virtual absl::Status RemoveDevice(const ScsiDevice& device) = 0;

  // Writes the bundle's config.json, and makes the folder.
  virtual absl::Status WriteBundle(const std::string& bundle, const std::string& config) = 0;

  // Removes a bundle, after unmounting what is mounted inside it.
  virtual absl::Status RemoveBundle(const std::string& bundle) = 0;
};

}  // namespace ferry::bridge
