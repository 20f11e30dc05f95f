#include "vmmanager/service/host_service.h"

#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {
namespace {

constexpr uint32_t kApiVersion = 1;
constexpr size_t kEventsPerRead = 256;

v1::Event ToProto(const EventRow& row) {
  v1::Event event;
  event.set_id(row.id);
  event.set_unix_ms(row.unix_ms);
  event.set_type(row.type);
  event.set_subject(row.subject);
  for (const auto& [name, value] : row.attributes) (*event.mutable_attributes())[name] = value;
  return event;
}

using EventStream = rpc::ServerStream<v1::Event>;

Task<absl::Status> SendEvents(EventLog& log, v1::WatchEventsRequest request,
                              std::shared_ptr<EventStream> stream) {
  uint64_t since = request.since();
  while (true) {
    auto events = co_await log.Read(since, kEventsPerRead, request.follow());
    if (!events.ok()) co_return events.status();
    if (events->empty()) co_return absl::OkStatus();
    for (const EventRow& row : *events) {
      since = row.id;
      if (!co_await stream->WaitWritable()) co_return absl::OkStatus();
      stream->Write(ToProto(row));
    }
  }
}

}  // namespace

grpc::ServerUnaryReactor* HostService::GetHost(grpc::CallbackServerContext* context,
                                               const v1::GetHostRequest* request,
                                               v1::Host* response) {
  return rpc::ServeUnary(
      context, inventory_.deps().executor, request, response,
      [this](const v1::GetHostRequest&) -> Task<absl::StatusOr<v1::Host>> {
        const SandboxDeps& deps = inventory_.deps();
        const BackendInfo& backend = deps.backend.info();
        v1::Host host;
        host.set_version(version_);
        host.set_advertised_address(deps.settings.advertised_address);
        host.set_backend(backend.name);
        host.set_backend_version(backend.version);
        host.set_accelerator(backend.accelerator);
        host.set_accelerator_reason(backend.accelerator_reason);
        host.set_machine_type(backend.machine_type);
        host.set_guest_link(deps.settings.use_vsock ? "vsock" : "virtio-serial");
        host.set_journal_id(deps.store.journal_id());
        host.set_api_version(kApiVersion);
        co_return host;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerWriteReactor<v1::Event>* HostService::WatchEvents(
    grpc::CallbackServerContext* context, const v1::WatchEventsRequest* request) {
  return rpc::ServeStream<v1::Event>(
      context, inventory_.deps().executor, request,
      [this](const v1::WatchEventsRequest& watch,
             std::shared_ptr<EventStream> stream) -> Task<absl::Status> {
        co_return co_await SendEvents(inventory_.deps().events, watch, std::move(stream));
      });
}

}  // namespace ferry::vm
