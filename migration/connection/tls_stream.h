#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "migration/connection/byte_stream.h"

namespace ferry::migration {

// PEM files of a daemon's identity and of who it trusts.
struct TlsFiles {
  std::string certificate_chain;
  std::string private_key;
  std::string trusted_ca;
};

// Mutual TLS 1.3: both sides show a certificate and verify the other's.
class TlsContext;

absl::StatusOr<std::shared_ptr<TlsContext>> LoadTls(const TlsFiles& files);

// TLS on a connected socket. The client also checks that the certificate names `peer_name` (a DNS
// name or an IP address).
Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsClientStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::string peer_name,
    std::chrono::milliseconds deadline);
Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsServerStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::chrono::milliseconds deadline);

}  // namespace ferry::migration
