// The source's session after a restart of its daemon, and how an undecided one is settled with the
// destination.
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/source_session.h"
#include "vmmanager/fence/fence.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {

SourceSession::SourceSession(const ControllerDeps& deps, const FormerSession& former)
    : SourceSession(deps, former.session.session_id()) {
  MigrationSession::Restore(former);
  core_ = std::make_unique<SourceCommit>(Identity());
  core_->Restore(SourceRecordFrom(former.last.kind).value_or(SourceRecord::kNone), former.trust);
  commit_started_ = core_->past_point_of_no_return();
  info_.set_state(commit_started_ ? v1::SESSION_STATE_TRANSFER_COMPLETED
                                  : v1::SESSION_STATE_FAILED);
  if (core_->record() == SourceRecord::kCommit) {
    go_proof_ = MakeProof(ProofKind::kGo, base_epoch_ + 1, "");
  }
  may_have_voted_ = core_->record() != SourceRecord::kOpen;
  vote_settled_.Set();
  commit_settled_.Set();
}

vm::AdoptionClaim SourceSession::Claim() const {
  vm::AdoptionClaim claim;
  claim.session_id = id();
  claim.destination = info_.destination();
  // There has to be somebody who can be asked.
  claim.may_have_left = core_->before_commit() && !info_.destination().empty();
  claim.kind =
      commit_started_ ? vm::AdoptionClaim::Kind::kInDoubt : vm::AdoptionClaim::Kind::kMigratingOut;
  return claim;
}

Task<void> SourceSession::Recover(std::shared_ptr<vm::UtilityVm> vm) {
  auto keep = self();
  vm_ = std::move(vm);
  spdlog::info("session {}: goes on after {}{}", id(), head_.kind,
               core_->Recover().copy == CopyEffect::kHold ? ", in doubt" : "");
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (core_->record() == SourceRecord::kForced) {
    // Without the VM it has taken effect before, and there is only the destination to be told.
    forced_through_ = vm_ == nullptr;
    if (!(co_await FinishForced()).ok()) Spawn(deps_.executor(), GoOnHereLater(keep));
    if (!info_.done()) Spawn(deps_.executor(), FindDestination(keep));
    co_return;
  }
  if (core_->record() == SourceRecord::kGivenUp) {
    (void)co_await FinishGivenUp();
    co_return;
  }
  if (vm_ == nullptr) {
    // RELEASED was written and the VM forgotten, but not that the session is over.
    const bool released = core_->record() == SourceRecord::kReleased;
    info_.set_vm_location(released ? info_.destination() : "nowhere");
    (void)Enter(SessionCall::kFinalizeDone);
    if (released) {
      EndWell(absl::StrCat("VM ", info_.vm_name(), " runs at ", info_.destination()));
      co_return;
    }
    Conclude({v1::SESSION_OUTCOME_FAILED, origin(), "source_vm_lost",
              "this host has no record of the VM any more"});
    EndBadly(Recovery::kFailed);
    co_return;
  }
  switch (core_->record()) {
    case SourceRecord::kReleased:
      (void)co_await FinishRelease();
      break;
    case SourceRecord::kReclaimed:
      if (!(co_await GoOnHere()).ok()) Spawn(deps_.executor(), GoOnHereLater(keep));
      break;
    default:
      // The former daemon may have ended before it did.
      if (core_->record() == SourceRecord::kCommit) co_await vm_->YieldFence();
      co_await RecoverUndecided();
  }
}

// For want of the fence, say.
Task<void> SourceSession::GoOnHereLater(Self self) {
  while (true) {
    co_await Delay(self->deps_.limits.ask_again);
    AsyncMutex::Guard lock = co_await self->deciding_.Lock();
    if (self->info_.done()) co_return;
    const absl::Status back = co_await self->GoOnHere();
    if (back.ok()) co_return;
  }
}

Task<absl::Status> SourceSession::GoOnHere() {
  auto keep = self();
  switch (core_->record()) {
    case SourceRecord::kReclaimed:
      co_return co_await FinishReclaim(head_.epoch);
    case SourceRecord::kForced:
      co_return co_await FinishForced();
    default:
      co_return co_await RollBackRestarted();
  }
}

Task<void> SourceSession::RecoverUndecided() {
  auto keep = self();
  // COMMIT comes after the VMM has sent all of the VM, and a VM that was given away does not run
  // here again. What shows neither may have been given away by a journal that was put back since.
  const bool can_ask = core_->before_commit() && !info_.destination().empty();
  if (!commit_started_ && can_ask && co_await vm_->MayHaveLeft()) {
    core_->Question();
    commit_started_ = true;
    info_.set_state(v1::SESSION_STATE_TRANSFER_COMPLETED);
    vm_->FreezeGuest();
    vm_->MarkInDoubt();
  }
  if (commit_started_) {
    info_.set_vm_location("in doubt");
    Store();
  } else {
    if (!(co_await GoOnHere()).ok()) Spawn(deps_.executor(), GoOnHereLater(keep));
  }
  Spawn(deps_.executor(), FindDestination(keep));
}

EndReason SourceSession::Restarted() const {
  return {v1::SESSION_OUTCOME_FAILED, origin(), "daemon_restarted",
          "the source's daemon was restarted before the VM was handed over"};
}

