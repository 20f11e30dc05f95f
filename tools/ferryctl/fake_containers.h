#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bridge/runtime/async.h"
#include "ferry/v1/container.grpc.pb.h"

namespace ferry::ctl {

// A daemon's containers as far as ferryctl sees them: it makes and changes them at once and
// remembers what was asked. To be served beside a FakeDaemon, whose process is everybody's init.
class FakeContainers final : public v1::ContainerService::CallbackService {
 public:
  explicit FakeContainers(Executor executor);

  // One that is there, in VM "vm-1" unless it says another.
  v1::Container& Add(const std::string& name, v1::ContainerState state);

  // Holds CreateContainer back while reset.
  AsyncEvent& gate() { return gate_; }
  // Set whenever something is asked for.
  AsyncEvent& asked() { return asked_; }

  grpc::ServerUnaryReactor* CreateContainer(grpc::CallbackServerContext* context,
                                            const v1::CreateContainerRequest* request,
                                            v1::Container* response) override;
  grpc::ServerUnaryReactor* StartContainer(grpc::CallbackServerContext* context,
                                           const v1::ContainerRef* request,
                                           v1::Container* response) override;
  grpc::ServerUnaryReactor* StopContainer(grpc::CallbackServerContext* context,
                                          const v1::StopContainerRequest* request,
                                          v1::Container* response) override;
  grpc::ServerUnaryReactor* PauseContainer(grpc::CallbackServerContext* context,
                                           const v1::ContainerRef* request,
                                           v1::Container* response) override;
  grpc::ServerUnaryReactor* UpdateContainer(grpc::CallbackServerContext* context,
                                            const v1::UpdateContainerRequest* request,
                                            v1::Container* response) override;
  grpc::ServerUnaryReactor* RemoveContainer(grpc::CallbackServerContext* context,
                                            const v1::RemoveContainerRequest* request,
                                            v1::RemoveContainerResponse* response) override;
  grpc::ServerUnaryReactor* GetContainer(grpc::CallbackServerContext* context,
                                         const v1::ContainerRef* request,
                                         v1::Container* response) override;
  grpc::ServerUnaryReactor* ListContainers(grpc::CallbackServerContext* context,
                                           const v1::ListContainersRequest* request,
                                           v1::ListContainersResponse* response) override;
  grpc::ServerUnaryReactor* GetContainerStats(grpc::CallbackServerContext* context,
                                              const v1::ContainerRef* request,
                                              v1::ContainerStats* response) override;

  grpc::ServerUnaryReactor* ReadContainerOutput(grpc::CallbackServerContext* context,
                                                const v1::ReadContainerOutputRequest* request,
                                                v1::ReadOutputResponse* response) override;

  bool knows_mounts = true;  // false: as a daemon of a former release
  // What everybody has printed to stdout, and from which byte on it is kept.
  std::string printed;
  uint64_t kept_from = 0;
  uint64_t stderr_kept_from = 0;  // nothing
  bool print_ended = false;
  v1::CreateContainerRequest created;
  v1::StopContainerRequest stopped;
  v1::UpdateContainerRequest updated;
  v1::ListContainersRequest listed;
  std::vector<std::string> removed;  // "name", or "name!" if it was forced
  absl::Status start_status, create_status;
  std::function<void(v1::Container*)> before_get;   // what becomes of it before GetContainer
  std::map<std::string, v1::Container> containers;  // by name
  uint64_t looks = 0;                               // at their numbers

 private:
  absl::StatusOr<v1::Container*> Find(const v1::ContainerRef& ref);
  // Answers with the container in its new state.
  grpc::ServerUnaryReactor* Change(grpc::CallbackServerContext* context,
                                   const v1::ContainerRef* request, v1::Container* response,
                                   v1::ContainerState state, const absl::Status& status);

  const Executor executor_;
  AsyncEvent gate_;
  AsyncEvent asked_;
};

}  // namespace ferry::ctl
