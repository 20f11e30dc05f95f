#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "guestmanager/fake_agent.h"
#include "vmmanager/backend/fake_backend.h"
#include "vmmanager/fence/fake_fence.h"
#include "vmmanager/sandbox/fake_file_reads.h"
#include "vmmanager/sandbox/fake_overlay_files.h"
#include "vmmanager/sandbox/fake_scratch_places.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/store/fake_store.h"

namespace ferry::vm {

// The guests of any number of fake hosts. A guest's agent goes with its VM from host to host.
class FakeGuests {
 public:
  explicit FakeGuests(Executor executor) : executor_(executor) {}

  // From now on the agents of that backend's VMs dial as soon as they run.
  void ServeBackend(FakeBackend& backend);
  // Makes the guest dial over the link of this system (again).
  void Connect(FakeComputeSystem& system);
  guest::FakeAgent& Agent(const std::string& vm_id);
  // Ends all agents.
  void Stop();

  // Hosts of the same guests fence each other.
  const std::shared_ptr<FakeClaims>& claims() const { return claims_; }

  bool boot = true;  // false: new guests never get as far as their agent
  bool obey = true;  // false: guests ignore that they should shut down

 private:
  Executor executor_;
  std::map<std::string, std::shared_ptr<guest::FakeAgent>> agents_;
  std::shared_ptr<FakeClaims> claims_ = std::make_shared<FakeClaims>();
};

// What a daemon has below its edge, with fakes for the store, the VMM and the guests. Members are
// public: tests script them.
class FakeHost {
 public:
  // The guest image is made in `folder`.
  FakeHost(Executor executor, const std::string& address, const std::string& folder,
           FakeGuests& guests);

  // A running VM.
  Task<absl::StatusOr<std::shared_ptr<UtilityVm>>> Boot(std::string name);
  // As if the daemon had died and another one were started on its state.
  Task<absl::Status> Restart(std::map<std::string, AdoptionClaim> claims = {});
  // Ends every VM and the event log.
  Task<void> Stop();
  FakeComputeSystem* System(const UtilityVm& vm) const { return backend.Find(vm.id()); }

  FakeStore store;
  FakeBackend backend;
  HostSettings settings;
  EventLog events;
  FakeFence fence;
  FakeFileReads reads;
  FakeOverlayFiles overlays;
  FakeScratchPlaces scratch;
  // Runs where a daemon must be able to die.
  std::function<void(const std::string& point)> at_point = [](const std::string&) {};
  std::unique_ptr<VmInventory> inventory;

 private:
  SandboxDeps deps();

  Executor executor_;
  FakeGuests& guests_;
  std::vector<std::unique_ptr<VmInventory>> former_;
};

}  // namespace ferry::vm
