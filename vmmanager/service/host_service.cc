#include "vmmanager/service/host_service.h"

#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::vm {
namespace {

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
        co_return DescribeHost(inventory_.deps(), program_);
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
