// Whether a QEMU runs its guest, and letting it; and what settings of migrations it has.
#include <boost/json/object.hpp>
#include <chrono>

#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/snapshots.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_migration_settings.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr milliseconds kFinishDeadline{10'000};
constexpr milliseconds kFinishPause{1};

}  // namespace

Task<absl::StatusOr<std::string>> QemuMachine::RunState() {
  CO_ASSIGN_OR_RETURN(const json::value status, co_await Command("query-status"));
  const json::object* fields = status.if_object();
  co_return fields == nullptr ? std::string() : TextAt(*fields, "status");
}

Task<absl::StatusOr<std::string>> QemuMachine::SettledRunState() {
  const auto deadline = std::chrono::steady_clock::now() + kFinishDeadline;
  while (true) {
    CO_ASSIGN_OR_RETURN(std::string run_state, co_await RunState());
    if (run_state != "finish-migrate" || std::chrono::steady_clock::now() > deadline) {
      co_return run_state;
    }
    co_await Delay(kFinishPause);
  }
}

Task<absl::Status> QemuMachine::RunGuest() {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  const bool were_silent = cards_.silent();
  const uint64_t stops = stops_;
  // First, for what the guest sends into a card that carries nothing is lost.
  co_await cards_.Carry(id_);
  const absl::Status runs = co_await Continue();
  if (!runs.ok()) {
    // Without an answer it may run all the same.
    const bool stands_still = !GotNoAnswer(runs) && state_ != SystemState::kRunning;
    if (were_silent && stands_still) cards_.Silence();
    co_return runs;
  }
  // A disk that fails at once may have stopped it before the answer was read.
  if (stops_ == stops) state_ = SystemState::kRunning;
  if (has_cards()) ferry::Spawn(host_->executor, Announce(self));
  co_return absl::OkStatus();
}

Task<void> QemuMachine::ReadMigrationSettings() {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  AsyncMutex::Guard lock = co_await settings_mutex_.Lock();
  settings_.Forget();
  const auto capabilities = co_await Command("query-migrate-capabilities");
  if (capabilities.ok()) settings_.ReadCapabilities(*capabilities);
  const auto parameters = co_await Command("query-migrate-parameters");
  if (parameters.ok()) settings_.ReadParameters(*parameters);
}

Task<absl::Status> QemuMachine::SetPlainMigration() {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  co_await ReadMigrationSettings();
  json::object plain = PlainCapabilities(host_->capabilities);
  CO_RETURN_IF_ERROR(co_await SetMigrationCapabilities(std::move(plain)));
  json::object parameters = ParametersFor({});
  co_return co_await SetMigrationParameters(std::move(parameters));
}

}  // namespace ferry::vm
