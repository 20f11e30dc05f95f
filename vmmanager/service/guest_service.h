#pragma once

#include "ferry/v1/guest.grpc.pb.h"
#include "vmmanager/containers/container_inventory.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// ferry.v1.GuestService: processes in the host's VMs and their stdio.
class GuestService final : public v1::GuestService::CallbackService {
 public:
  // Without `containers`, processes run in the VMs themselves only.
  explicit GuestService(VmInventory& inventory, ContainerInventory* containers = nullptr)
      : inventory_(inventory), containers_(containers) {}

  grpc::ServerUnaryReactor* CreateProcess(grpc::CallbackServerContext*,
                                          const v1::CreateProcessRequest*, v1::Process*) override;
  grpc::ServerUnaryReactor* ListProcesses(grpc::CallbackServerContext*,
                                          const v1::ListProcessesRequest*,
                                          v1::ListProcessesResponse*) override;
  grpc::ServerUnaryReactor* SignalProcess(grpc::CallbackServerContext*,
                                          const v1::SignalProcessRequest*,
                                          v1::SignalProcessResponse*) override;
  grpc::ServerUnaryReactor* ReadOutput(grpc::CallbackServerContext*, const v1::ReadOutputRequest*,
                                       v1::ReadOutputResponse*) override;
  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext*) override;

 private:
  const Executor& executor() const { return inventory_.deps().executor; }
  milliseconds agent_wait() const { return inventory_.deps().settings.agent_wait; }
  // Says in which container of the VM, if in one, and as whom; returns what its runtime is told.
  absl::StatusOr<std::string> PutIntoContainer(const UtilityVm& vm, const v1::ProcessSpec& wanted,
                                               guest::ProcessSpec* spec) const;
  // The process of an earlier call with this id; nullptr if there was none that is still known.
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> MadeBefore(std::shared_ptr<UtilityVm> vm,
                                                                   std::string request_id);
  Task<absl::StatusOr<std::shared_ptr<guest::Process>>> Make(std::shared_ptr<UtilityVm> vm,
                                                             v1::CreateProcessRequest request);
  // By the id that this host knows its container by.
  v1::Process Describe(const UtilityVm& vm, const guest::Process& process) const;
  // False if it had already exited.
  Task<absl::StatusOr<bool>> Signal(const v1::SignalProcessRequest& request);

  VmInventory& inventory_;
  ContainerInventory* const containers_;
};

}  // namespace ferry::vm
