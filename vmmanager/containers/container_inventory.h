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
#include "vmmanager/containers/vm_container.h"
#include "vmmanager/rpc/audit_log.h"

namespace ferry::vm {

// The containers in the VMs of this host, by id and by name. Thread: the executor's only.
class ContainerInventory {
 public:
  struct Options {
    std::string scratch_folder;               // the host's own
    std::optional<ProcessUser> scratch_user;  // QEMU's; nullopt: ours
    // How a VM is reached; tests have their own.
    std::function<std::unique_ptr<ContainerMachine>(std::shared_ptr<UtilityVm>)> make_machine;
    rpc::AuditLog* audit = nullptr;  // is told what is removed without anybody's call
  };

  // `vms` must outlive it, and must be told to no other one.
  ContainerInventory(VmInventory& vms, Options options);
  ~ContainerInventory();

  // Reads the store; the VMs' own rows were read before.
  Task<absl::Status> Load();
  // Finds out what became of them, once the VMs were taken over and the images are open: those that
  // a former daemon was making or removing are removed, and pins of no container are let go of.
  Task<void> TakeUp(ImageStore& images);

  // Whoever awaits this may be cancelled: then it is called off, unless the same request was made
  // again meanwhile.
  Task<absl::StatusOr<std::shared_ptr<VmContainer>>> Create(v1::CreateContainerRequest request);
  // Whether somebody waits for what the request of this id makes.
  bool IsAwaited(const std::string& request_id) const;
  // By name or id, in a VM by name or id or in any. As FindContainer.
  absl::StatusOr<std::shared_ptr<VmContainer>> Find(const std::string& container,
                                                    const std::string& vm) const;
  // The one of that whole id, in whatever state; nullptr if there is none.
  std::shared_ptr<VmContainer> FindById(const std::string& id) const;
  // Whether there is one of that id, in whatever state, also one whose row cannot be read.
  bool Knows(const std::string& id) const {
    return containers_.contains(id) || unreadable_.contains(id);
  }
  // Whether the store holds none, of no VM.
  bool empty() const { return containers_.empty() && orphans_.empty() && unreadable_.empty(); }
  // By the time of their making; not those that are being made.
  std::vector<std::shared_ptr<VmContainer>> List() const;
  // As VmContainer::TakeOut; with the VM that was made for it, if one was.
  Task<absl::Status> Remove(std::shared_ptr<VmContainer> container, bool force);

  // A migration may bring one of that id. False if there is one, a checkpoint keeps what one wrote
  // that is gone, or another migration may bring it.
  bool Expect(const std::string& id);
  // The ids that migrations may bring. Whoever expected one takes it out again, which may come
  // after our end.
  std::shared_ptr<std::set<std::string>> expected() const { return expected_; }

  using Containers = std::vector<std::shared_ptr<VmContainer>>;
  Containers Of(const std::string& vm_id) const;
  // The one of the VM that writes to that file; nullptr if none does.
  std::shared_ptr<VmContainer> WriterTo(const std::string& vm_id, const std::string& file) const;
  // The one that the VM's guest knows by that id; nullptr if none is.
  std::shared_ptr<VmContainer> FindByGuestId(const std::string& vm_id,
                                             const std::string& guest_id) const;
  // The id of one whose row cannot be read; empty if all can.
  std::string UnreadableIn(const std::string& vm_id) const;
  // One that a migration has brought, with its VM; written down.
  Task<absl::Status> Bring(StoredContainer stored, std::shared_ptr<UtilityVm> vm);
  // Their VM runs here since a moment ago, or runs here again.
  Task<void> VmArrived(std::string vm_id);

  // Somebody has taken that process's exit status.
  void NoteExitTaken(const std::string& vm_id, uint32_t process_id);
  // Nothing begins any more. What is under way breaks off; the next daemon takes it back.
  Task<void> Close();

  const ContainerDeps& deps() const { return deps_; }

