#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/container.pb.h"
#include "vmmanager/containers/container_machine.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// What a container sees of a folder that its VM shares with the host.
struct SharedMount {
  std::string share;  // its number
  bool share_is_read_only = false;
  std::string source;  // in the guest
  std::string path;    // in the container
  bool read_only = false;
};

// Where the guest has the share of that number.
std::string SharePlace(const std::string& number);

// INVALID_ARGUMENT for mounts that no container could have.
absl::Status CheckMounts(const v1::ContainerSpec& spec);

// The mount in a VM with these shares, of which `folder` is the real path on the host. The
// innermost share that allows it counts. FAILED_PRECONDITION "folder_not_shared" or
// "share_read_only", with the shares that there are.
absl::StatusOr<SharedMount> FindShare(const v1::ContainerMount& mount, const std::string& folder,
                                      const std::map<std::string, schema::SharedFolder>& shares);

// The mounts of a container in that VM, with the folders as they are on the host now.
// FAILED_PRECONDITION "vm_may_move" if the VM is not one that stays.
// `reads` must outlive the task.
Task<absl::StatusOr<std::vector<SharedMount>>> FindMounts(std::shared_ptr<UtilityVm> vm,
                                                          v1::ContainerSpec spec, FileReads* reads);

// The shared folders in one VM, each of which is mounted in its guest when it is first needed, and
// then stays. Thread: the executor's only.
class VmShares {
 public:
  VmShares(Executor executor, ContainerMachine& machine)
      : machine_(machine), turn_(std::move(executor)) {}

  Task<absl::Status> Bring(std::vector<SharedMount> mounts);

 private:
  ContainerMachine& machine_;
  AsyncMutex turn_;
};

}  // namespace ferry::vm
