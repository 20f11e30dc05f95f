#include "vmmanager/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

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

// A socket file is left behind by a daemon that was killed; it is replaced only if nobody answers.
absl::Status ClearStaleSocket(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("cannot look at ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " exists and is not a socket; remove it or choose another path"));
  }
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ||
      errno != ECONNREFUSED) {
    return absl::FailedPreconditionError(
        absl::StrCat("a daemon already listens on ", path, "; stop it or choose another path"));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::InternalError(absl::StrCat("cannot remove ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status CheckUnixSocket(const std::string& path) {
  RETURN_IF_ERROR(ParseAddress(absl::StrCat("unix:", path)).status());
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the socket's folder ", folder, " does not exist; create it first"));
  }
  return ClearStaleSocket(path);
}

// gRPC binds with the process's umask; nobody else may connect, not even for a moment.
class NarrowUmask {
 public:
  NarrowUmask() : old_(::umask(0177)) {}
  ~NarrowUmask() { ::umask(old_); }

 private:
  const mode_t old_;
};

void Configure(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->SetMaxSendMessageSize(kMaxMessageBytes);
  // With SO_REUSEPORT a second daemon would share the port instead of being told.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
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
  if (!addresses.empty() && options.tls.empty() && !options.insecure_tcp) {
    return absl::InvalidArgumentError(
        "listening on TCP needs certificates; name CA, certificate and key, or accept with "
        "insecure TCP that everybody who can connect may do everything");
  }
  return addresses;
}

}  // namespace

Server::Server() = default;

Server::~Server() {
  if (server_) server_->Shutdown(std::chrono::system_clock::now());
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const std::vector<grpc::Service*>& services) {
  ASSIGN_OR_RETURN(std::vector<Address> tcp, CheckTcp(options));
  if (tcp.empty() && options.unix_socket.empty()) {
    return absl::InvalidArgumentError("the server has no address to listen on");
  }
  ASSIGN_OR_RETURN(auto tcp_credentials, MakeServerCredentials(options.tls));
  if (!options.unix_socket.empty()) RETURN_IF_ERROR(CheckUnixSocket(options.unix_socket));

  EnableHealthAndReflection();
  grpc::ServerBuilder builder;
  Configure(&builder);
  std::vector<int> ports(tcp.size(), 0);
  for (size_t i = 0; i < tcp.size(); ++i) {
    builder.AddListeningPort(tcp[i].ToString(), tcp_credentials, &ports[i]);
  }
  if (!options.unix_socket.empty()) {
    builder.AddListeningPort(absl::StrCat("unix:", options.unix_socket),
                             grpc::InsecureServerCredentials());
  }
  for (grpc::Service* service : services) builder.RegisterService(service);

  std::unique_ptr<Server> server(new Server());
  {
    NarrowUmask umask;
    server->server_ = builder.BuildAndStart();
  }
  for (size_t i = 0; i < tcp.size(); ++i) {
    if (ports[i] == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot listen on ", tcp[i].ToString(),
                       ": the port is in use or the address is not this host's"));
    }
    tcp[i].port = ports[i];
    server->tcp_addresses_.push_back(tcp[i].ToString());
  }
  if (!server->server_) {
    return absl::FailedPreconditionError(absl::StrCat("cannot listen on unix:", options.unix_socket,
                                                      "; check that its folder is writable"));
  }
  server->unix_socket_ = options.unix_socket;
  return server;
}

Task<void> Server::Shutdown(milliseconds grace) {
  if (!server_) co_return;
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
