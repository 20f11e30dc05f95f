#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "migration/controller/peer_client.h"
#include "vmmanager/rpc/channel.h"

namespace ferry::migration {

// The other host's MigrationService over gRPC, with a deadline on every call.
absl::StatusOr<std::shared_ptr<PeerClient>> MakeGrpcPeerClient(const std::string& address,
                                                               const rpc::TlsFiles& tls);

}  // namespace ferry::migration
