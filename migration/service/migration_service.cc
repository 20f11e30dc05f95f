#include "migration/service/migration_service.h"

#include <boost/system/system_error.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::migration {
namespace {

using NotificationStream = rpc::ServerStream<v1::NotificationsResponse>;

// How many new notifications a subscriber that takes none may fall behind.
constexpr uint32_t kMaxBehind = 1024;

// Returns when the transport has taken what was written, true; or false when the caller is gone.
// RESOURCE_EXHAUSTED if too much happens meanwhile.
Task<absl::StatusOr<bool>> AwaitTaken(std::shared_ptr<Notifier> notifier,
                                      std::shared_ptr<NotificationStream> stream) {
  using asio::experimental::awaitable_operators::operator||;
  const uint32_t limit = notifier->last_id() + kMaxBehind;
  try {
    auto first = co_await (stream->WaitFlushed() || notifier->AwaitPublished(limit));
    if (first.index() == 0) co_return std::get<0>(first);
  } catch (const asio::multiple_exceptions&) {
    throw boost::system::system_error(asio::error::operation_aborted);
  }
  co_return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted,
                                 absl::StrCat("the subscriber does not read: ", kMaxBehind,
                                              " notifications have come since it took one"),
                                 "subscriber_too_slow",
                                 "subscribe again after the last message id that you have seen");
}

Task<absl::Status> SendNotifications(std::shared_ptr<Notifier> notifier, uint32_t last_seen,
                                     std::shared_ptr<NotificationStream> stream) {
  const Notifier::Subscription subscription(notifier);
  while (true) {
    auto messages = co_await notifier->Next(last_seen);
    if (!messages.ok()) co_return messages.status();
    if (messages->empty()) co_return absl::OkStatus();
    for (v1::NotificationsResponse& message : *messages) {
      last_seen = message.message_id();
      stream->Write(std::move(message));
      auto taken = co_await AwaitTaken(notifier, stream);
      if (!taken.ok()) co_return taken.status();
      if (!*taken) co_return absl::OkStatus();
    }
  }
}

// Only who is on this host may name a process of it.
absl::Status CheckNamesProcessSocket(const v1::CreateDuplicateSocketRequest& request, bool local) {
  if (!request.protocol_info().empty()) {
    return absl::InvalidArgumentError(
        "the call carries a ticket and a process's socket; it may be only one of them");
  }
  if (local) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kPermissionDenied,
                              "a process's socket may only be named over the daemon's Unix socket",
                              "not_local", "make this call on the daemon's host");
}

}  // namespace

Task<absl::Status> MigrationService::CheckPeer(rpc::Caller caller, std::string session_id,
                                               Bound bound) {
  if (!caller.IsOnlyPeer()) co_return absl::OkStatus();
  auto peer = co_await sessions_.PeerOf(session_id);
  if (!peer.ok()) co_return peer.status();
  // The call itself knows what to say about a session that nobody knows.
  if (!*peer || **peer == caller.peer_name()) co_return absl::OkStatus();
  if ((*peer)->empty() && bound == Bound::kToNobodyElse) co_return absl::OkStatus();
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kPermissionDenied,
      absl::StrCat("session ", session_id, " is not one of host ", caller.peer_name()),
      "not_your_session", "a host may only speak of migrations between itself and this one");
}

grpc::ServerUnaryReactor* MigrationService::Migrate(grpc::CallbackServerContext* context,
                                                    const v1::MigrateRequest* request,
                                                    v1::Session* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::MigrateRequest& migrate) -> Task<absl::StatusOr<v1::Session>> {
        v1::MigrateRequest own = migrate;
        co_return co_await sessions_.Migrate(std::move(own));
      });
}

grpc::ServerUnaryReactor* MigrationService::PrepareAndExportSandbox(
    grpc::CallbackServerContext* context, const v1::PrepareAndExportSandboxRequest* request,
    v1::PrepareAndExportSandboxResponse* response) {
  return rpc::ServeUnary(context, executor_, request, response,
                         [this](const v1::PrepareAndExportSandboxRequest& prepare)
                             -> Task<absl::StatusOr<v1::PrepareAndExportSandboxResponse>> {
                           v1::PrepareAndExportSandboxRequest own = prepare;
                           auto plan = co_await sessions_.PrepareAndExport(std::move(own));
                           if (!plan.ok()) co_return plan.status();
                           v1::PrepareAndExportSandboxResponse result;
                           result.set_config(*std::move(plan));
                           co_return result;
                         });
}

