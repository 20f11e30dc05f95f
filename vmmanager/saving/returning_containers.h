#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "vmmanager/containers/container_inventory.h"

namespace ferry::vm {

// The containers of VMs that go into a file or a snapshot, and come back. Thread: the executor's
// only.
class ReturningContainers {
 public:
  using Records = std::vector<state::v1::ContainerRecord>;

  // Must outlive it; where it is nullptr no VM has any.
  explicit ReturningContainers(ContainerInventory* containers) : containers_(containers) {}

  // FAILED_PRECONDITION, with what to do, while one of them is being made or removed, or cannot be
  // read. `refusal` is what cannot be then, e.g. "VM web cannot be saved".
  absl::Status CheckRest(const UtilityVm& vm, const std::string& refusal) const;
  Records Of(const UtilityVm& vm) const;
  // FAILED_PRECONDITION "vm_goes_with_container", with what to do, if the VM was made for one that
  // is removed when it stops: once the VM stops it is deleted with all that was kept of it.
  absl::Status CheckVmOutlivesThem(const UtilityVm& vm) const;

  // FAILED_PRECONDITION unless those of then are those that there are, and this host has what they
  // are made of.
  absl::Status CheckSame(const UtilityVm& vm, const Records& then) const;
  // Their layers are where this host has them: the host that they were on then may be another.
  void PlaceLayers(const Records& then, schema::ComputeSystem* document) const;

  // They go on as they were then. What they were before is added to `former`, unless that is
  // nullptr; it must outlive the task.
  Task<absl::Status> GoOnAs(std::string vm_id, Records then, Records* former);
  Task<void> PutBack(std::string vm_id, Records former);
  // Whatever the VM is now, they are.
  Task<void> TakeUp(std::string vm_id);

 private:
  std::vector<std::shared_ptr<VmContainer>> In(const std::string& vm_id) const;

  ContainerInventory* const containers_;
};

}  // namespace ferry::vm
