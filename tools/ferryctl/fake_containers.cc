#include "tools/ferryctl/fake_containers.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::ctl {
namespace {

// So that a few words take several answers.
constexpr size_t kPart = 4;

constexpr uint32_t kInit = 7;

}  // namespace

FakeContainers::FakeContainers(Executor executor)
    : executor_(executor), gate_(executor), asked_(executor) {
  gate_.Set();
}

v1::Container& FakeContainers::Add(const std::string& name, v1::ContainerState state) {
  v1::Container& container = containers[name];
  container.set_id(absl::StrCat("id-of-", name));
  container.mutable_spec()->set_name(name);
  container.set_vm_id("vm-1");
  container.set_vm_name("one");
  container.set_state(state);
  if (state != v1::CONTAINER_STATE_CREATED) container.set_process_id(kInit);
  return container;
}

absl::StatusOr<v1::Container*> FakeContainers::Find(const v1::ContainerRef& ref) {
  asked_.Set();
  for (auto& [name, container] : containers) {
    const bool meant = name == ref.container() || container.id() == ref.container() ||
                       container.guest_id() == ref.container();
    const bool there = ref.vm() == container.vm_name() || ref.vm() == container.vm_id();
    if (meant && (ref.vm().empty() || there)) return &container;
  }
  return rpc::ErrorWithReason(absl::StatusCode::kNotFound,
                              absl::StrCat("there is no container \"", ref.container(), "\""),
                              "container_not_found", "ferryctl container list --all shows all.");
}