grpc::ServerUnaryReactor* MigrationService::ImportSandbox(grpc::CallbackServerContext* context,
                                                          const v1::ImportSandboxRequest* request,
                                                          v1::ImportSandboxResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::ImportSandboxRequest& import)
          -> Task<absl::StatusOr<v1::ImportSandboxResponse>> {
        v1::ImportSandboxRequest own = import;
        CO_RETURN_IF_ERROR(co_await sessions_.Import(std::move(own), caller.peer_name()));
        v1::ImportSandboxResponse result;
        for (auto& container : sessions_.Incoming(import.session_id())) {
          *result.add_containers() = std::move(container);
        }
        for (auto& disk : sessions_.IncomingDisks(import.session_id())) {
          *result.add_disks() = std::move(disk);
        }
        co_return result;
      });
}

grpc::ServerUnaryReactor* MigrationService::BindContainer(grpc::CallbackServerContext* context,
                                                          const v1::BindContainerRequest* request,
                                                          v1::BindContainerResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](
          const v1::BindContainerRequest& bind) -> Task<absl::StatusOr<v1::BindContainerResponse>> {
        v1::BindContainerRequest own = bind;
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, own.session_id(), Bound::kToCaller));
        co_return co_await sessions_.Bind(std::move(own));
      });
}

grpc::ServerUnaryReactor* MigrationService::ReceiveLayers(grpc::CallbackServerContext* context,
                                                          const v1::ReceiveLayersRequest* request,
                                                          v1::ReceiveLayersResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::ReceiveLayersRequest& receive)
          -> Task<absl::StatusOr<v1::ReceiveLayersResponse>> {
        v1::ReceiveLayersRequest own = receive;
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, own.session_id(), Bound::kToCaller));
        co_return co_await sessions_.ReceiveLayers(std::move(own));
      });
}

grpc::ServerUnaryReactor* MigrationService::SendLayers(grpc::CallbackServerContext* context,
                                                       const v1::SendLayersRequest* request,
                                                       v1::SendLayersResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::SendLayersRequest& send) -> Task<absl::StatusOr<v1::SendLayersResponse>> {
        v1::SendLayersRequest own = send;
        CO_RETURN_IF_ERROR(co_await sessions_.SendLayers(std::move(own)));
        co_return v1::SendLayersResponse();
      });
}

grpc::ServerUnaryReactor* MigrationService::PrepareSandbox(grpc::CallbackServerContext* context,
                                                           const v1::PrepareSandboxRequest* request,
                                                           v1::PrepareSandboxResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::PrepareSandboxRequest& prepare)
          -> Task<absl::StatusOr<v1::PrepareSandboxResponse>> {
        v1::PrepareSandboxRequest own = prepare;
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, own.session_id(), Bound::kToCaller));
        co_return co_await sessions_.Prepare(std::move(own));
      });
}

grpc::ServerUnaryReactor* MigrationService::ReceiveDisks(grpc::CallbackServerContext* context,
                                                         const v1::ReceiveDisksRequest* request,
                                                         v1::ReceiveDisksResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::ReceiveDisksRequest& receive)
          -> Task<absl::StatusOr<v1::ReceiveDisksResponse>> {
        v1::ReceiveDisksRequest own = receive;
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, own.session_id(), Bound::kToCaller));
        co_return co_await sessions_.ReceiveDisks(std::move(own));
      });
}

grpc::ServerUnaryReactor* MigrationService::SendDisks(grpc::CallbackServerContext* context,
                                                      const v1::SendDisksRequest* request,
                                                      v1::SendDisksResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::SendDisksRequest& send) -> Task<absl::StatusOr<v1::SendDisksResponse>> {
        v1::SendDisksRequest own = send;
        CO_RETURN_IF_ERROR(co_await sessions_.SendDisks(std::move(own)));
        co_return v1::SendDisksResponse();
      });
}

