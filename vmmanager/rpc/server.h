#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/identity/certificate_files.h"
#include "vmmanager/rpc/audit_log.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace ferry::rpc {

class LocalListener;

struct ServerOptions {
  // Empty: no Unix socket. Its folder must exist. It serves root and the daemon's user, with
  // everything.
  std::string unix_socket;
  // "host:port"; port 0 lets the kernel choose.
  std::vector<std::string> tcp_addresses;
  // Required for TCP unless insecure_tcp says that anyone who can connect may do everything.
  std::shared_ptr<identity::CertificateFiles> tls;
  bool insecure_tcp = false;
  // Told every change and every refusal; must outlive the server. May be nullptr.
  AuditLog* audit = nullptr;
};

// The gRPC server with its listeners, health and reflection services.
class Server {
 public:
  // Listens and serves `services`, which must outlive the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const std::vector<grpc::Service*>& services);
  ~Server();

  // The TCP addresses with their real ports, in the order of the options.
  const std::vector<std::string>& tcp_addresses() const { return tcp_addresses_; }

  // Refuses new calls, gives those that run `grace` to end, then breaks them off. Returns when no
  // handler runs any more. The io thread stays free, so handlers can end.
  Task<void> Shutdown(milliseconds grace);

 private:
  Server();
  absl::Status ListenLocally(const ServerOptions& options);

  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<LocalListener> local_;
  std::vector<std::string> tcp_addresses_;
};

}  // namespace ferry::rpc