Task<absl::Status> SourceSession::RollBackRestarted() {
  auto keep = self();
  EndReason why = Restarted();
  absl::Status back = co_await RollBack(std::move(why));
  if (back.ok()) back = co_await vm_->RunOn();
  if (!back.ok()) spdlog::error("session {}: {}", id(), back.ToString());
  co_return back;
}

// Tells the destination, if it is known where that is. Where somebody else drives both sides, they
// may also bring the proofs themselves.
Task<void> SourceSession::FindDestination(Self self) {
  if (self->settling_) co_return;
  if (self->info_.destination().empty()) {
    spdlog::warn(
        "session {}: it is not known where the destination is; finalize the session with "
        "the destination's proof",
        self->id());
    co_return;
  }
  auto peer = self->deps_.make_peer(self->info_.destination());
  if (!peer.ok()) spdlog::error("session {}: {}", self->id(), peer.status().ToString());
  while (!peer.ok()) {
    co_await Delay(self->deps_.limits.ask_again);
    // Somebody may have brought the proof meanwhile.
    if (self->info_.done()) co_return;
    peer = self->deps_.make_peer(self->info_.destination());
  }
  if (self->commit_started_) {
    co_await self->Settle(*peer);
    co_return;
  }
  co_await self->TellAbort(*peer);
}

Task<void> SourceSession::TellAbort(std::shared_ptr<PeerClient> peer) {
  auto keep = self();
  if (!may_have_voted_ || core_ == nullptr || core_->record() != SourceRecord::kAbort) co_return;
  // A destination that hears nothing ends the session by itself after that time.
  const auto until = Clock::now() + deps_.limits.decision;
  absl::Status told = co_await Offer(peer);
  while (!told.ok() && Clock::now() < until) {
    co_await Delay(deps_.limits.ask_again);
    told = co_await Offer(peer);
  }
}

Task<void> SourceSession::Settle(std::shared_ptr<PeerClient> peer) {
  auto keep = self();
  if (std::exchange(settling_, true)) {
    co_await released_.Wait();
    co_return;
  }
  std::string said;
  while (!released_.is_set()) {
    absl::Status answered = co_await Offer(peer);
    if (released_.is_set()) break;
    if (answered.message() != said) {
      said = std::string(answered.message());
      const bool forced = core_->record() == SourceRecord::kForced;
      const bool reclaimed = core_->record() == SourceRecord::kReclaimed;
      spdlog::warn("session {}: VM {} {}: {}", id(), info_.vm_name(),
                   forced      ? "was forced to run here, which the destination has yet to be told"
                   : reclaimed ? "is this host's again, but does not run yet"
                               : "is in doubt and stays paused",
                   said);
      // FinishReclaim has told more.
      if (!reclaimed) {
        info_.set_error(absl::StrCat(forced ? "forced to run here; waiting for " : "waiting for ",
                                     info_.destination(), ": ", said));
      }
    }
    co_await Delay(deps_.limits.ask_again);
  }
}

// What is in doubt after a restart has no reason of its own yet: the destination's answer, or a
// person's, may give another one.
std::string SourceSession::DetailToOffer() const {
  if (end_reason()) return ToDetail(*end_reason());
  return core_->before_commit() ? ToDetail(Restarted()) : info_.error();
}

Task<absl::Status> SourceSession::Offer(std::shared_ptr<PeerClient> peer) {
  auto keep = self();
  if (core_->record() == SourceRecord::kReclaimed && !info_.done()) {
    AsyncMutex::Guard lock = co_await deciding_.Lock();
    if (info_.done()) co_return absl::OkStatus();
    co_return co_await FinishReclaim(head_.epoch);
  }
  if (core_->record() == SourceRecord::kForced && !forced_through_) {
    AsyncMutex::Guard lock = co_await deciding_.Lock();
    const absl::Status forced = co_await FinishForced();
    // It may be the destination's copy that has the fence, until it is told to end.
    if (!forced.ok() && rpc::ReasonOf(forced) != vm::kFenceHeld) co_return forced;
  }
  const std::optional<ProofKind> word = core_->word();
  if (!word) co_return absl::OkStatus();
  v1::SettleSessionRequest request;
  request.set_session_id(id());
  request.set_vm_id(info_.vm_id());
  request.set_epoch(base_epoch_);
  request.set_plan_sha256(plan_digest_);
  const bool forced = *word == ProofKind::kForced;
  request.set_proof(*word == ProofKind::kGo
                        ? go_proof_
                        : MakeProof(*word, forced ? head_.epoch : base_epoch_, DetailToOffer()));
  auto answer = co_await peer->Settle(std::move(request));
  if (!answer.ok()) co_return answer.status();
  auto proof = DecodeProof(answer->proof(), plan_digest_);
  if (!proof.ok()) co_return proof.status();
  const Proof decoded = *std::move(proof);
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  NoteHeard(decoded);
  bool runs_twice = decoded.kind == ProofKind::kDone && vm_ != nullptr && core_->may_execute();
  if (runs_twice) runs_twice = co_await vm_->Executes();
  std::string meaning =
      runs_twice ? "The VM runs here and there: end one of its copies" : "That host's word counts";
  co_await CheckHeard(decoded, std::move(meaning));
  if (decoded.kind == ProofKind::kDone) co_return co_await Release(decoded);
  if (decoded.kind != ProofKind::kRefused) {
    co_return absl::UnavailableError("the destination has not decided yet");
  }
  co_return co_await OnRefused(decoded);
}

}  // namespace ferry::migration