grpc::ServerUnaryReactor* MigrationService::TransferSandbox(
    grpc::CallbackServerContext* context, const v1::TransferSandboxRequest* request,
    v1::TransferSandboxResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::TransferSandboxRequest& transfer)
          -> Task<absl::StatusOr<v1::TransferSandboxResponse>> {
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, transfer.session_id(), Bound::kToCaller));
        auto session = sessions_.Find(transfer.session_id());
        if (!session.ok()) co_return session.status();
        v1::TransferSandboxRequest own = transfer;
        CO_RETURN_IF_ERROR(co_await (*session)->Transfer(std::move(own)));
        co_return v1::TransferSandboxResponse();
      });
}

grpc::ServerUnaryReactor* MigrationService::FinalizeSandbox(
    grpc::CallbackServerContext* context, const v1::FinalizeSandboxRequest* request,
    v1::FinalizeSandboxResponse* response) {
  return rpc::ServeUnary(context, executor_, request, response,
                         [this](const v1::FinalizeSandboxRequest& finalize)
                             -> Task<absl::StatusOr<v1::FinalizeSandboxResponse>> {
                           auto session = sessions_.Find(finalize.session_id());
                           if (!session.ok()) co_return session.status();
                           std::string given = finalize.proof();
                           auto proof =
                               co_await (*session)->Finalize(finalize.action(), std::move(given));
                           if (!proof.ok()) co_return proof.status();
                           v1::FinalizeSandboxResponse result;
                           result.set_proof(*std::move(proof));
                           co_return result;
                         });
}

grpc::ServerWriteReactor<v1::NotificationsResponse>* MigrationService::Notifications(
    grpc::CallbackServerContext* context, const v1::NotificationsRequest* request) {
  return rpc::ServeStream<v1::NotificationsResponse>(
      context, executor_, request,
      [this](const v1::NotificationsRequest& subscribe,
             std::shared_ptr<NotificationStream> stream) -> Task<absl::Status> {
        const uint32_t last_seen = subscribe.after_message_id();
        auto notifier = co_await sessions_.Notifications(subscribe.session_id());
        if (!notifier.ok()) co_return notifier.status();
        co_return co_await SendNotifications(*notifier, last_seen, std::move(stream));
      });
}

grpc::ServerUnaryReactor* MigrationService::CreateDuplicateSocket(
    grpc::CallbackServerContext* context, const v1::CreateDuplicateSocketRequest* request,
    v1::CreateDuplicateSocketResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::CreateDuplicateSocketRequest& duplicate)
          -> Task<absl::StatusOr<v1::CreateDuplicateSocketResponse>> {
        auto session = sessions_.Find(duplicate.session_id());
        if (!session.ok()) co_return session.status();
        if (!duplicate.has_process_socket()) {
          std::string ticket = duplicate.protocol_info();
          CO_RETURN_IF_ERROR(co_await (*session)->AdoptSocket(std::move(ticket)));
          co_return v1::CreateDuplicateSocketResponse();
        }
        const bool local = caller.way == rpc::Caller::Way::kLocal;
        CO_RETURN_IF_ERROR(CheckNamesProcessSocket(duplicate, local));
        const ProcessSocket socket{duplicate.process_socket().pid(),
                                   duplicate.process_socket().fd()};
        CO_RETURN_IF_ERROR(co_await (*session)->AdoptProcessSocket(socket, caller.uid));
        co_return v1::CreateDuplicateSocketResponse();
      });
}

grpc::ServerUnaryReactor* MigrationService::Cancel(grpc::CallbackServerContext* context,
                                                   const v1::CancelRequest* request,
                                                   v1::CancelResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](
          const v1::CancelRequest& cancel) -> Task<absl::StatusOr<v1::CancelResponse>> {
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, cancel.session_id(), Bound::kToCaller));
        auto session = sessions_.Find(cancel.session_id());
        if (!session.ok()) co_return session.status();
        std::string reason = "cancelled on request";
        CO_RETURN_IF_ERROR(co_await (*session)->Cancel(std::move(reason)));
        co_return v1::CancelResponse();
      });
}

