#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saving/kept_files.h"
#include "vmmanager/saving/memory_pump.h"
#include "vmmanager/saving/returning_containers.h"
#include "vmmanager/saving/vm_sealing.h"

namespace ferry::vm {

struct SavedStatesOptions {
  std::string folder;         // the host's own saved states, a folder for each VM
  std::string state_folder;   // where all is that is ferryd's own
  std::string socket_folder;  // for private sockets between us and a VMM
  std::optional<std::pair<uid_t, gid_t>> vmm_owner;  // whom a VMM runs as; nullopt: as we do
  bool save_on_stop = false;                         // of VMs that do not say
  JobRegistry* jobs = nullptr;                       // where saves and restores are jobs, if at all
};

// Stops VMs into files and starts them from there: what `stop`, `save`, `start` and `delete` mean
// for a VM with its containers. Thread: the executor's only.
class SavedStates {
 public:
  using Vm = std::shared_ptr<UtilityVm>;
  // What whoever asked should know of how it went, a sentence each.
  using Warnings = std::vector<std::string>;

  // All must outlive it; `containers` may be nullptr, where there are none.
  SavedStates(VmInventory& vms, ContainerInventory* containers, ImageDigests& digests,
              SavedStatesOptions options);

  // Whether a VM can be saved as it is: FAILED_PRECONDITION with what to do. Asked before anything
  // stands still.
  absl::Status CheckSavable(const UtilityVm& vm, bool live) const;

  Task<absl::Status> Save(Vm vm, v1::SaveVmRequest request);
  Task<absl::StatusOr<Warnings>> Stop(Vm vm, v1::StopVmRequest request, milliseconds timeout);
  // FAILED_PRECONDITION or DATA_LOSS "restore_refused" if what was saved cannot go on here; it is
  // kept, and named. The memory of a checkpoint can as long as nothing was written over its disks.
  Task<absl::StatusOr<Warnings>> Start(Vm vm, v1::StartVmRequest request);
  Task<absl::Status> Delete(Vm vm, bool discard_saved);
  // Is told of each VM that was deleted, by its id.
  void set_on_deleted(std::function<void(const std::string&)> told) {
    on_deleted_ = std::move(told);
  }

  // For who makes a VM that is saved from its first moment: its file is one of these.
  KeptFiles& files() { return files_; }

  // The size of the machine with which the VM could go on from that file, if it did not run. Reads
  // it to its end, which the job tells of and may be cancelled in: CANCELLED then.
  Task<absl::StatusOr<schema::Topology>> CheckCanGoOn(Vm vm, state::v1::SavedRecord record,
                                                      std::shared_ptr<Job> job);

  // Whether stopping it so saves it.
  bool SavesOnStop(const UtilityVm& vm, const v1::StopVmRequest& request) const;

  // Removes what no VM goes on from: a former daemon did not come to that. What may have run, and
  // has ended since, is put aside.
  Task<void> Sweep();

 private:
  struct Source;  // a file that a VM is to go on from

  // Memory would be too old for disks that its VM goes on writing to.
  static absl::Status CheckMayLiveOn(const UtilityVm& vm);
  absl::Status CheckContainersRest(const UtilityVm& vm) const;
  Task<absl::Status> Write(Vm vm, std::string file, bool own, v1::SaveVmRequest request,
                           std::shared_ptr<Job> job);

  Task<absl::Status> GoOn(Vm vm, std::shared_ptr<Source> source, std::shared_ptr<Job> job);
  Task<absl::Status> Read(Vm vm, std::shared_ptr<Source> source);
  Task<absl::Status> FitHere(Vm vm, std::shared_ptr<Source> source);
  Task<absl::Status> VerifyMemory(Vm vm, std::shared_ptr<Source> source, std::shared_ptr<Job> job);
  static void TakeAsCheckpoint(const UtilityVm& vm, Source* source);
  Task<absl::Status> CheckNothingIsOver(Vm vm, std::shared_ptr<Source> source) const;
  absl::Status CheckDisksAreIts(const UtilityVm& vm, const Source& source) const;
  absl::Status ToTell(const UtilityVm& vm, const Source& source, const absl::Status& why) const;
  Task<absl::Status> Discard(Vm vm);
  Task<std::string> PutAside(state::v1::SavedRecord record);

  VmInventory& vms_;
  ContainerInventory* const containers_;
  ReturningContainers returning_{containers_};
  ImageDigests& digests_;
  const SavedStatesOptions options_;
  VmSealing sealing_{vms_, returning_, digests_};
  KeptFiles files_;
  std::function<void(const std::string&)> on_deleted_;
};

}  // namespace ferry::vm
