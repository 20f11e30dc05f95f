#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/container_messages.h"
#include "bridge/runtime/async.h"
#include "guestmanager/guest_containers.h"
#include "guestmanager/process.h"
#include "vmmanager/sandbox/disk_slot.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/schema/compute_system.h"

namespace ferry::vm {

// What containers need of the VM that they are in: its disks, and its guest's agent. All calls are
// refused as the VM itself would, with what to do then. Thread: the executor's only.
class ContainerMachine {
 public:
  virtual ~ContainerMachine() = default;

  // Rises with each boot of the VM: what was put into the guest before is gone.
  virtual uint64_t boot() = 0;
  // Whether the VM runs (or stands still) here, so that what was put into its guest is there.
  virtual bool runs() = 0;
  // Returns when the agent can be asked for something. An agent that is away has little time to
  // come back, and a paused VM is refused at once.
  virtual Task<absl::Status> Ready() = 0;
  // The same with all patience; an error if the VM ends, or the daemon.
  virtual Task<absl::Status> AwaitAgent() = 0;

  virtual Task<absl::StatusOr<DiskSlot>> AttachDisk(schema::Attachment disk) = 0;
  virtual Task<absl::Status> DetachDisk(DiskSlot slot) = 0;
  // Makes one larger; see UtilityVm.
  virtual Task<absl::Status> ResizeDisk(DiskSlot slot, uint64_t bytes) = 0;
  // Where the VM has this file, if it has.
  virtual std::optional<DiskSlot> FindDisk(const std::string& file) = 0;

  // In the guest. What is not there is taken away with success.
  virtual Task<absl::Status> MountDisk(bridge::MappedVirtualDisk disk) = 0;
  virtual Task<absl::Status> UnmountDisk(bridge::MappedVirtualDisk disk) = 0;
  // It is larger now, and its filesystem is to be, too.
  virtual Task<absl::Status> GrowDisk(bridge::MappedVirtualDisk disk) = 0;
  virtual Task<absl::Status> EjectDisk(bridge::ScsiDevice disk) = 0;
  // ALREADY_EXISTS if it is mounted.
  virtual Task<absl::Status> MountDirectory(bridge::MappedDirectory directory) = 0;
  virtual Task<absl::Status> CombineLayers(bridge::CombinedLayers layers) = 0;
  virtual Task<absl::Status> SeparateLayers(bridge::CombinedLayers layers) = 0;

  // Its init waits for Start.
  virtual Task<absl::Status> Create(guest::NewContainer container) = 0;
  // Returns the init. `spec` says what its specification said already. One that AwaitStart() would
  // wait for is waited for.
  virtual Task<absl::StatusOr<std::shared_ptr<guest::Process>>> Start(guest::ProcessSpec spec) = 0;
  // See guest::Guest::AwaitStart.
  virtual Task<absl::StatusOr<std::shared_ptr<guest::Process>>> AwaitStart(std::string id) = 0;
  // The init of a container that was started, if nobody wrote down its number: of the processes in
  // there that this host knows of, the first one.
  virtual std::shared_ptr<guest::Process> FindStarted(const std::string& id) = 0;
  // Whether AwaitStart() would find a start.
  virtual bool StartIsAwaited(const std::string& id) = 0;
  virtual Task<absl::Status> Pause(std::string id) = 0;
  virtual Task<absl::Status> Resume(std::string id) = 0;
  virtual Task<absl::Status> Update(std::string id, std::string linux_resources) = 0;
  // Ends the init if it was not started. NOT_FOUND if the agent knows no such container.
  virtual Task<absl::Status> Delete(std::string id) = 0;
  virtual Task<absl::StatusOr<bridge::ContainerProperties>> Properties(
      std::string id, std::vector<std::string> types) = 0;

  // Returns when the agent has told of the container's exit: true; or does not any more.
  virtual Task<bool> AwaitNotice(std::string id) = 0;

  // A process that this host knows of; nullptr: it has exited and its status was taken.
  virtual std::shared_ptr<guest::Process> FindProcess(uint32_t pid) = 0;
  // A container's init of that number, if this host knows of it (again).
  virtual std::shared_ptr<guest::Process> FindInit(const std::string& id, uint32_t pid) = 0;
  // The file with the output of this stdio port; empty if there can be none.
  virtual std::string OutputFile(uint32_t port) = 0;
  // Writes down what the VM holds, so that a new daemon finds it.
  virtual Task<absl::Status> Persist() = 0;
};

std::unique_ptr<ContainerMachine> MakeContainerMachine(std::shared_ptr<UtilityVm> vm,
                                                       const HostSettings& settings);

}  // namespace ferry::vm