grpc::ServerUnaryReactor* FakeContainers::Change(grpc::CallbackServerContext* context,
                                                 const v1::ContainerRef* request,
                                                 v1::Container* response, v1::ContainerState state,
                                                 const absl::Status& status) {
  auto handler = [this, state,
                  status](const v1::ContainerRef& ref) -> Task<absl::StatusOr<v1::Container>> {
    CO_ASSIGN_OR_RETURN(v1::Container* const container, Find(ref));
    CO_RETURN_IF_ERROR(status);
    container->set_state(state);
    container->set_process_id(kInit);
    co_return *container;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeContainers::CreateContainer(grpc::CallbackServerContext* context,
                                                          const v1::CreateContainerRequest* request,
                                                          v1::Container* response) {
  auto handler =
      [this](const v1::CreateContainerRequest& r) -> Task<absl::StatusOr<v1::Container>> {
    created = r;
    asked_.Set();
    co_await gate_.Wait();
    CO_RETURN_IF_ERROR(create_status);
    const std::string name = r.spec().name().empty() ? "made-up" : r.spec().name();
    v1::Container& container = Add(name, v1::CONTAINER_STATE_CREATED);
    *container.mutable_spec() = r.spec();
    container.mutable_spec()->set_name(name);
    if (!knows_mounts) container.mutable_spec()->clear_mounts();
    co_return container;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeContainers::StartContainer(grpc::CallbackServerContext* context,
                                                         const v1::ContainerRef* request,
                                                         v1::Container* response) {
  return Change(context, request, response, v1::CONTAINER_STATE_RUNNING, start_status);
}

grpc::ServerUnaryReactor* FakeContainers::PauseContainer(grpc::CallbackServerContext* context,
                                                         const v1::ContainerRef* request,
                                                         v1::Container* response) {
  return Change(context, request, response, v1::CONTAINER_STATE_PAUSED, absl::OkStatus());
}

grpc::ServerUnaryReactor* FakeContainers::StopContainer(grpc::CallbackServerContext* context,
                                                        const v1::StopContainerRequest* request,
                                                        v1::Container* response) {
  stopped = *request;
  return Change(context, &request->ref(), response, v1::CONTAINER_STATE_STOPPED, absl::OkStatus());
}

grpc::ServerUnaryReactor* FakeContainers::UpdateContainer(grpc::CallbackServerContext* context,
                                                          const v1::UpdateContainerRequest* request,
                                                          v1::Container* response) {
  updated = *request;
  return Change(context, &request->ref(), response, v1::CONTAINER_STATE_RUNNING, absl::OkStatus());
}

grpc::ServerUnaryReactor* FakeContainers::RemoveContainer(grpc::CallbackServerContext* context,
                                                          const v1::RemoveContainerRequest* request,
                                                          v1::RemoveContainerResponse* response) {
  auto handler = [this](const v1::RemoveContainerRequest& r)
      -> Task<absl::StatusOr<v1::RemoveContainerResponse>> {
    CO_ASSIGN_OR_RETURN(v1::Container* const container, Find(r.ref()));
    const std::string name = container->spec().name();
    removed.push_back(absl::StrCat(name, r.force() ? "!" : ""));
    containers.erase(name);
    co_return v1::RemoveContainerResponse();
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeContainers::GetContainer(grpc::CallbackServerContext* context,
                                                       const v1::ContainerRef* request,
                                                       v1::Container* response) {
  auto handler = [this](const v1::ContainerRef& ref) -> Task<absl::StatusOr<v1::Container>> {
    CO_ASSIGN_OR_RETURN(v1::Container* const container, Find(ref));
    if (before_get) before_get(container);
    co_return *container;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeContainers::ListContainers(grpc::CallbackServerContext* context,
                                                         const v1::ListContainersRequest* request,
                                                         v1::ListContainersResponse* response) {
  auto handler =
      [this](
          const v1::ListContainersRequest& r) -> Task<absl::StatusOr<v1::ListContainersResponse>> {
    listed = r;
    v1::ListContainersResponse list;
    for (const auto& [name, container] : containers) {
      const bool over = container.state() == v1::CONTAINER_STATE_STOPPED;
      if (r.all() || !over) *list.add_containers() = container;
    }
    co_return list;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeContainers::GetContainerStats(grpc::CallbackServerContext* context,
                                                            const v1::ContainerRef* request,
                                                            v1::ContainerStats* response) {
  auto handler = [this](const v1::ContainerRef& ref) -> Task<absl::StatusOr<v1::ContainerStats>> {
    CO_ASSIGN_OR_RETURN(v1::Container* const container, Find(ref));
    if (container->state() == v1::CONTAINER_STATE_STOPPED) {
      co_return absl::FailedPreconditionError("it is stopped");
    }
    ++looks;
    // Half a CPU's time from one look to the next.
    v1::ContainerStats stats;
    stats.set_container_id(container->id());
    stats.set_unix_ms(1000 * looks);
    stats.set_cpu_total_ns(500'000'000 * looks);
    stats.set_memory_bytes(3 << 20);
    stats.set_pids(looks);
    co_return stats;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

grpc::ServerUnaryReactor* FakeContainers::ReadContainerOutput(
    grpc::CallbackServerContext* context, const v1::ReadContainerOutputRequest* request,
    v1::ReadOutputResponse* response) {
  auto handler = [this](const v1::ReadContainerOutputRequest& read)
      -> Task<absl::StatusOr<v1::ReadOutputResponse>> {
    CO_RETURN_IF_ERROR(Find(read.ref()).status());
    v1::ReadOutputResponse output;
    v1::ReadOutputResponse::Part* out = output.add_parts();
    const uint64_t end = kept_from + printed.size();
    out->set_stream(v1::STDIO_STREAM_STDOUT);
    out->set_offset(std::clamp<uint64_t>(read.stdout_since(), kept_from, end));
    out->set_data(printed.substr(out->offset() - kept_from, kPart));
    out->set_end(end);
    out->set_ended(print_ended);
    output.add_parts()->set_stream(v1::STDIO_STREAM_STDERR);
    output.mutable_parts(1)->set_offset(stderr_kept_from);
    output.mutable_parts(1)->set_end(stderr_kept_from);
    output.mutable_parts(1)->set_ended(print_ended);
    co_return output;
  };
  return rpc::ServeUnary(context, executor_, request, response, handler);
}

}  // namespace ferry::ctl
