#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/checkpoint.pb.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saving/kept_files.h"
#include "vmmanager/saving/overlay_drafts.h"
#include "vmmanager/saving/returning_containers.h"
#include "vmmanager/saving/saved_states.h"
#include "vmmanager/saving/vm_sealing.h"

namespace ferry::vm {

struct CheckpointsOptions {
  std::string folder;        // of the memory of checkpoints, a folder for each VM
  std::string state_folder;  // where all is that is ferryd's own
  JobRegistry* jobs = nullptr;
};

// Checkpoints of VMs, with the containers in them. Thread: the executor's only.
class Checkpoints {
 public:
  // All must outlive it; `containers` may be nullptr, where there are none.
  Checkpoints(VmInventory& vms, ContainerInventory* containers, SavedStates& saves,
              ImageDigests& digests, CheckpointsOptions options);

  // As checkpoint.proto says.
  Task<absl::StatusOr<v1::Checkpoint>> Create(v1::CreateCheckpointRequest request);
  Task<absl::StatusOr<v1::Checkpoint>> Revert(v1::RevertToCheckpointRequest request);
  Task<absl::Status> Delete(v1::DeleteCheckpointRequest request);
  Task<absl::StatusOr<std::vector<v1::Checkpoint>>> List(v1::ListCheckpointsRequest request);

  // Removes what no checkpoint needs and a former daemon left. Once all VMs are adopted, and before
  // anybody can ask for anything.
  Task<void> Sweep();
  // Goes on with what a former daemon did not come to the end of; that may take long.
  Task<void> Settle();

  const Executor& executor() const { return vms_.deps().executor; }

 private:
  using Vm = std::shared_ptr<UtilityVm>;
  using Record = state::v1::CheckpointRecord;

  absl::Status CheckRest(const UtilityVm& vm) const;
  Task<absl::Status> CheckFiles(v1::CreateCheckpointRequest request) const;
  Task<absl::Status> Take(Vm vm, v1::CreateCheckpointRequest request, Record record,
                          std::shared_ptr<Job> job);
  CheckpointSteps StepsWithMemory(Vm vm, const v1::CreateCheckpointRequest& request,
                                  std::shared_ptr<FileBeingSaved> writing, std::string file,
                                  std::shared_ptr<Job> job);
  Task<void> RemoveMemory(Record record);
  Task<absl::Status> GoBack(Vm vm, v1::RevertToCheckpointRequest request);
  absl::Status CheckRevertible(const UtilityVm& vm, const std::string& name) const;
  absl::StatusOr<v1::Checkpoint> Describe(const UtilityVm& vm, const std::string& name) const;

  VmInventory& vms_;
  SavedStates& saves_;
  const ReturningContainers returning_;
  const CheckpointsOptions options_;
  VmSealing sealing_;
  KeptFiles files_;
  OverlayDrafts drafts_;
};

}  // namespace ferry::vm
