#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "migration/connection/byte_stream.h"
#include "vmmanager/identity/certificate_files.h"
#include "vmmanager/identity/identity.h"

namespace ferry::migration {

// Mutual TLS 1.3 with the certificate files of a daemon, as they are at each handshake: both sides
// show a certificate with the role "peer" and verify the other's.
class TlsContext;

std::shared_ptr<TlsContext> MakeTlsContext(std::shared_ptr<identity::CertificateFiles> files);

// TLS on a connected socket. The client also checks that the certificate names `peer_name` (a DNS
// name or an IP address). UNAUTHENTICATED if the other side is not known, PERMISSION_DENIED if it
// is no host. The stream's peer_name() is the host's name; `peer` is set to whom a verified
// certificate names, whether or not that is a host.
Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsClientStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::string peer_name,
    std::chrono::milliseconds deadline);
Task<absl::StatusOr<std::unique_ptr<ByteStream>>> MakeTlsServerStream(
    UniqueFd socket, std::shared_ptr<TlsContext> context, std::chrono::milliseconds deadline,
    identity::Identity* peer = nullptr);

}  // namespace ferry::migration
