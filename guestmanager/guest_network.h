#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/network_messages.h"
#include "bridge/runtime/async.h"

// What the host says to an agent about the VM's network cards.
namespace ferry::guest {

class GuestConnection;

// As Guest::AddAdapters(); each card's answer takes no longer than `limit`.
Task<absl::Status> AddGuestAdapters(std::shared_ptr<GuestConnection> connection,
                                    std::vector<bridge::NetworkAdapter> adapters,
                                    milliseconds limit);

// As Guest::Leases().
Task<absl::StatusOr<std::vector<bridge::NetworkLease>>> AskForLeases(
    std::shared_ptr<GuestConnection> connection, milliseconds limit);

}  // namespace ferry::guest
