#pragma once

#include "ferry/v1/vm.grpc.pb.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/saving/saved_states.h"

namespace ferry::vm {

// ferry.v1.VmService over the host's inventory: translates, and posts to the executor.
class VmService final : public v1::VmService::CallbackService {
 public:
  // Both must outlive it.
  VmService(VmInventory& inventory, SavedStates& saves) : inventory_(inventory), saves_(saves) {}

  grpc::ServerUnaryReactor* CreateVm(grpc::CallbackServerContext*, const v1::CreateVmRequest*,
                                     v1::Vm*) override;
  grpc::ServerUnaryReactor* GetVm(grpc::CallbackServerContext*, const v1::VmRef*, v1::Vm*) override;
  grpc::ServerUnaryReactor* ListVms(grpc::CallbackServerContext*, const v1::ListVmsRequest*,
                                    v1::ListVmsResponse*) override;
  grpc::ServerUnaryReactor* StartVm(grpc::CallbackServerContext*, const v1::StartVmRequest*,
                                    v1::Vm*) override;
  grpc::ServerUnaryReactor* StopVm(grpc::CallbackServerContext*, const v1::StopVmRequest*,
                                   v1::Vm*) override;
  grpc::ServerUnaryReactor* RestartVm(grpc::CallbackServerContext*, const v1::StopVmRequest*,
                                      v1::Vm*) override;
  grpc::ServerUnaryReactor* SaveVm(grpc::CallbackServerContext*, const v1::SaveVmRequest*,
                                   v1::Vm*) override;
  grpc::ServerUnaryReactor* SetVm(grpc::CallbackServerContext*, const v1::SetVmRequest*,
                                  v1::Vm*) override;
  grpc::ServerUnaryReactor* PauseVm(grpc::CallbackServerContext*, const v1::VmRef*,
                                    v1::Vm*) override;
  grpc::ServerUnaryReactor* ResumeVm(grpc::CallbackServerContext*, const v1::VmRef*,
                                     v1::Vm*) override;
  grpc::ServerUnaryReactor* DeleteVm(grpc::CallbackServerContext*, const v1::DeleteVmRequest*,
                                     v1::DeleteVmResponse*) override;
  grpc::ServerUnaryReactor* GetProperties(grpc::CallbackServerContext*,
                                          const v1::GetPropertiesRequest*,
                                          v1::GetPropertiesResponse*) override;

 private:
  const Executor& executor() const { return inventory_.deps().executor; }
  Task<absl::StatusOr<v1::Vm>> Describe(const v1::VmRef& request);
  Task<absl::StatusOr<v1::Vm>> Stop(const v1::StopVmRequest& request);
  Task<absl::StatusOr<v1::Vm>> Restart(const v1::StopVmRequest& request);

  VmInventory& inventory_;
  SavedStates& saves_;
};

}  // namespace ferry::vm
