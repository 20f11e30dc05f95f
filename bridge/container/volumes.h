#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/container/name_files.h"
#include "bridge/container/user_files.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// Disks, layers and shared folders of the guest. All calls have deadlines of their own, because a
// disk may hang; what is late may still be done after its call has failed. A late mount can be
// removed as if it were there, and comes to nothing then. Removing what is not there is OK, so that
// requests can be repeated; a call about a disk or a path at which another one is under way is
// FAILED_PRECONDITION.
class Volumes {
 public:
  virtual ~Volumes() = default;

  // Returns once the kernel has the disk, whose hot-plug may still be under way. DEADLINE_EXCEEDED,
  // or NOT_FOUND if there is no such controller.
  virtual Task<absl::Status> AwaitDisk(ScsiDevice device) = 0;

  // Mounts a disk that is there.
  virtual Task<absl::Status> MountDisk(MappedVirtualDisk disk) = 0;
  virtual Task<absl::Status> CombineLayers(CombinedLayers layers) = 0;

  // Mounts a folder that the host shares.
  virtual Task<absl::Status> MountDirectory(MappedDirectory directory) = 0;

  // Undoes one of the three. FAILED_PRECONDITION if what is mounted there is somebody else's.
  virtual Task<absl::Status> Unmount(std::string path) = 0;

  // Its disk has become larger, and its filesystem takes all of it. NOT_FOUND if it is not mounted.
  virtual Task<absl::Status> GrowDisk(MappedVirtualDisk disk) = 0;

  // Lets go of a disk that nothing has mounted, so that it can be unplugged.
  virtual Task<absl::Status> RemoveDevice(ScsiDevice device) = 0;

  // Makes the bundle's folder, with these files in it, by name: config.json, and kNameFiles.
  using BundleFiles = std::map<std::string, std::string>;
  virtual absl::Status WriteBundle(const std::string& bundle, const BundleFiles& files) = 0;

  // Has one of these files, which is mounted by now, say `to` in place of `from`.
  // FAILED_PRECONDITION if it says something else already, which is then its container's affair.
  virtual absl::Status RewriteBundleFile(const std::string& bundle, const std::string& name,
                                         const std::string& from, const std::string& to) = 0;

  // Takes back what WriteBundle() did, and nothing else.
  virtual void DiscardBundle(const std::string& bundle) = 0;

  // Removes a bundle, after undoing what was mounted inside it.
  virtual Task<absl::Status> RemoveBundle(std::string bundle) = 0;

  // What ReadUserFilesIn() reads.
  virtual Task<absl::StatusOr<UserFiles>> ReadUserFiles(ContainerRoot root) = 0;

  // As NameFilesIn().
  virtual Task<absl::StatusOr<std::vector<std::string>>> FindNameFiles(ContainerRoot root,
                                                                       bool writable) = 0;
};

}  // namespace ferry::bridge
