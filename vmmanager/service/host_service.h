#pragma once

#include "ferry/v1/host.grpc.pb.h"
#include "vmmanager/sandbox/host_description.h"
#include "vmmanager/sandbox/vm_inventory.h"

namespace ferry::vm {

// ferry.v1.HostService: what this host is, and everything that happens on it.
class HostService final : public v1::HostService::CallbackService {
 public:
  HostService(VmInventory& inventory, ProgramInfo program)
      : inventory_(inventory), program_(std::move(program)) {}

  grpc::ServerUnaryReactor* GetHost(grpc::CallbackServerContext*, const v1::GetHostRequest*,
                                    v1::Host*) override;
  grpc::ServerWriteReactor<v1::Event>* WatchEvents(grpc::CallbackServerContext*,
                                                   const v1::WatchEventsRequest*) override;

 private:
  VmInventory& inventory_;
  const ProgramInfo program_;
};

}  // namespace ferry::vm
