// The destination's session after a restart of its daemon, and its answers to a source that asks.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/destination_session.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

constexpr char kRestarted[] = "the destination's daemon was restarted before the VM had arrived";

// Whether a VM whose newest record that is, is still this host's, or was when it ended.
bool IsThisHosts(std::string_view record) {
  return record != ToString(SourceRecord::kCommit) && record != ToString(SourceRecord::kReleased) &&
         record != ToString(SourceRecord::kGivenUp);
}

}  // namespace

DestinationSession::DestinationSession(const ControllerDeps& deps, const FormerSession& former)
    : DestinationSession(deps, former.session.session_id()) {
  MigrationSession::Restore(former);
  former_record_ = DestinationRecordFrom(former.last.kind).value_or(DestinationRecord::kNone);
  former_trust_ = former.trust;
  core_ = std::make_unique<DestinationCommit>(Identity());
  core_->Restore(former_record_, former_trust_, DestinationCommit::Copy::kWaits);
  if (!info_.done()) {
    info_.set_state(former_record_ == DestinationRecord::kPrepared || core_->may_execute()
                        ? v1::SESSION_STATE_TRANSFER_COMPLETED
                        : v1::SESSION_STATE_FAILED);
  }
  cut_arrived_.Set();
}

vm::AdoptionClaim DestinationSession::Claim() const {
  vm::AdoptionClaim claim;
  claim.session_id = id();
  claim.kind = vm::AdoptionClaim::Kind::kIncoming;
  if (former_record_ == DestinationRecord::kRunning) {
    claim.kind = vm::AdoptionClaim::Kind::kOwner;
  } else if (former_record_ == DestinationRecord::kSuperseded) {
    claim.kind = vm::AdoptionClaim::Kind::kStale;
    claim.stale_epoch = base_epoch_ + 1;
  }
  claim.guest_is_loaded = former_record_ == DestinationRecord::kPrepared ||
                          former_record_ == DestinationRecord::kGranted;
  return claim;
}

Task<DestinationCommit::Copy> DestinationSession::LookAtCopy() {
  if (vm_ == nullptr || vm_->system() == nullptr) co_return DestinationCommit::Copy::kGone;
  const schema::PropertyQuery query;
  auto properties = co_await vm_->GetProperties(query);
  if (!properties.ok()) co_return DestinationCommit::Copy::kGone;
  co_return properties->state == schema::SystemState::kRunning ? DestinationCommit::Copy::kRuns
                                                               : DestinationCommit::Copy::kWaits;
}

Task<void> DestinationSession::Recover(std::shared_ptr<vm::UtilityVm> vm) {
  auto keep = self();
  vm_ = std::move(vm);
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  const DestinationCommit::Copy copy = co_await LookAtCopy();
  core_->Restore(former_record_, former_trust_, copy);
  const DestinationRecovery recovery = core_->Recover();
  spdlog::info("session {}: goes on after {}{}", id(), head_.kind,
               recovery.copy == CopyEffect::kHold ? ", waiting for the source" : "");
  if (recovery.step) {
    EndReason why = Failed("daemon_restarted", kRestarted);
    auto refused = co_await RefuseNow(std::move(why), std::nullopt);
    if (!refused.ok()) Spawn(deps_.executor(), AwaitDecision(keep));
    co_return;
  }
  switch (core_->record()) {
    case DestinationRecord::kRefused:
      Conclude(Failed("daemon_restarted", kRestarted));
      co_await FinishRefuse();
      break;
    case DestinationRecord::kSuperseded: {
      co_await ForgetVm();
      break;
    }
    case DestinationRecord::kGranted: {
      if (vm_ == nullptr) {
        spdlog::error(
            "session {}: VM {} is this host's, but the store does not know it; put back "
            "the store's newest copy and start again",
            id(), info_.vm_name());
        info_.set_vm_location("nowhere");
        Store();
        break;
      }
      if (!(co_await GoOnGranted()).ok()) TryAgainLater();
      break;
    }
    case DestinationRecord::kRunning:
      FinishRunning(std::nullopt);
      break;
    default:
      info_.set_vm_location("in doubt");
      Store();
      Spawn(deps_.executor(), AwaitDecision(keep));
  }
}

Task<absl::Status> DestinationSession::GoOnGranted() {
  auto keep = self();
  absl::Status status = co_await ClaimFence();
  if (status.ok()) {
    const Proof none;
    status = (co_await RunGranted(none, GoCame::kByOthers, Clock::now())).status();
  }
  if (status.ok()) co_return status;
  const bool waits = vm_->state() == v1::VM_STATE_INCOMING;
  const std::string why = absl::StrCat(
      "the VM is this host's, but ",
      waits ? "does not run yet: " : "that it came cannot be recorded yet: ", status.message());
  info_.set_error(why);
  if (std::exchange(said_, why) == why) co_return status;
  spdlog::error("session {}: {}", id(), why);
  Store();
  co_return status;
}

void DestinationSession::TryAgainLater() {
  if (!std::exchange(tries_again_, true)) Spawn(deps_.executor(), GoOnGrantedLater(self()));
}

