#include "vmmanager/rpc/caller.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>
#include <unistd.h>

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/peer_user.h"

namespace ferry::rpc {
namespace {

using identity::Role;
using identity::Roles;

// How gRPC names connections that it was handed; see LocalListener.
constexpr char kHandedOver[] = "fd:";

bool IsTls(const grpc::AuthContext& context) {
  for (grpc::string_ref type :
       context.FindPropertyValues(GRPC_TRANSPORT_SECURITY_TYPE_PROPERTY_NAME)) {
    if (type == GRPC_SSL_TRANSPORT_SECURITY_TYPE) return true;
  }
  return false;
}

}  // namespace

bool Caller::Has(Roles roles) const {
  if (way == Way::kCertificate) return identity.roles.HasAnyOf(roles);
  return roles.HasAnyOf({Role::kViewer, Role::kOperator, Role::kAdmin});
}

std::string Caller::peer_name() const { return Has({Role::kPeer}) ? identity.name : ""; }

bool Caller::IsOnlyPeer() const { return !Has({Role::kViewer, Role::kOperator, Role::kAdmin}); }

std::string Caller::ToString() const {
  if (way == Way::kLocal) return absl::StrCat("uid ", uid);
  if (way == Way::kInsecure) return address;
  return identity.name.empty() ? absl::StrCat("a nameless certificate at ", address)
                               : identity.name;
}

Caller CallerWithCertificate(const std::vector<std::string>& uris) {
  Caller caller;
  caller.way = Caller::Way::kCertificate;
  caller.identity = identity::IdentityFromUris(uris).value_or(identity::Identity());
  return caller;
}

uid_t LocalUser(absl::string_view address, uid_t own) {
  int fd = -1;
  absl::ConsumePrefix(&address, kHandedOver);
  if (own == 0 || !absl::SimpleAtoi(address, &fd)) return own;
  return PeerUser(fd) == std::optional<uid_t>(0) ? 0 : own;
}

Caller CallerOf(const grpc::ServerContextBase& context) {
  Caller caller;
  const std::string address = context.peer();
  const std::shared_ptr<const grpc::AuthContext> authenticated = context.auth_context();
  if (authenticated != nullptr && IsTls(*authenticated)) {
    std::vector<std::string> uris;
    for (grpc::string_ref uri : authenticated->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
      uris.emplace_back(uri.data(), uri.size());
    }
    caller = CallerWithCertificate(uris);
    caller.address = address;
  } else if (absl::StartsWith(address, kHandedOver)) {
    caller.way = Caller::Way::kLocal;
    caller.uid = LocalUser(address, ::geteuid());
  } else {
    caller.address = address;
  }
  return caller;
}

}  // namespace ferry::rpc