grpc::ServerUnaryReactor* MigrationService::Cleanup(grpc::CallbackServerContext* context,
                                                    const v1::CleanupRequest* request,
                                                    v1::CleanupResponse* response) {
  return rpc::ServeUnary(context, executor_, request, response,
                         [this, caller = rpc::CallerOf(*context)](const v1::CleanupRequest& cleanup)
                             -> Task<absl::StatusOr<v1::CleanupResponse>> {
                           std::string id = cleanup.session_id();
                           CO_RETURN_IF_ERROR(co_await CheckPeer(caller, id, Bound::kToCaller));
                           CO_RETURN_IF_ERROR(co_await sessions_.Cleanup(std::move(id)));
                           co_return v1::CleanupResponse();
                         });
}

grpc::ServerUnaryReactor* MigrationService::SettleSession(grpc::CallbackServerContext* context,
                                                          const v1::SettleSessionRequest* request,
                                                          v1::SettleSessionResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::SettleSessionRequest& settle)
          -> Task<absl::StatusOr<v1::SettleSessionResponse>> {
        v1::SettleSessionRequest own = settle;
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, own.session_id(), Bound::kToNobodyElse));
        const bool may = caller.Has({identity::Role::kPeer, identity::Role::kAdmin});
        const MayForce may_force = may ? MayForce::kYes : MayForce::kNo;
        co_return co_await sessions_.Settle(std::move(own), caller.peer_name(), may_force);
      });
}

grpc::ServerUnaryReactor* MigrationService::GetTrace(grpc::CallbackServerContext* context,
                                                     const v1::GetTraceRequest* request,
                                                     v1::GetTraceResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::GetTraceRequest& get) -> Task<absl::StatusOr<v1::GetTraceResponse>> {
        auto trace = sessions_.Trace(get.session_id());
        if (!trace.ok()) co_return trace.status();
        v1::GetTraceResponse result;
        result.set_trace_json(*std::move(trace));
        co_return result;
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* MigrationService::Preflight(grpc::CallbackServerContext* context,
                                                      const v1::PreflightRequest* request,
                                                      v1::PreflightResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](const v1::PreflightRequest& ask) -> Task<absl::StatusOr<v1::PreflightResponse>> {
        v1::PreflightRequest own = ask;
        co_return co_await preflight_.Run(std::move(own));
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* MigrationService::PreflightIncoming(
    grpc::CallbackServerContext* context, const v1::PreflightIncomingRequest* request,
    v1::PreflightResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](
          const v1::PreflightIncomingRequest& ask) -> Task<absl::StatusOr<v1::PreflightResponse>> {
        v1::PreflightIncomingRequest own = ask;
        co_return co_await preflight_.RunIncoming(std::move(own));
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* MigrationService::RecoverSession(grpc::CallbackServerContext* context,
                                                           const v1::RecoverSessionRequest* request,
                                                           v1::RecoverSessionResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](const v1::RecoverSessionRequest& recover)
          -> Task<absl::StatusOr<v1::RecoverSessionResponse>> {
        v1::RecoverSessionRequest own = recover;
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, own.session_id(), Bound::kToNobodyElse));
        co_return co_await sessions_.RecoverSession(std::move(own));
      });
}

grpc::ServerUnaryReactor* MigrationService::GetSession(grpc::CallbackServerContext* context,
                                                       const v1::GetSessionRequest* request,
                                                       v1::Session* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this, caller = rpc::CallerOf(*context)](
          const v1::GetSessionRequest& get) -> Task<absl::StatusOr<v1::Session>> {
        CO_RETURN_IF_ERROR(co_await CheckPeer(caller, get.session_id(), Bound::kToNobodyElse));
        co_return sessions_.Describe(get.session_id());
      },
      rpc::OnCallerGone::kCancel);
}

grpc::ServerUnaryReactor* MigrationService::ListSessions(grpc::CallbackServerContext* context,
                                                         const v1::ListSessionsRequest* request,
                                                         v1::ListSessionsResponse* response) {
  return rpc::ServeUnary(
      context, executor_, request, response,
      [this](
          const v1::ListSessionsRequest& list) -> Task<absl::StatusOr<v1::ListSessionsResponse>> {
        v1::ListSessionsResponse result;
        for (v1::Session& session : sessions_.List(list.vm())) {
          *result.add_sessions() = std::move(session);
        }
        co_return result;
      },
      rpc::OnCallerGone::kCancel);
}

}  // namespace ferry::migration
