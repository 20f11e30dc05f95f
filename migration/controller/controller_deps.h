#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "migration/connection/session_listener.h"
#include "migration/connection/socket_handoff.h"
#include "migration/connection/tls_stream.h"
#include "migration/controller/peer_client.h"
#include "vmmanager/containers/container_moves.h"
#include "vmmanager/sandbox/fingerprint.h"
#include "vmmanager/sandbox/vm_inventory.h"
#include "vmmanager/schema/migration.h"

namespace ferry::migration {

// How long the two sides of a migration wait for each other.
struct ControllerLimits {
  milliseconds cut{10'000};       // destination: from the memory's end to the cut
  milliseconds vote{30'000};      // source: until the destination has loaded and verified all
  milliseconds decision{60'000};  // destination: how long a vote stands without a word
  milliseconds release{5'000};    // source: for DONE, before the destination is asked again
  milliseconds ask_again{500};    // between two such questions
  milliseconds stall{30'000};     // source: how long no byte may move before the cut; 0: for ever

  // Those of a session: with prepare_memory_transfer_mode it waits longer for the cut, the vote and
  // a transfer that stalls.
  static constexpr int kPatience = 4;
  ControllerLimits For(const schema::MigrationInitializeOptions& options) const;
};

// What the sessions of a host work with. All must outlive the sessions.
struct ControllerDeps {
  vm::VmInventory& inventory;
  vm::ImageDigests& digests;
  SessionListener& listener;
  SocketHandoff& handoff;
  PeerFactory make_peer;
  std::shared_ptr<TlsContext> tls;  // null: plain TCP
  std::string runtime_dir;          // short; for the sessions' private sockets, in 0700 folders
  ControllerLimits limits = {};
  // The VMMs' user and group if they are not the daemon's own; it gets the folders in
  // `runtime_dir`.
  std::optional<std::pair<uid_t, gid_t>> vmm_owner = std::nullopt;
  // nullptr: this host has no containers, and no VM that has some comes here.
  vm::ContainerInventory* containers = nullptr;
  vm::ContainerExports* exports = nullptr;
  uint64_t image_reserve = 0;  // bytes that the layers of images leave free on their disk
  // Told the name of each point at which a test may have the daemon die, such as "COMMIT.after".
  std::function<void(const std::string&)> failpoint = [](const std::string&) {};

  const Executor& executor() const { return inventory.deps().executor; }
  vm::Store& store() const { return inventory.deps().store; }
  vm::EventLog& events() const { return inventory.deps().events; }
  const std::string& own_address() const { return inventory.deps().settings.advertised_address; }
};

}  // namespace ferry::migration
