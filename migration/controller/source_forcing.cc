// What a person decides about a VM that is in doubt, without the destination's word.
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/source_session.h"

namespace ferry::migration {

Task<absl::Status> SourceSession::Force(v1::ForcedDecision decision) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (core_ == nullptr || vm_ == nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " has nothing to decide"));
  }
  const bool run_here = decision == v1::FORCED_DECISION_RUN_HERE;
  auto step = run_here ? core_->Force() : core_->GiveUp();
  if (!step.ok()) {
    co_return Explain(step.status(), "recover", "only a VM that is in doubt can be forced");
  }
  if (step->has_value()) {
    const SourceStep taken = **step;
    vm::AppendOptions decisive;
    decisive.decisive = true;
    CO_RETURN_IF_ERROR(co_await Journal(ToString(taken.record), taken.epoch, std::move(decisive)));
    core_->Apply(taken);
    spdlog::warn("session {}: {} by a person's decision, without the word of {}", id(), head_.kind,
                 info_.destination());
    deps_.events().Publish("migration.forced", id(),
                           {{"vm", info_.vm_name()},
                            {"decision", run_here ? "run-here" : "give-up"},
                            {"destination", info_.destination()}});
  }
  if (!run_here) co_return co_await FinishGivenUp();
  const absl::Status forced = co_await FinishForced();
  if (!info_.done()) Spawn(deps_.executor(), FindDestination(keep));
  co_return forced;
}

// Also where it was tried before, and the VM could not be told to run.
Task<absl::Status> SourceSession::FinishForced() {
  auto keep = self();
  if (forced_through_) co_return absl::OkStatus();
  Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, "forced",
            absl::StrCat("forced to run here without the word of ", info_.destination())});
  absl::Status resumed = co_await RunHereAgain();
  // After a restart the VMM may not be in a migration any more.
  if (!resumed.ok() && vm_->system() != nullptr) resumed = co_await vm_->RunOn();
  if (!resumed.ok() && vm_->system() != nullptr) {
    co_return Explain(resumed, "recover", "try again: it is decided that the VM runs here");
  }
  forced_through_ = true;
  info_.set_vm_location(resumed.ok() ? deps_.own_address() : "nowhere");
  info_.set_error(absl::StrCat(end_reason()->message, ", which has yet to be told"));
  vm_->ReturnFromMigration(head_.epoch);
  TellFailure();
  if (!notifier_->told(v1::MIGRATION_PHASE_RECOVERY_DONE)) {
    Publish(v1::MIGRATION_PHASE_RECOVERY_DONE,
            resumed.ok() ? v1::MIGRATION_PHASE_STATE_SUCCESS
                         : v1::MIGRATION_PHASE_STATE_RECOVERY_FAILED,
            info_.error());
  }
  if (info_.destination().empty()) {
    FinishTelling("forced to run here; it is not known where the other copy is");
  }
  Store();
  co_return Explain(resumed, "recover", "the VM is this host's; start it again");
}

absl::Status SourceSession::EndForced(const Proof& refused) {
  RETURN_IF_ERROR(core_->CheckHeardForced(refused));
  if (!forced_through_) return absl::UnavailableError("the VM is yet to run here");
  FinishTelling(absl::StrCat("forced to run here; ", info_.destination(), " has no copy of it"));
  return absl::OkStatus();
}

void SourceSession::FinishTelling(const std::string& message) {
  if (info_.done()) return;
  (void)Enter(SessionCall::kFinalizeDone);
  info_.set_error(message);
  released_.Set();
  EndBadly(info_.vm_location() == "nowhere" ? Recovery::kFailed : Recovery::kDone);
}

Task<absl::Status> SourceSession::FinishGivenUp() {
  auto keep = self();
  if (info_.done()) co_return absl::OkStatus();
  Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, "given_up",
            absl::StrCat("given up here without the word of ", info_.destination())});
  (void)Enter(SessionCall::kFinalizeDone);
  absl::Status forgotten = absl::OkStatus();
  if (vm_ != nullptr) {
    absl::Status ended = co_await vm_->Relinquish();
    if (!ended.ok()) spdlog::warn("session {}: what is left of the VM: {}", id(), ended.ToString());
    forgotten = co_await deps_.inventory.Forget(vm_->id(), info_.destination());
    if (!forgotten.ok()) spdlog::error("session {}: {}", id(), forgotten.ToString());
  }
  info_.set_vm_location(absl::StrCat("unknown; ", info_.destination(), " at best"));
  info_.set_error(end_reason()->message);
  released_.Set();
  EndBadly(Recovery::kFailed);
  co_return forgotten;
}

}  // namespace ferry::migration
