#pragma once

#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/state/v1/container.pb.h"
#include "vmmanager/containers/container_machine.h"

namespace ferry::vm {

using state::v1::ContainerDisk;

// A file of the host that becomes a disk of a VM, mounted in its guest.
struct DiskToBring {
  std::string name;  // for people, and the stem of the disk's name in the machine
  std::string file;
  std::string format;  // qcow2 or raw
  bool read_only = false;
  bool ensure_filesystem = false;
  std::string filesystem;  // erofs or ext4
  std::string mount_path;  // in the guest; empty: below kLayerRoot, by the disk's place
};

// Short, for the paths of all layers must fit into one mount.
inline constexpr char kLayerRoot[] = "/run/gcs/l";
ContainerDisk DiskAt(DiskSlot slot, const std::string& mount_path);

// Attaches the disk. Where it is then has to be remembered before it is mounted, for the mount may
// fail, and taking it out again, too.
Task<absl::StatusOr<ContainerDisk>> PlugDisk(ContainerMachine& machine, DiskToBring disk);
Task<absl::Status> MountDisk(ContainerMachine& machine, ContainerDisk place, DiskToBring disk);
// Makes it larger, with its filesystem. It may be repeated.
Task<absl::Status> GrowDisk(ContainerMachine& machine, ContainerDisk disk, uint64_t bytes);
// Unmounts it and takes it out of the VM. What is done already is passed over.
Task<absl::Status> TakeDisk(ContainerMachine& machine, ContainerDisk disk);

// The layers in one VM. Each is there once, whoever uses it. Thread: the executor's only.
class VmLayers {
 public:
  VmLayers(Executor executor, ContainerMachine& machine)
      : machine_(machine), turn_(std::move(executor)) {}

  // Brings the layer, unless it is there, for a container more. If that fails the layer may be half
  // there: Release() takes back what is.
  Task<absl::StatusOr<ContainerDisk>> Acquire(std::string digest, std::string file,
                                              std::string container_id);
  // For a container less; takes a layer out that none uses any more. Does nothing if the container
  // does not use it, so that a release that failed can be repeated.
  Task<absl::Status> Release(std::string digest, std::string container_id);
  // One that a former daemon brought, for a container more. `whole` says whether it is known to be
  // mounted.
  void TakeUp(const std::string& digest, const ContainerDisk& disk, const std::string& container_id,
              bool whole);

  size_t size() const { return layers_.size(); }

 private:
  struct Layer {
    ContainerDisk disk;
    std::set<std::string> users;  // ids of containers
    bool whole = false;           // otherwise it is on its way in or out, and stuck there
  };
  Task<absl::Status> TakeAway(std::string digest);
  // The VM may have been booted anew, without them.
  void Look();

  ContainerMachine& machine_;
  AsyncMutex turn_;
  uint64_t boot_ = 0;
  std::map<std::string, Layer> layers_;  // by digest
};

}  // namespace ferry::vm