// Where the fence or QEMU does not let it run, or there is no room for the record. The source's
// next GO tries it as well.
Task<void> DestinationSession::GoOnGrantedLater(Self self) {
  while (true) {
    co_await Delay(self->deps_.limits.ask_again);
    AsyncMutex::Guard lock = co_await self->deciding_.Lock();
    const bool granted = self->core_->record() == DestinationRecord::kGranted;
    if (self->running_ || self->info_.done() || !granted) co_return;
    const absl::Status status = co_await self->GoOnGranted();
    if (status.ok()) co_return;
  }
}

// After the vote only the source knows; it may bring its word in any way.
// A refusal that cannot be written, for want of room say, is tried again.
Task<void> DestinationSession::AwaitDecision(Self self) {
  while (true) {
    co_await Delay(self->deps_.limits.decision);
    if (self->running_ || self->info_.done() || !self->core_->may_refuse_alone()) co_return;
    EndReason why{v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_SOURCE, "no_decision",
                  "the source gave no word after the vote"};
    auto refused = co_await self->Refuse(std::move(why));
    if (!refused.ok()) spdlog::error("session {}: {}", self->id(), refused.status().ToString());
  }
}

absl::Status DestinationSession::CheckMayForce(MayForce may_force) {
  if (may_force == MayForce::kYes) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kPermissionDenied,
                              "that a source was forced may only be said by its daemon, or by "
                              "somebody with the role admin",
                              "role_missing", "leave it to the source's ferryd, which tells it");
}

Task<absl::StatusOr<std::string>> DestinationSession::Settle(std::string proof,
                                                             MayForce may_force) {
  auto keep = self();
  if (core_ == nullptr) co_return absl::UnavailableError("the session is still being imported");
  auto decoded = DecodeProof(proof, plan_digest_);
  if (!decoded.ok()) co_return decoded.status();
  const Proof word = *std::move(decoded);
  if (word.kind == ProofKind::kGo) {
    auto done = co_await Run(word, GoCame::kByOthers);
    if (!done.ok() && core_->word() == ProofKind::kRefused) co_return refused_proof_;
    co_return done;
  }
  if (word.kind == ProofKind::kForced) {
    CO_RETURN_IF_ERROR(CheckMayForce(may_force));
    co_return co_await OnForced(word);
  }
  if (word.kind != ProofKind::kAbort) {
    co_return absl::InvalidArgumentError("a proof that only the destination can give");
  }
  if (running_) co_return done_proof_;
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  EndReason why = FromDetail(word.detail, v1::MIGRATION_ORIGIN_SOURCE);
  if (why.message.empty()) why.message = "called off by the source";
  co_return co_await RefuseNow(std::move(why), word);
}

void DestinationSession::Revive() {
  revived_ = true;
  if (auto found = deps_.inventory.Find(info_.vm_id()); found.ok()) {
    if (info_.vm_name().empty()) info_.set_vm_name((*found)->name());
    if ((*found)->epoch() == base_epoch_ + 1) vm_ = *found;
  }
  if (core_->record() != DestinationRecord::kRunning) return;
  done_proof_ = MakeProof(ProofKind::kDone, base_epoch_ + 1, "");
  running_ = true;
}

EndReason DestinationSession::PutBack() const {
  return Failed("journal_put_back",
                absl::StrCat("the journal of ", deps_.own_address(), " was put back to an earlier ",
                             "state, so it is lost there whether VM ", info_.vm_name(),
                             " had been granted; a copy that it had has ended"));
}

Task<void> DestinationSession::NoteIfPutBack(Proof word) {
  auto keep = self();
  if (put_back_) co_return;
  std::string meaning =
      absl::StrCat("What it had been granted in this session is refused, unless VM ",
                   info_.vm_name(), " runs here");
  co_await CheckHeard(std::move(word), std::move(meaning));
  // It was refused already, when nobody had told yet what is lost.
  if (put_back_ && core_->record() == DestinationRecord::kRefused) {
    refused_proof_ = MakeProof(ProofKind::kRefused, core_->identity().epoch, ToDetail(PutBack()));
  }
}

Task<absl::StatusOr<std::string>> DestinationSession::OnForced(Proof forced) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  NoteHeard(forced);
  co_await NoteIfPutBack(forced);
  auto step = core_->OnForced(forced);
  if (!step.ok()) co_return step.status();
  const bool was_granted = core_->may_execute();
  if (was_granted) {
    CO_RETURN_IF_ERROR(co_await CheckStillHere());
    // First, so that nobody can move it on meanwhile.
    CO_RETURN_IF_ERROR(HoldStale());
    // A daemon that is restarted from here on goes on with it. Only then may the copy end: what
    // finds it ended must know that its containers run elsewhere.
    const bool was_done = info_.done();
    info_.set_done(false);
    absl::Status written = co_await StoreNow();
    if (written.ok()) written = co_await TakeStep(std::move(step));
    // Where it cannot be written the copy ends all the same: the source's word is durable already.
    const absl::Status ended = co_await EndStale();
    if (!written.ok()) {
      info_.set_done(was_done);
      Store();
      co_return written;
    }
    spdlog::error("session {}: the source was forced to run VM {}; the copy here ends", id(),
                  info_.vm_name());
    deps_.events().Publish("migration.superseded", id(), {{"vm", info_.vm_name()}});
    CO_RETURN_IF_ERROR(ended);
  }
  if (core_->record() == DestinationRecord::kSuperseded) {
    // Told again: what is here of the VM by now came back since.
    if (info_.done()) co_return refused_proof_;
    CO_RETURN_IF_ERROR(co_await FinishSupersede());
    co_return refused_proof_;
  }
  EndReason why = FromDetail(forced.detail, v1::MIGRATION_ORIGIN_SOURCE);
  co_return co_await RefuseNow(std::move(why), forced);
}