 private:
  struct Making;
  class Observer;
  absl::Status CheckServing() const;
  std::shared_ptr<ContainerHome> HomeOf(const std::shared_ptr<UtilityVm>& vm);
  std::shared_ptr<VmContainer> Add(StoredContainer stored, std::shared_ptr<ContainerHome> home,
                                   bool known);
  void Erase(const VmContainer& container);
  bool NameIsTaken(const std::string& name, const std::string& vm_id) const;
  // The ids of containers, here or gone, of whose disks a checkpoint has some; also empty ones.
  std::vector<std::string> InCheckpoints() const;
  // ALREADY_EXISTS if it was another request, under the same id, that made it.
  absl::Status CheckMadeBy(const v1::CreateContainerRequest& request,
                           const VmContainer& made) const;
  // What that request has made, or (`half`) what is left of what it began to.
  std::shared_ptr<VmContainer> FindMade(const std::string& request_id, bool half) const;

  static Task<void> RunMaking(ContainerInventory* self, std::shared_ptr<Making> making);
  Task<absl::StatusOr<std::shared_ptr<VmContainer>>> Make(std::shared_ptr<Making> making);
  Task<absl::StatusOr<std::shared_ptr<VmContainer>>> MakeInVm(std::shared_ptr<Making> making);
  Task<absl::StatusOr<std::shared_ptr<VmContainer>>> MakeWithVm(std::shared_ptr<Making> making);
  absl::StatusOr<StoredContainer> Describe(const Making& making, const std::string& vm_id) const;
  // As their guest knows it.
  absl::StatusOr<std::string> SandboxOf(const std::string& pod, const UtilityVm& vm) const;
  absl::Status CheckPlace(const UtilityVm& vm, const std::string& sandbox_id) const;
  Task<absl::Status> Fill(std::shared_ptr<Making> making, std::shared_ptr<VmContainer> container);
  Task<void> TakeBack(std::shared_ptr<VmContainer> container);

  Task<absl::Status> RemoveWithVm(std::shared_ptr<VmContainer> owner, bool force);
  Task<absl::Status> RemoveAlone(std::shared_ptr<VmContainer> container, bool force);
  // Ends it at once and deletes it, with all that is in it.
  Task<absl::Status> EndVm(std::shared_ptr<UtilityVm> vm);
  Task<void> ForgetVm(std::string vm_id);
  Task<absl::Status> VmDeparted(std::string vm_id);
  Task<void> ForgetRow(StoredContainer stored);
  // Their VM is gone, and whatever they were with it.
  Task<void> ForgetUnreadableIn(std::string vm_id);
  void RemoveIfDone(const std::shared_ptr<VmContainer>& container);
  void NoteRemoved(const VmContainer& container) const;
  static Task<void> RemoveLater(ContainerInventory* self, std::shared_ptr<VmContainer> container);

  ScratchFiles scratch_;
  const ContainerOutput output_;
  ContainerDeps deps_;
  const Options options_;
  std::map<std::string, std::shared_ptr<ContainerHome>> homes_;     // by VM
  std::map<std::string, std::unique_ptr<Observer>> observers_;      // by VM
  std::map<std::string, std::shared_ptr<VmContainer>> containers_;  // by id
  std::map<std::string, std::shared_ptr<Making>> makings_;          // by request id
  std::vector<StoredContainer> orphans_;                            // whose VM is gone
  std::map<std::string, std::string> unreadable_;  // ids of rows that are left alone, and their VMs
  // Ids.
  const std::shared_ptr<std::set<std::string>> expected_ =
      std::make_shared<std::set<std::string>>();
  // By id: what is removed by itself, as often as that takes, and what ends the wait in between.
  std::map<std::string, std::shared_ptr<AsyncEvent>> removing_;
  TaskScope scope_;
  bool closed_ = false;
};

}  // namespace ferry::vm
