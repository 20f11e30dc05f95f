#include "vmmanager/containers/container_machine.h"

#include "absl/strings/numbers.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/container.h"
#include "vmmanager/sandbox/agent_refusal.h"
#include "vmmanager/sandbox/agent_wait.h"

namespace ferry::vm {
namespace {

using guest::Guest;

class UtilityVmMachine final : public ContainerMachine {
 public:
  UtilityVmMachine(std::shared_ptr<UtilityVm> vm, const HostSettings& settings)
      : vm_(std::move(vm)), settings_(settings) {}

  uint64_t boot() override {
    const std::shared_ptr<Guest> now = vm_->guest();
    if (now != nullptr && now != guest_.lock()) {
      guest_ = now;
      ++boots_;
    }
    return boots_;
  }
  bool runs() override { return vm_->system() != nullptr; }

  Task<absl::Status> Ready() override {
    co_return (co_await ReadyGuest(vm_, settings_.agent_wait)).status();
  }
  Task<absl::Status> AwaitAgent() override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return co_await guest->WaitReady();
  }

  Task<absl::StatusOr<DiskSlot>> AttachDisk(schema::Attachment disk) override {
    return vm_->AttachDisk(std::move(disk));
  }
  Task<absl::Status> DetachDisk(DiskSlot slot) override { return vm_->DetachDisk(slot); }
  Task<absl::Status> ResizeDisk(DiskSlot slot, uint64_t bytes) override {
    return vm_->ResizeDisk(slot, bytes);
  }
  std::optional<DiskSlot> FindDisk(const std::string& file) override {
    for (const auto& [controller, scsi] : vm_->document().virtual_machine.devices.scsi) {
      for (const auto& [lun, disk] : scsi.attachments) {
        DiskSlot slot;
        if (disk.path == file && absl::SimpleAtoi(controller, &slot.controller) &&
            absl::SimpleAtoi(lun, &slot.lun)) {
          return slot;
        }
      }
    }
    return std::nullopt;
  }

  Task<absl::Status> MountDisk(bridge::MappedVirtualDisk disk) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().AddDisk(std::move(disk)));
  }
  Task<absl::Status> UnmountDisk(bridge::MappedVirtualDisk disk) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().RemoveDisk(std::move(disk)));
  }
  Task<absl::Status> GrowDisk(bridge::MappedVirtualDisk disk) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().GrowDisk(std::move(disk)));
  }
  Task<absl::Status> EjectDisk(bridge::ScsiDevice disk) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().EjectDisk(disk));
  }
  Task<absl::Status> MountDirectory(bridge::MappedDirectory directory) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().AddDirectory(std::move(directory)));
  }
  Task<absl::Status> CombineLayers(bridge::CombinedLayers layers) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().CombineLayers(std::move(layers)));
  }
  Task<absl::Status> SeparateLayers(bridge::CombinedLayers layers) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().SeparateLayers(std::move(layers)));
  }

  Task<absl::Status> Create(guest::NewContainer container) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().Create(std::move(container)));
  }
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> Start(guest::ProcessSpec spec) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    auto started = co_await guest->StartContainer(std::move(spec));
    if (!started.ok()) co_return ToCaller(started.status());
    co_return started;
  }
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> AwaitStart(std::string id) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return co_await guest->AwaitStart(std::move(id));
  }
  bool StartIsAwaited(const std::string& id) override {
    return vm_->guest() != nullptr && vm_->guest()->StartIsAwaited(id);
  }
  std::shared_ptr<guest::Process> FindStarted(const std::string& id) override {
    const std::shared_ptr<Guest> guest = vm_->guest();
    std::shared_ptr<guest::Process> first;
    uint32_t first_port = 0;
    if (guest == nullptr) return first;
    for (const std::shared_ptr<guest::Process>& process : guest->processes()) {
      if (process->spec().container_id != id) continue;
      // Ports are given out in order, each once.
      const uint32_t port = process->migration_state().stdout_port;
      if (first != nullptr && port >= first_port) continue;
      first = process;
      first_port = port;
    }
    return first;
  }
  Task<absl::Status> Pause(std::string id) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().Pause(std::move(id)));
  }
  Task<absl::Status> Resume(std::string id) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().Resume(std::move(id)));
  }
  Task<absl::Status> Update(std::string id, std::string linux_resources) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(
        co_await guest->container_host().Update(std::move(id), std::move(linux_resources)));
  }
  Task<absl::Status> Delete(std::string id) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return ToCaller(co_await guest->container_host().Delete(std::move(id)));
  }
  Task<absl::StatusOr<bridge::ContainerProperties>> Properties(
      std::string id, std::vector<std::string> types) override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<Guest> guest, co_await vm_->UsableGuest());
    co_return co_await guest->container_host().Properties(std::move(id), std::move(types));
  }
  Task<bool> AwaitNotice(std::string id) override {
    const std::shared_ptr<Guest> guest = vm_->guest();
    if (guest == nullptr) co_return false;
    const std::shared_ptr<guest::Container> container = guest->OpenContainer(id);
    co_await container->Wait();
    co_return container->exit_type().has_value();
  }

  std::shared_ptr<guest::Process> FindProcess(uint32_t pid) override {
    const std::shared_ptr<Guest> guest = vm_->guest();
    return guest == nullptr ? nullptr : guest->Find(pid);
  }
  std::shared_ptr<guest::Process> FindInit(const std::string& id, uint32_t pid) override {
    std::shared_ptr<guest::Process> found = FindProcess(pid);
    if (found == nullptr || found->spec().container_id != id) return nullptr;
    return found;
  }
  std::string OutputFile(uint32_t port) override { return vm_->OutputFile(port); }
  Task<absl::Status> Persist() override { return vm_->Persist(); }

 private:
  const std::shared_ptr<UtilityVm> vm_;
  const HostSettings& settings_;
  std::weak_ptr<Guest> guest_;
  uint64_t boots_ = 0;
};

}  // namespace

std::unique_ptr<ContainerMachine> MakeContainerMachine(std::shared_ptr<UtilityVm> vm,
                                                       const HostSettings& settings) {
  return std::make_unique<UtilityVmMachine>(std::move(vm), settings);
}

}  // namespace ferry::vm
