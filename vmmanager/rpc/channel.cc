#include "vmmanager/rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/un.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/host_port.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/identity/tls_version.h"

namespace ferry::rpc {
namespace {

absl::Status BadAddress(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", text, "\": ", why, "; write unix:/path, host:port or [v6]:port"));
}

absl::StatusOr<Address> ParseUnix(absl::string_view text, absl::string_view path) {
  Address address;
  address.is_unix = true;
  address.path = std::string(path);
  if (path.empty() || path[0] != '/') return BadAddress(text, "the socket's path must be absolute");
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return BadAddress(text, "a socket's path holds at most 107 bytes");
  }
  return address;
}

std::shared_ptr<grpc::ChannelCredentials> FromPem(const identity::Credentials& pems) {
  identity::RequireTls13();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = pems.ca;
  options.pem_cert_chain = pems.cert;
  options.pem_private_key = pems.key;
  return grpc::SslCredentials(options);
}

std::shared_ptr<grpc::Channel> MakeChannel(
    const Address& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // also how long one attempt may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  const std::string target =
      address.is_unix ? address.ToString() : absl::StrCat("dns:///", address.ToString());
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

}  // namespace

std::string Address::ToString() const {
  if (is_unix) return absl::StrCat("unix:", path);
  return FormatHostPort({host, static_cast<uint16_t>(port)});
}

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "unix://") || absl::ConsumePrefix(&rest, "unix:")) {
    return ParseUnix(text, rest);
  }
  absl::StatusOr<HostPort> tcp = ParseHostPort(std::string_view(text.data(), text.size()));
  if (!tcp.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(tcp.status().message(), " (or unix:/path)"));
  }
  return Address{.is_unix = false, .path = "", .host = std::move(tcp->host), .port = tcp->port};
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const TlsFiles& files) {
  if (files.empty()) return grpc::InsecureChannelCredentials();
  ASSIGN_OR_RETURN(const identity::Credentials pems, identity::ReadCredentials(files));
  return FromPem(pems);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(absl::string_view address,
                                                           const TlsFiles& files) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  ASSIGN_OR_RETURN(auto credentials, MakeChannelCredentials(parsed.is_unix ? TlsFiles() : files));
  return MakeChannel(parsed, std::move(credentials));
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannelWith(
    absl::string_view address, const std::shared_ptr<const identity::Credentials>& credentials) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  const bool secure = credentials != nullptr && !parsed.is_unix;
  return MakeChannel(parsed, secure ? FromPem(*credentials) : grpc::InsecureChannelCredentials());
}

}  // namespace ferry::rpc
