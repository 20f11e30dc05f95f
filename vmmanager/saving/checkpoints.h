#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/checkpoint.pb.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/jobs/job_registry.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saving/file_owners.h"
#include "vmmanager/saving/kept_files.h"
#include "vmmanager/saving/overlay_drafts.h"
#include "vmmanager/saving/returning_containers.h"
#include "vmmanager/saving/saved_states.h"
#include "vmmanager/saving/vm_sealing.h"

namespace ferry::vm {

class MemoryCopy;

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
  Task<absl::StatusOr<v1::Vm>> RestoreAs(v1::RestoreCheckpointAsRequest request);
  Task<absl::StatusOr<v1::Checkpoint>> Define(v1::DefineCheckpointRequest request);

  // Removes what no checkpoint needs and a former daemon left. Once all VMs are adopted, and before
  // anybody can ask for anything.
  Task<void> Sweep();
  // Goes on with what a former daemon did not come to the end of; that may take long.
  Task<void> Settle();

  const Executor& executor() const { return vms_.deps().executor; }

 private:
  using Vm = std::shared_ptr<UtilityVm>;
  using Record = state::v1::CheckpointRecord;
  using Wishes = google::protobuf::RepeatedPtrField<v1::CheckpointDiskWish>;
  struct Clone;       // a VM that is being made of a checkpoint
  struct Definition;  // a checkpoint that is being defined

  absl::Status CheckRest(const UtilityVm& vm) const;
  Task<absl::Status> CheckFiles(std::string memory_file, Wishes disks) const;
  // Overlays that are there already are empty, and over what the disks are now.
  Task<absl::Status> CheckExisting(std::string vm_id, Record planned);
  Task<absl::StatusOr<bool>> IsSameFile(std::string one, std::string other);
  // `forgotten`, unless it is nullptr, becomes the record, which is not kept.
  Task<absl::Status> Take(Vm vm, v1::CreateCheckpointRequest request, Record record,
                          std::shared_ptr<Record> forgotten, std::shared_ptr<Job> job);
  CheckpointSteps StepsWithMemory(Vm vm, const v1::CreateCheckpointRequest& request,
                                  std::shared_ptr<FileBeingSaved> writing, std::string file,
                                  std::shared_ptr<Job> job);
  // FAILED_PRECONDITION "file_in_use" if another VM of this host lies over what would change.
  Task<absl::Status> CheckNobodyLiesOver(Vm vm, std::string name);
  Task<void> RemoveMemory(Record record);
  Task<void> RemoveMemoryDraft(Record record);
  // Of a checkpoint that is about to be deleted, or undone. Returns the note; empty: there is none.
  Task<std::string> NoteFilesToGo(Vm vm, std::string name);
  Task<absl::Status> GoBack(Vm vm, v1::RevertToCheckpointRequest request, std::shared_ptr<Job> job);
  absl::Status CheckRevertible(const UtilityVm& vm, const std::string& name) const;
  absl::StatusOr<v1::Checkpoint> Describe(const UtilityVm& vm, const std::string& name) const;

  // How a VM is made of a checkpoint: the disks are copied, then the memory, and then it is there.
  Task<absl::Status> MakeClone(std::shared_ptr<Clone> clone, std::shared_ptr<Job> job);
  Task<absl::Status> FillClone(std::shared_ptr<Clone> clone, std::shared_ptr<Job> job);
  Task<absl::Status> OpenMemory(std::shared_ptr<Clone> clone);
  Task<absl::Status> CheckRoom(std::shared_ptr<Clone> clone);
  Task<absl::Status> CheckMemoryFits(std::shared_ptr<Clone> clone);
  Task<absl::Status> CheckUnchanged(std::shared_ptr<Clone> clone);
  Task<absl::Status> CopyDisks(std::shared_ptr<Clone> clone);
  Task<absl::Status> CopyMemory(std::shared_ptr<Clone> clone);
  Task<absl::Status> AddClone(std::shared_ptr<Clone> clone);
  Task<bool> IsGone(std::string vm_id);
  absl::Status CheckCloneName(const std::string& name) const;
  // What is copied is not to be merged meanwhile.
  absl::Status CheckMayCopy(const UtilityVm& vm) const;
  absl::Status CheckMayMerge(const UtilityVm& vm) const;
  void Reached(const char* point) const;

  Task<absl::Status> LookAtFiles(std::shared_ptr<Definition> definition);
  Task<absl::Status> CheckAreNobodys(std::shared_ptr<Definition> definition);
  Task<absl::Status> CheckNames(std::shared_ptr<Definition> definition,
                                std::shared_ptr<Chain> chain);
  Task<absl::Status> LookAtChain(std::shared_ptr<Definition> definition, std::string disk,
                                 std::string file);
  absl::Status PlaceInChain(const Chain& chain, size_t at, Definition* definition,
                            state::v1::CheckpointDisk* disk) const;
  Task<absl::Status> LookAtMemory(std::shared_ptr<Definition> definition, std::shared_ptr<Job> job);
  Task<absl::Status> MatchMemory(std::shared_ptr<Definition> definition,
                                 std::shared_ptr<MemoryCopy> memory);
  static absl::Status MemoryDoesNotFit(const Definition& definition, const std::string& why);

  VmInventory& vms_;
  SavedStates& saves_;
  const ReturningContainers returning_;
  const CheckpointsOptions options_;
  VmSealing sealing_;
  KeptFiles files_;
  OverlayDrafts drafts_;
  std::set<std::string> clones_;                    // names of VMs that are being made
  std::multimap<std::string, std::string> copied_;  // by the VM's id: clones that are made of it
  std::multiset<std::string> merged_;               // VMs of which a checkpoint is being deleted
};

}  // namespace ferry::vm
