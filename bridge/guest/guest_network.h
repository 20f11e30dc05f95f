#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/network/route_messages.h"
#include "bridge/protocol/network_messages.h"

namespace ferry::bridge {

// The guest's network cards.
class GuestNetwork {
 public:
  virtual ~GuestNetwork() = default;

  // Makes the card an interface with that name, its addresses and routes. NOT_FOUND if there is no
  // such card, INVALID_ARGUMENT if it cannot be what is asked for. Repeating it does no harm.
  virtual absl::Status Add(const NetworkAdapter& adapter) = 0;
};

// The kernel's. Loads the cards' driver when the first one is asked for.
class LinuxGuestNetwork : public GuestNetwork {
 public:
  absl::Status Add(const NetworkAdapter& adapter) override;

 private:
  bool driver_loaded_ = false;
};

// What the kernel is asked for, one after the other, and what that is for.
struct NetworkStep {
  std::string request;
  std::string what;
  bool may_exist = false;  // it does no harm if that is there already
};

// Without I/O: how the card becomes what is asked for where these interfaces are.
absl::StatusOr<std::vector<NetworkStep>> PlanNetwork(const NetworkAdapter& adapter,
                                                     const std::vector<net::Link>& links);

}  // namespace ferry::bridge
