#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "tools/ferryctl/command.h"

namespace ferry::ctl {

struct StartedContainer {
  absl::StatusOr<v1::Container> container;
  std::shared_ptr<Client> there;  // where its VM went meanwhile; nullptr: nowhere
  // It is at a host that does not answer for it. The error says which, and nobody knows whether it
  // runs there.
  bool lost = false;
};

// Starts the container, for a client that stays with it. If its VM goes to another host meanwhile,
// the start goes with it, and the client follows.
Task<StartedContainer> StartAndFollow(Client* client, v1::Container container);

}  // namespace ferry::ctl
