// What a person decides about a VM that is in doubt, without the destination's word.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/source_session.h"

namespace ferry::migration {

Task<absl::Status> SourceSession::Force(v1::ForcedDecision decision) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (core_ == nullptr || (vm_ == nullptr && in_doubt() && !forced_through_)) {
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
  if (!forced.ok() && !info_.done()) Spawn(deps_.executor(), GoOnHereLater(keep));
  if (!info_.done()) Spawn(deps_.executor(), FindDestination(keep));
  co_return forced;
}

std::string SourceSession::ForcedText() const {
  return absl::StrCat("forced to run here without the word of ", info_.destination());
}

// Also where it was tried before, and the VM could not be told to run.
Task<absl::Status> SourceSession::FinishForced() {
  auto keep = self();
  absl::Status resumed = absl::OkStatus();
  if (!forced_through_) {
    Conclude(
        {v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, "forced", ForcedText()});
    resumed = co_await RunHereAgain();
    if (!resumed.ok() && vm_->system() != nullptr) {
      co_return Explain(resumed, "recover", "try again: it is decided that the VM runs here");
    }
    forced_through_ = true;
    vm_->ReturnFromMigration(head_.epoch);
  }
  if (std::exchange(tell_begun_, true)) co_return absl::OkStatus();
  telling_ = !info_.destination().empty();
  Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, "forced", ForcedText()});
  (void)Enter(SessionCall::kFinalizeDone);
  if (info_.done()) {
    notifier_->Close();  // as a former daemon process left it
  } else {
    const bool runs = resumed.ok() && deps_.inventory.Find(info_.vm_id()).ok();
    info_.set_vm_location(runs ? deps_.own_address() : "nowhere");
    info_.set_error(telling_ ? absl::StrCat(ForcedText(), ", which has yet to be told")
                             : "forced to run here; it is not known where the other copy is");
    released_.Set();
    EndBadly(runs ? Recovery::kDone : Recovery::kFailed);
  }
  if (telling_) Spawn(deps_.executor(), TellForced(keep));
  co_return Explain(resumed, "recover", "the VM is this host's; start it again");
}

// The session is done, and its row is kept as undecided until the destination was told: a restarted
// daemon goes on with it.
Task<void> SourceSession::TellForced(Self self) {
  auto peer = self->deps_.make_peer(self->info_.destination());
  std::string said;
  while (self->telling_) {
    absl::Status told = peer.status();
    if (peer.ok()) {
      told = co_await self->Offer(*peer);
    } else {
      peer = self->deps_.make_peer(self->info_.destination());
    }
    if (!self->telling_) co_return;
    if (told.message() != said) {
      said = std::string(told.message());
      spdlog::warn("session {}: VM {} was forced to run here, which {} has yet to be told: {}",
                   self->id(), self->info_.vm_name(), self->info_.destination(), said);
      self->info_.set_error(absl::StrCat(self->ForcedText(), ", which has yet to be told: ", said));
    }
    co_await Delay(self->deps_.limits.ask_again);
  }
}

// A host that was set up anew under the destination's address knows of no copy, and that says
// nothing of the one that the old journal may bring back.
absl::Status SourceSession::EndForced(const Proof& refused) {
  if (!forced_through_) return absl::UnavailableError("the VM is yet to run here");
  if (peer_journal_id_.empty() || refused.journal_id != peer_journal_id_) {
    return absl::FailedPreconditionError(absl::StrCat(
        info_.destination(), " answers from ",
        peer_journal_id_.empty() ? "a journal of which it is not known whether it is"
                                 : "another journal than",
        " the one that the VM was moved to; once no copy can come back with that one, clean up ",
        "the session"));
  }
  RETURN_IF_ERROR(core_->CheckHeardForced(refused));
  if (!std::exchange(telling_, false)) return absl::OkStatus();
  info_.set_error(absl::StrCat("forced to run here; ", info_.destination(), " has no copy of it"));
  Store();
  return absl::OkStatus();
}

void SourceSession::StopTelling() {
  if (!std::exchange(telling_, false)) return;
  info_.set_error(absl::StrCat(ForcedText(), ", which was never told: a copy that is still there ",
                               "must be ended by hand"));
  Store();
}

Task<absl::Status> SourceSession::FinishGivenUp() {
  auto keep = self();
  if (info_.done()) co_return absl::OkStatus();
  Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, "given_up",
            absl::StrCat("given up here without the word of ", info_.destination())});
  info_.set_vm_location(absl::StrCat("unknown; ", info_.destination(), " at best"));
  const absl::Status removed = co_await RemoveVm();
  released_.Set();
  if (!removed.ok()) {
    ForgetLater(removed);
    co_return Explain(removed, "recover",
                      "wait until there is room: that is tried again by itself");
  }
  (void)Enter(SessionCall::kFinalizeDone);
  info_.set_error(end_reason()->message);
  EndBadly(Recovery::kFailed);
  co_return absl::OkStatus();
}

}  // namespace ferry::migration
