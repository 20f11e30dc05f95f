#pragma once

#include <map>
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

// Attaches the disk and mounts it; if that fails nothing of it is left, as far as that goes.
Task<absl::StatusOr<ContainerDisk>> BringDisk(ContainerMachine& machine, DiskToBring disk);
// Unmounts it and takes it out of the VM. What is done already is passed over.
Task<absl::Status> TakeDisk(ContainerMachine& machine, ContainerDisk disk);

// The layers in one VM. Each is there once, whoever uses it. Thread: the executor's only.
class VmLayers {
 public:
  VmLayers(Executor executor, ContainerMachine& machine)
      : machine_(machine), turn_(std::move(executor)) {}

  // Brings the layer, unless it is there, for one more user.
  Task<absl::StatusOr<ContainerDisk>> Acquire(std::string digest, std::string file);
  // For one user less; takes a layer out that nobody uses any more.
  Task<absl::Status> Release(std::string digest);
  // One that a former daemon brought, for one more user.
  void TakeUp(const std::string& digest, const ContainerDisk& disk);

  size_t size() const { return layers_.size(); }

 private:
  struct Layer {
    ContainerDisk disk;
    size_t users = 0;
  };
  // The VM may have been booted anew, without them.
  void Look();

  ContainerMachine& machine_;
  AsyncMutex turn_;
  uint64_t boot_ = 0;
  std::map<std::string, Layer> layers_;  // by digest
};

}  // namespace ferry::vm
