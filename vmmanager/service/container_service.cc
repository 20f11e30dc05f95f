#include "vmmanager/service/container_service.h"

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/authorization.h"
#include "vmmanager/rpc/unary_reactor.h"
#include "vmmanager/service/process_conversion.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kStopPatience{10'000};
constexpr uint32_t kMaxStopPatience = 3'600'000;

v1::ContainerStats ToProto(const std::string& id, const bridge::ContainerMetrics& from) {
  v1::ContainerStats to;
  to.set_container_id(id);
  to.set_unix_ms(NowUnixMs());
  to.set_cpu_total_ns(from.cpu_total);
  to.set_cpu_user_ns(from.cpu_user);
  to.set_cpu_kernel_ns(from.cpu_kernel);
  to.set_cpu_throttled_ns(from.cpu_throttled_time);
  to.set_memory_bytes(from.memory_usage);
  if (from.memory_limit != from.kNoLimit) to.set_memory_limit_bytes(from.memory_limit);
  to.set_memory_max_bytes(from.memory_max);
  to.set_oom_kills(from.oom_kills);
  to.set_pids(from.pids_current);
  if (from.pids_limit != from.kNoLimit) to.set_pids_limit(from.pids_limit);
  uint64_t read = 0;
  uint64_t written = 0;
  for (const bridge::DeviceTraffic& device : from.io) {
    read += device.read_bytes;
    written += device.written_bytes;
  }
  to.set_read_bytes(read);
  to.set_written_bytes(written);
  return to;
}

}  // namespace

grpc::ServerUnaryReactor* ContainerService::CreateContainer(
    grpc::CallbackServerContext* context, const v1::CreateContainerRequest* request,
    v1::Container* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::CreateContainerRequest& create) -> Task<absl::StatusOr<v1::Container>> {
        auto container = co_await containers_.Create(create);
        if (!container.ok()) co_return container.status();
        co_return (*container)->Describe(true);
      },
      // It goes on by itself, and is called off when nobody waits for it.
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* ContainerService::Serve(grpc::CallbackServerContext* context,
                                                  const v1::ContainerRef* request,
                                                  v1::Container* response, Change change) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this, change](const v1::ContainerRef& ref) -> Task<absl::StatusOr<v1::Container>> {
        auto container = Find(ref);
        if (!container.ok()) co_return container.status();
        CO_RETURN_IF_ERROR(co_await ((**container).*change)());
        co_return (*container)->Describe(true);
      });
}

grpc::ServerUnaryReactor* ContainerService::StartContainer(grpc::CallbackServerContext* context,
                                                           const v1::ContainerRef* request,
                                                           v1::Container* response) {
  return Serve(context, request, response, &VmContainer::Start);
}

grpc::ServerUnaryReactor* ContainerService::PauseContainer(grpc::CallbackServerContext* context,
                                                           const v1::ContainerRef* request,
                                                           v1::Container* response) {
  return Serve(context, request, response, &VmContainer::Pause);
}

grpc::ServerUnaryReactor* ContainerService::ResumeContainer(grpc::CallbackServerContext* context,
                                                            const v1::ContainerRef* request,
                                                            v1::Container* response) {
  return Serve(context, request, response, &VmContainer::Resume);
}

grpc::ServerUnaryReactor* ContainerService::StopContainer(grpc::CallbackServerContext* context,
                                                          const v1::StopContainerRequest* request,
                                                          v1::Container* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::StopContainerRequest& stop) -> Task<absl::StatusOr<v1::Container>> {
        auto container = Find(stop.ref());
        if (!container.ok()) co_return container.status();
        if (stop.timeout_ms() > kMaxStopPatience) {
          co_return absl::InvalidArgumentError("the time to stop in must be at most an hour");
        }
        milliseconds patience = kStopPatience;
        if (stop.has_timeout_ms()) patience = milliseconds(stop.timeout_ms());
        CO_RETURN_IF_ERROR(co_await (*container)->Stop(patience));
        co_return (*container)->Describe(true);
      });
}

