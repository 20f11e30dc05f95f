#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmmanager/identity/certificate_files.h"

namespace grpc {
class Channel;
class ChannelCredentials;
}  // namespace grpc

// Addresses and credentials of Ferry's gRPC endpoints.
namespace ferry::rpc {

inline constexpr int kMaxMessageBytes = 64 << 20;

// Where ferryd serves and its clients look unless told otherwise.
inline constexpr char kDefaultSocket[] = "/run/ferry/ferryd.sock";

// "unix:/path", "host:port" or "[v6]:port".
struct Address {
  bool is_unix = false;
  std::string path;  // of a Unix socket
  std::string host;  // without brackets
  int port = 0;      // 0 only makes sense for listening

  // As gRPC and people write it.
  std::string ToString() const;
};

absl::StatusOr<Address> ParseAddress(absl::string_view text);

using TlsFiles = identity::TlsFiles;

// Credentials that verify the other side against `ca`; without files insecure ones. At least TLS
// 1.3 is spoken.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const TlsFiles& files);

// A channel of its own (never shared between callers of this function), which connects when first
// used, ignores proxies, reconnects quickly and notices a dead peer. Unix sockets never use TLS.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(absl::string_view address,
                                                           const TlsFiles& files);
// The same with what such files held; nullptr: insecure.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannelWith(
    absl::string_view address, const std::shared_ptr<const identity::Credentials>& credentials);

}  // namespace ferry::rpc
