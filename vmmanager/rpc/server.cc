#include "vmmanager/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <spdlog/spdlog.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/rpc/audit_interceptor.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/local_listener.h"
#include "vmmanager/rpc/server_credentials.h"

namespace ferry::rpc {
namespace {

// Both are process-wide switches of gRPC and take effect for servers built later.
void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

// A client has a call for each process that it is attached to, and few others.
constexpr int kMaxCallsPerConnection = 1000;
constexpr int kHandshakeMs = 10'000;
constexpr int kMaxMetadataBytes = 16 << 10;

// Of all messages and buffers together, whoever sends them.
constexpr size_t kMaxMemoryBytes = 1 << 30;

void Configure(grpc::ServerBuilder* builder) {
  builder->SetResourceQuota(grpc::ResourceQuota("ferryd").Resize(kMaxMemoryBytes));
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->SetMaxSendMessageSize(kMaxMessageBytes);
  // With SO_REUSEPORT a second daemon would share the port instead of being told.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

absl::StatusOr<std::vector<Address>> CheckTcp(const ServerOptions& options) {
  std::vector<Address> addresses;
  for (const std::string& text : options.tcp_addresses) {
    ASSIGN_OR_RETURN(Address address, ParseAddress(text));
    if (address.is_unix) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a TCP address"));
    }
    addresses.push_back(std::move(address));
  }
  if (!addresses.empty() && options.tls == nullptr && !options.insecure_tcp) {
    return absl::InvalidArgumentError(
        "listening on TCP needs certificates; name CA, certificate and key, or accept with "
        "insecure TCP that everybody who can connect may do everything");
  }
  return addresses;
}

}  // namespace

Server::Server() = default;

Server::~Server() {
  local_.reset();
  if (server_) server_->Shutdown(std::chrono::system_clock::now());
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const std::vector<grpc::Service*>& services) {
  ASSIGN_OR_RETURN(std::vector<Address> tcp, CheckTcp(options));
  if (tcp.empty() && options.unix_socket.empty()) {
    return absl::InvalidArgumentError("the server has no address to listen on");
  }
  EnableHealthAndReflection();
  grpc::ServerBuilder builder;
  Configure(&builder);
  std::vector<int> ports(tcp.size(), 0);
  for (size_t i = 0; i < tcp.size(); ++i) {
    // Of its own for each address: gRPC asks anew for certificates only where they have changed.
    const auto credentials = options.tls == nullptr
                                 ? grpc::InsecureServerCredentials()
                                 : MakeTlsServerCredentials(options.tls, options.audit);
    builder.AddListeningPort(tcp[i].ToString(), credentials, &ports[i]);
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (options.audit != nullptr) {
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> factories;
    factories.push_back(MakeAuditInterceptors(options.audit));
    builder.experimental().SetInterceptorCreators(std::move(factories));
  }

  std::unique_ptr<Server> server(new Server());
  server->server_ = builder.BuildAndStart();
  for (size_t i = 0; i < tcp.size(); ++i) {
    if (ports[i] == 0) {
      return ErrorWithReason(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("cannot listen on ", tcp[i].ToString(),
                       ": the port is in use or the address is not this host's"),
          "address_not_available",
          "Give another address with --listen, or end the process that has the port (ss -ltnp "
          "lists them).");
    }
    tcp[i].port = ports[i];
    server->tcp_addresses_.push_back(tcp[i].ToString());
  }
  if (!server->server_) return absl::InternalError("gRPC does not start a server");
  if (!options.unix_socket.empty()) RETURN_IF_ERROR(server->ListenLocally(options));
  return server;
}

absl::Status Server::ListenLocally(const ServerOptions& options) {
  LocalListener::Callbacks callbacks;
  callbacks.serve = [server = server_.get()](UniqueFd connection) {
    grpc::AddInsecureChannelFromFd(server, connection.Release());
  };
  callbacks.refused = [audit = options.audit](uid_t uid) {
    spdlog::warn("user {} may not use the API's socket", uid);
    if (audit == nullptr) return;
    AuditRecord record;
    record.time = std::chrono::system_clock::now();
    record.caller.way = Caller::Way::kLocal;
    record.caller.uid = uid;
    record.method = "connect";
    record.outcome = absl::StatusCodeToString(absl::StatusCode::kPermissionDenied);
    record.reason = "other_user";
    audit->WriteRefusal(record);
  };
  ASSIGN_OR_RETURN(local_, LocalListener::Listen(options.unix_socket, std::move(callbacks)));
  return absl::OkStatus();
}

Task<void> Server::Shutdown(milliseconds grace) {
  if (!server_) co_return;
  local_.reset();
  const Executor executor = co_await asio::this_coro::executor;
  auto ended = std::make_shared<AsyncEvent>(executor);
  auto work = asio::make_work_guard(executor);
  grpc::Server* server = server_.get();
  // gRPC's Shutdown blocks until all calls are over, and they end on the io thread.
  std::thread waiter([server, grace, ended, work]() mutable {
    server->Shutdown(std::chrono::system_clock::now() + grace);
    server->Wait();
    const Executor target = work.get_executor();
    asio::post(target, [ended = std::move(ended), work = std::move(work)] { ended->Set(); });
  });
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
  co_await ended->Wait();
  waiter.join();
  server_.reset();
}

}  // namespace ferry::rpc