grpc::ServerUnaryReactor* ContainerService::UpdateContainer(
    grpc::CallbackServerContext* context, const v1::UpdateContainerRequest* request,
    v1::Container* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::UpdateContainerRequest& update) -> Task<absl::StatusOr<v1::Container>> {
        auto container = Find(update.ref());
        if (!container.ok()) co_return container.status();
        CO_RETURN_IF_ERROR(co_await (*container)->Update(update.limits()));
        co_return (*container)->Describe(true);
      });
}

grpc::ServerUnaryReactor* ContainerService::RemoveContainer(
    grpc::CallbackServerContext* context, const v1::RemoveContainerRequest* request,
    v1::RemoveContainerResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::RemoveContainerRequest& remove)
          -> Task<absl::StatusOr<v1::RemoveContainerResponse>> {
        auto container = Find(remove.ref());
        if (!container.ok()) co_return container.status();
        CO_RETURN_IF_ERROR(co_await containers_.Remove(*container, remove.force()));
        co_return v1::RemoveContainerResponse();
      });
}

grpc::ServerUnaryReactor* ContainerService::GetContainer(grpc::CallbackServerContext* context,
                                                         const v1::ContainerRef* request,
                                                         v1::Container* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this, all = rpc::SeesSecrets(rpc::CallerOf(*context))](
          const v1::ContainerRef& ref) -> Task<absl::StatusOr<v1::Container>> {
        auto container = Find(ref);
        if (!container.ok()) co_return container.status();
        v1::Container told = (*container)->Describe(true);
        if (!all) told.mutable_spec()->clear_environment();
        co_return told;
      },
      rpc::OnCallerGone::kCancel);
}

absl::StatusOr<v1::ListContainersResponse> ContainerService::List(
    const v1::ListContainersRequest& request) const {
  std::string vm_id;
  if (!request.vm().empty()) {
    ASSIGN_OR_RETURN(const auto vm, containers_.deps().vms.Find(request.vm()));
    vm_id = vm->id();
  }
  v1::ListContainersResponse list;
  for (const auto& container : containers_.List()) {
    if (!vm_id.empty() && container->record().vm_id() != vm_id) continue;
    if (!request.all() && container->state() == v1::CONTAINER_STATE_STOPPED) continue;
    *list.add_containers() = container->Describe(false);
  }
  return list;
}

grpc::ServerUnaryReactor* ContainerService::ListContainers(grpc::CallbackServerContext* context,
                                                           const v1::ListContainersRequest* request,
                                                           v1::ListContainersResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::ListContainersRequest& list)
          -> Task<absl::StatusOr<v1::ListContainersResponse>> { co_return List(list); },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* ContainerService::GetContainerStats(grpc::CallbackServerContext* context,
                                                              const v1::ContainerRef* request,
                                                              v1::ContainerStats* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::ContainerRef& ref) -> Task<absl::StatusOr<v1::ContainerStats>> {
        auto container = Find(ref);
        if (!container.ok()) co_return container.status();
        auto metrics = co_await (*container)->Stats();
        if (!metrics.ok()) co_return metrics.status();
        co_return ToProto((*container)->id(), *metrics);
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* ContainerService::ReadContainerOutput(
    grpc::CallbackServerContext* context, const v1::ReadContainerOutputRequest* request,
    v1::ReadOutputResponse* response) {
  return rpc::ServeUnary(
      context, executor(), request, response,
      [this](const v1::ReadContainerOutputRequest& read)
          -> Task<absl::StatusOr<v1::ReadOutputResponse>> {
        auto container = Find(read.ref());
        if (!container.ok()) co_return container.status();
        CO_RETURN_IF_ERROR(co_await (*container)->AwaitTakenUp());
        const ReadStream part = [&container](guest::Stream stream, uint64_t since, size_t limit) {
          return (*container)->ReadOutput(stream, since, limit);
        };
        co_return ReadParts(read.stdout_since(), read.stderr_since(), part);
      },
      rpc::OnCallerGone::kCancel);
}

}  // namespace ferry::vm