std::shared_ptr<vm::UtilityVm> DestinationSession::StaleCopy() const {
  auto found = deps_.inventory.Find(info_.vm_id());
  if (!found.ok() || (*found)->epoch() > core_->identity().epoch + 1) return nullptr;
  return *std::move(found);
}

Task<absl::Status> DestinationSession::CheckStillHere() {
  auto keep = self();
  auto since = co_await deps_.store().ReadVmJournal(info_.vm_id(), head_.sequence);
  if (!since.ok()) co_return since.status();
  // A migration that was called off leaves the epoch as it is.
  const auto moved = std::find_if(since->rbegin(), since->rend(), [this](const auto& record) {
    return record.epoch > core_->identity().epoch + 1;
  });
  const auto found = deps_.inventory.Find(info_.vm_id());
  const bool here = found.ok() && (*found)->state() != v1::VM_STATE_IN_DOUBT;
  std::string where;
  if (here && StaleCopy() == nullptr) {
    where = absl::StrCat("it runs here, at epoch ", (*found)->epoch());
  } else if (!here && moved != since->rend() && !IsThisHosts(moved->kind)) {
    CO_ASSIGN_OR_RETURN(const std::string host, co_await DestinationOf(moved->session_id));
    where = absl::StrCat(found.ok() ? "it is being given to " : "it went to ", host);
  }
  if (where.empty()) co_return absl::OkStatus();
  co_return absl::FailedPreconditionError(
      absl::StrCat("the source was forced to run VM ", info_.vm_name(),
                   ", which has been migrated again since: ", where,
                   "; one of its copies must be ended by hand"));
}

Task<absl::StatusOr<std::string>> DestinationSession::DestinationOf(std::string session_id) {
  auto keep = self();
  auto rows = co_await deps_.store().ListSessions();
  if (!rows.ok()) co_return rows.status();
  for (const vm::SessionRow& row : *rows) {
    v1::Session session;
    if (row.id != session_id || !session.ParseFromString(row.session_bytes)) continue;
    if (!session.destination().empty()) co_return session.destination();
  }
  co_return "a host that is not known any more";
}

absl::Status DestinationSession::HoldStale() {
  const std::shared_ptr<vm::UtilityVm> stale = StaleCopy();
  return stale == nullptr ? absl::OkStatus() : stale->HoldStale(id());
}

// What has not been told to run yet is discarded later.
Task<absl::Status> DestinationSession::EndStale() {
  auto keep = self();
  const std::shared_ptr<vm::UtilityVm> stale = StaleCopy();
  if (stale == nullptr || stale->state() == v1::VM_STATE_INCOMING) co_return absl::OkStatus();
  co_return co_await stale->EndStale();
}

// SUPERSEDED is written: the copy here is stale, whatever it does.
Task<absl::Status> DestinationSession::FinishSupersede() {
  auto keep = self();
  running_ = false;
  done_proof_.clear();
  refused_proof_ = MakeProof(ProofKind::kRefused, core_->identity().epoch, "");
  const std::string why = absl::StrCat("VM ", info_.vm_name(), " has ended here: its source, ",
                                       info_.source(), ", was forced to run it");
  CO_RETURN_IF_ERROR(HoldStale());
  CO_RETURN_IF_ERROR(co_await EndStale());
  if (const std::shared_ptr<vm::UtilityVm> stale = StaleCopy(); stale != nullptr) {
    const absl::Status reason = absl::NotFoundError(why);
    co_await stale->Discard(reason);
    CO_RETURN_IF_ERROR(co_await deps_.inventory.Forget(stale->id(), info_.source()));
  } else if (!deps_.inventory.Find(info_.vm_id()).ok()) {
    // Where it was forgotten before, its row may not have been deleted.
    CO_RETURN_IF_ERROR(co_await deps_.inventory.Forget(info_.vm_id(), info_.source()));
  }
  (void)Enter(SessionCall::kFinalizeDone);
  info_.set_vm_location(info_.source());
  const EndReason superseded{v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_SOURCE, "superseded",
                             why};
  Conclude(superseded);
  // Also where it had succeeded before.
  info_.set_outcome(superseded.outcome);
  info_.set_reason(superseded.word);
  info_.set_failed_at(superseded.began_at);
  info_.set_next_step(superseded.next_step);
  info_.set_error(superseded.message);
  EndBadly(Recovery::kNone);
  co_return absl::OkStatus();
}

}  // namespace ferry::migration
