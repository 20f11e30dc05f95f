#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "vmmanager/identity/identity.h"

namespace grpc {
class ServerContextBase;
}  // namespace grpc

namespace ferry::rpc {

// Who makes a call, by the connection that it came over; nothing of it is the caller's own word.
struct Caller {
  enum class Way {
    kCertificate,  // TLS
    kLocal,        // the Unix socket: root or the daemon's user
    kInsecure,     // TCP without TLS, where the administrator allowed it
  };

  Way way = Way::kInsecure;
  identity::Identity identity;  // kCertificate
  uid_t uid = 0;                // kLocal
  std::string address;          // as gRPC writes it; empty for kLocal

  // Whoever needs no certificate may do everything, but is no host of the fleet.
  bool Has(identity::Roles roles) const;

  // The host's name if a daemon calls, else empty.
  std::string peer_name() const;

  // May act on the sessions of one host only: its own.
  bool IsOnlyPeer() const;

  // For people: "alice", "uid 0", "ipv4:192.0.2.1:4711".
  std::string ToString() const;
};

// Whoever showed a certificate with these URIs. Who cannot be told has no name and no role.
Caller CallerWithCertificate(const std::vector<std::string>& uris);

// Who is at the other end of a connection that LocalListener handed to gRPC, which calls it
// "fd:NUMBER". That descriptor may be closed by now and its number another's, so the answer is
// never anybody whom the listener does not serve: root, or `own`, the daemon's user.
uid_t LocalUser(absl::string_view address, uid_t own);

// Of a call that is being served.
Caller CallerOf(const grpc::ServerContextBase& context);

}  // namespace ferry::rpc
