#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/network/address.h"
#include "bridge/network/route_socket.h"
#include "vmmanager/network/host_network.h"

// What is done to the host's taps and bridges, one step each. Blocking.
namespace ferry::vm {

// A new tap in that bridge, down. FAILED_PRECONDITION, with what to do, if there is no such bridge,
// it is down, or this process may not do that. `asked` is the bridge's name elsewhere.
absl::StatusOr<Tap> OpenTapInBridge(net::RouteSocket& kernel, const std::string& bridge,
                                    const std::string& asked, const net::MacAddress& card);

// A tap that is there already; left up or down, as it is. FAILED_PRECONDITION, with what to do, if
// there is none, it is in use, or it is down and this process may not set it up.
absl::StatusOr<Tap> OpenOwnTap(net::RouteSocket& kernel, const std::string& name);

// A tap's own address, for the card's: no bridge takes it for its own, because it is the highest.
net::MacAddress TapAddress(const net::MacAddress& card);

absl::Status SetCarries(net::RouteSocket& kernel, int tap, bool carries);

}  // namespace ferry::vm
