#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "migration/controller/peer_client.h"
#include "vmmanager/identity/certificate_files.h"

namespace ferry::migration {

// The other host's MigrationService over gRPC, with a deadline on every call. Each call uses the
// certificates that `files` hold then; nullptr: without TLS. INVALID_ARGUMENT if it is no address.
absl::StatusOr<std::shared_ptr<PeerClient>> MakeGrpcPeerClient(
    const std::string& address, std::shared_ptr<identity::CertificateFiles> files);

}  // namespace ferry::migration
