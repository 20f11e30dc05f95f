// A QEMU's network cards: plugged in before it starts, carrying and announced when its guest runs.
#include <spdlog/spdlog.h>

#include <boost/json/object.hpp>

#include "vmmanager/qemu/qemu_machine.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

// QEMU's own defaults, in milliseconds: after 50, 150, 250, 350 and 450 ms once more each.
constexpr int kAnnounceFirst = 50;
constexpr int kAnnounceLast = 550;
constexpr int kAnnounceRounds = 5;
constexpr int kAnnounceStep = 100;

}  // namespace

Task<absl::Status> QemuMachine::PlugCards() {
  const absl::Status plugged =
      co_await cards_.Open(document_.virtual_machine.devices.network_adapters);
  if (!ended_.is_set() && !detached_) co_return plugged;
  cards_.CloseDescriptors();
  co_return absl::CancelledError("the VM was ended while it started");
}

// QEMU would do so by itself when it has taken a migration, but before the guest runs and the cards
// carry, so it is told not to. It also tells the guest to, which alone knows its addresses.
Task<void> QemuMachine::Announce(std::shared_ptr<QemuMachine> self) {
  json::object how = {{"initial", kAnnounceFirst},
                      {"max", kAnnounceLast},
                      {"rounds", kAnnounceRounds},
                      {"step", kAnnounceStep}};
  const absl::Status announced = (co_await self->Command("announce-self", std::move(how))).status();
  if (announced.ok() || self->ended_.is_set() || self->detached_) co_return;
  spdlog::warn("vm {}: its network was not told where it is: {}", self->id_,
               std::string(announced.message()));
}

Task<void> QemuMachine::RejoinNetworks(std::shared_ptr<QemuMachine> self) {
  // It may have been stopped for a switchover since this was asked for.
  const auto runs_here = [&self] {
    return self->state_ == schema::SystemState::kRunning && !self->ended_.is_set() &&
           !self->detached_;
  };
  if (!runs_here()) co_return;
  co_await self->cards_.Carry(self->id_);
  if (runs_here()) co_await Announce(self);
}

}  // namespace ferry::vm
