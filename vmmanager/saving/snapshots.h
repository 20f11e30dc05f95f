#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/snapshot.pb.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saving/returning_containers.h"

namespace ferry::vm {

// Snapshots of VMs inside their disks, with the containers in the VMs. Thread: the executor's only.
class Snapshots {
 public:
  // All must outlive it; without `containers` there are none, and without `jobs` nobody is told.
  Snapshots(VmInventory& vms, ContainerInventory* containers, JobRegistry* jobs = nullptr)
      : vms_(vms), returning_(containers), jobs_(jobs) {}

  // As snapshot.proto says.
  Task<absl::StatusOr<v1::Snapshot>> Save(v1::SaveSnapshotRequest request);
  Task<absl::StatusOr<v1::Snapshot>> Load(v1::LoadSnapshotRequest request);
  Task<absl::Status> Delete(v1::DeleteSnapshotRequest request);
  Task<absl::StatusOr<std::vector<v1::Snapshot>>> List(v1::ListSnapshotsRequest request);

  const Executor& executor() const { return vms_.deps().executor; }

 private:
  using Vm = std::shared_ptr<UtilityVm>;
  using Work = std::function<Task<absl::StatusOr<v1::Snapshot>>()>;
  // `doing` and `done` tell of the tag what is done to it: "take", "took".
  Task<absl::StatusOr<v1::Snapshot>> AsJob(Vm vm, std::string doing, std::string done,
                                           std::string tag, Work work);
  Task<absl::StatusOr<v1::Snapshot>> GoBack(Vm vm, std::string tag);
  absl::StatusOr<ReturningContainers::Records> ContainersOf(const UtilityVm& vm) const;
  absl::Status CheckRest(const UtilityVm& vm) const;
  // Whether those of then are those that there are now.
  absl::Status CheckSame(const UtilityVm& vm, const state::v1::SnapshotRecord& snapshot) const;

  VmInventory& vms_;
  ReturningContainers returning_;
  JobRegistry* const jobs_;
};

}  // namespace ferry::vm
