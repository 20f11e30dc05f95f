#pragma once

#include "ferry/v1/container.grpc.pb.h"
#include "vmmanager/containers/container_inventory.h"

namespace ferry::vm {

// ferry.v1.ContainerService over the host's containers: translates, and posts to the executor.
class ContainerService final : public v1::ContainerService::CallbackService {
 public:
  explicit ContainerService(ContainerInventory& containers) : containers_(containers) {}

  grpc::ServerUnaryReactor* CreateContainer(grpc::CallbackServerContext*,
                                            const v1::CreateContainerRequest*,
                                            v1::Container*) override;
  grpc::ServerUnaryReactor* StartContainer(grpc::CallbackServerContext*, const v1::ContainerRef*,
                                           v1::Container*) override;
  grpc::ServerUnaryReactor* StopContainer(grpc::CallbackServerContext*,
                                          const v1::StopContainerRequest*, v1::Container*) override;
  grpc::ServerUnaryReactor* PauseContainer(grpc::CallbackServerContext*, const v1::ContainerRef*,
                                           v1::Container*) override;
  grpc::ServerUnaryReactor* ResumeContainer(grpc::CallbackServerContext*, const v1::ContainerRef*,
                                            v1::Container*) override;
  grpc::ServerUnaryReactor* UpdateContainer(grpc::CallbackServerContext*,
                                            const v1::UpdateContainerRequest*,
                                            v1::Container*) override;
  grpc::ServerUnaryReactor* RemoveContainer(grpc::CallbackServerContext*,
                                            const v1::RemoveContainerRequest*,
                                            v1::RemoveContainerResponse*) override;
  grpc::ServerUnaryReactor* GetContainer(grpc::CallbackServerContext*, const v1::ContainerRef*,
                                         v1::Container*) override;
  grpc::ServerUnaryReactor* ListContainers(grpc::CallbackServerContext*,
                                           const v1::ListContainersRequest*,
                                           v1::ListContainersResponse*) override;
  grpc::ServerUnaryReactor* GetContainerStats(grpc::CallbackServerContext*, const v1::ContainerRef*,
                                              v1::ContainerStats*) override;
  grpc::ServerUnaryReactor* ReadContainerOutput(grpc::CallbackServerContext*,
                                                const v1::ReadContainerOutputRequest*,
                                                v1::ReadOutputResponse*) override;

 private:
  const Executor& executor() const { return containers_.deps().executor(); }
  absl::StatusOr<std::shared_ptr<VmContainer>> Find(const v1::ContainerRef& ref) const {
    return containers_.Find(ref.container(), ref.vm());
  }
  // A call that changes one container and answers with what it is then.
  using Change = Task<absl::Status> (VmContainer::*)();
  grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context,
                                  const v1::ContainerRef* request, v1::Container* response,
                                  Change change);
  absl::StatusOr<v1::ListContainersResponse> List(const v1::ListContainersRequest& request) const;

  ContainerInventory& containers_;
};

}  // namespace ferry::vm
