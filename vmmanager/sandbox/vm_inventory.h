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
#include "bridge/network/address.h"
#include "ferry/v1/vm.pb.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

// What a new VM is made of beside its specification.
struct NewVm {
  std::string id;              // empty: a new one; else it must be new
  std::string saved;           // a SavedRecord's bytes: it is saved in that from the first moment
  std::string firmware_store;  // packed; empty: what its firmware begins with
  std::optional<schema::Topology> size;  // of the machine that it is saved with
};

// The utility VMs of this host, by name and by id. Thread: the executor's only.
class VmInventory {
 public:
  explicit VmInventory(SandboxDeps deps) : deps_(deps) {}

  const SandboxDeps& deps() const { return deps_; }

  // Reads the store.
  Task<absl::Status> Load();
  // Takes over what a former daemon process left running; `claims`, by VM id, say what undecided
  // migrations make of it. A VM that cannot be taken over is listed as stopped, with the reason.
  Task<void> AdoptAll(std::map<std::string, AdoptionClaim> claims);

  static std::string NewId();
  // ALREADY_EXISTS if the name is taken, unless the same request made it.
  Task<absl::StatusOr<std::shared_ptr<UtilityVm>>> Create(const v1::CreateVmRequest& request) {
    return Create(request, NewVm());
  }
  Task<absl::StatusOr<std::shared_ptr<UtilityVm>>> Create(const v1::CreateVmRequest& request,
                                                          NewVm made_of);

  // By id or name; NOT_FOUND says where it went if it moved away.
  absl::StatusOr<std::shared_ptr<UtilityVm>> Find(const std::string& vm) const;
  std::vector<std::shared_ptr<UtilityVm>> List() const;

  // ALREADY_EXISTS, naming the other one, if a network card of the machine has the MAC address of
  // another VM's than `vm_id`.
  absl::Status CheckMacs(const schema::ComputeSystem& document, const std::string& vm_id) const;

  // Forgets a stopped VM.
  Task<absl::Status> Delete(std::shared_ptr<UtilityVm> vm);
  // Awaited with the VM's id once a VM was deleted: what is kept for it goes with it.
  void set_on_deleted(std::function<Task<void>(std::string)> callback) {
    on_deleted_ = std::move(callback);
  }

  // Awaited with the id of a VM that has left this host, or did not come to it, before its row
  // goes. An error keeps the row.
  void set_on_forgotten(std::function<Task<absl::Status>(std::string)> callback) {
    on_forgotten_ = std::move(callback);
  }

  // A VM that migration `session_id` brings; nobody else may start or delete it. ALREADY_EXISTS if
  // its id, its name or a MAC address of its is taken here; INVALID_ARGUMENT if its network cards
  // are none that Create() would make.
  absl::StatusOr<std::shared_ptr<UtilityVm>> AddIncoming(const std::string& session_id, VmRow row,
                                                         v1::VmSpec spec,
                                                         schema::ComputeSystem document);
  // It does not come, and nothing of it was written.
  void DropIncoming(const std::string& id);
  // A context id for AF_VSOCK that no VM of this host has; chosen at random, so that the daemons of
  // one kernel do not meet.
  uint32_t FreeGuestCid() const;

  // Drops a VM that left, or one that never arrived, with the rows of its containers; `moved_to` is
  // told to whoever looks for it. Where that fails the VM is still known, and it can be repeated.
  Task<absl::Status> Forget(std::string id, std::string moved_to);
  // Where a VM went that left before this daemon process.
  void NoteDeparted(const std::string& id, const std::string& name, const std::string& moved_to);

  // Lets go of all VMs; they run on. No VM can be added any more.
  Task<void> Detach();

 private:
  absl::Status CheckServing() const;
  std::set<net::MacAddress> TakenMacs() const;
  Task<absl::Status> DeleteContainers(std::string id);
  void ForgetStore(const std::string& id) const;
  std::shared_ptr<UtilityVm> FindByName(const std::string& name) const;
  SandboxDeps deps_;
  std::map<std::string, std::shared_ptr<UtilityVm>> vms_;  // by id
  std::map<std::string, std::string> departed_;            // id and name -> new host
  std::function<Task<void>(std::string)> on_deleted_;
  std::function<Task<absl::Status>(std::string)> on_forgotten_;
  bool detached_ = false;
};

}  // namespace ferry::vm
