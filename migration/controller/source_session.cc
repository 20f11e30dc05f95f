#include "migration/controller/source_session.h"

#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "migration/options/initialize_options.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/state/envelope.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {
namespace {

constexpr milliseconds kCancelLimit{10'000};

}  // namespace

Task<absl::Status> SourceSession::TakeStep(absl::StatusOr<std::optional<SourceStep>> step) {
  if (!step.ok()) co_return step.status();
  if (!step->has_value()) co_return absl::OkStatus();
  const SourceStep taken = **step;
  CO_RETURN_IF_ERROR(co_await Journal(ToString(taken.record), taken.epoch, {}));
  core_->Apply(taken);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> SourceSession::PrepareAndExport(
    std::string vm, std::string destination, std::optional<v1::InitializeOptions> options) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  CO_ASSIGN_OR_RETURN(options_, InitializeOptionsFromProto(options));
  options_.origin = schema::MigrationOrigin::kSource;
  UseOptions(options_);
  CO_ASSIGN_OR_RETURN(vm_, deps_.inventory.Find(vm));
  info_.set_vm_id(vm_->id());
  info_.set_vm_name(vm_->name());
  info_.set_source(deps_.own_address());
  info_.set_destination(destination);
  info_.set_vm_location(deps_.own_address());
  {
    auto entered = Enter(SessionCall::kPrepareSource);
    if (!entered.ok()) co_return entered.status();
  }
  absl::Status opened = vm_->OpenMigration(id(), destination);
  if (!opened.ok()) {
    info_.set_state(v1::SESSION_STATE_IDLE);
    co_return opened;
  }
  absl::StatusOr<std::string> plan = co_await Export();
  if (!plan.ok()) {
    // The source runs and accepts calls as before.
    (void)Enter(SessionCall::kTransferFailed);
    (void)co_await RollBack(std::string(plan.status().message()));
    co_return Explain(plan.status(), "prepare", "the VM runs on here; correct this and try again");
  }
  deps_.events().Publish("migration.opened", id(),
                         {{"vm", vm_->name()}, {"destination", destination}});
  Store();
  co_return plan;
}

Task<absl::StatusOr<std::string>> SourceSession::Export() {
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM has ended");
  CO_RETURN_IF_ERROR(co_await system->InitializeLiveMigrationOnSource(options_));
  schema::PropertyQuery query;
  query.types = {schema::PropertyType::kCompatibilityInfo};
  auto properties = co_await system->GetProperties(query);
  if (!properties.ok()) co_return properties.status();
  std::shared_ptr<guest::Guest> guest = vm_->guest();
  if (guest == nullptr) co_return absl::UnavailableError("the VM has ended");
  auto guest_state = guest->Save();
  if (!guest_state.ok()) co_return guest_state.status();
  CO_RETURN_IF_ERROR(vm::CheckCutFits(*guest_state, kMaxMessage));
  CO_ASSIGN_OR_RETURN(std::string plan,
                      co_await MakePlan(properties->compatibility_info.value_or("")));
  plan_digest_ = vm::PlanDigest(plan);
  base_epoch_ = vm_->epoch();
  core_ = std::make_unique<SourceCommit>(Identity());
  // A restarted daemon finds the records by the session.
  CO_RETURN_IF_ERROR(co_await StoreNow());
  CO_RETURN_IF_ERROR(co_await TakeStep(core_->Open()));
  auto exported = Enter(SessionCall::kExport);
  if (!exported.ok()) co_return exported.status();
  co_return plan;
}

Task<absl::StatusOr<std::string>> SourceSession::MakePlan(std::string compat_info) {
  vm::PlanState plan;
  plan.session_id = id();
  plan.source_address = deps_.own_address();
  plan.source_journal_id = deps_.store().journal_id();
  plan.init_options_json = schema::ToJson(options_);
  plan.vm.set_vm_id(vm_->id());
  plan.vm.set_vm_name(vm_->name());
  plan.vm.set_hcs_document_json(schema::ToJson(vm_->document()));
  plan.vm.set_spec_json(vm_->spec_json());
  plan.vm.set_compat_info(compat_info);
  plan.vm.set_epoch(vm_->epoch());
  CO_ASSIGN_OR_RETURN(*plan.vm.mutable_fingerprint(),
                      co_await vm::MakeFingerprint(
                          vm_->document(), deps_.inventory.deps().backend.info(), deps_.digests));
  co_return vm::EncodePlan(plan);
}

Task<absl::StatusOr<std::string>> SourceSession::Finalize(v1::FinalizeAction action,
                                                          std::string proof) {
  auto keep = self();
  if (action == v1::FINALIZE_ACTION_UNSPECIFIED) {
    co_return absl::InvalidArgumentError("finalize needs an action: STOP or RESUME");
  }
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  co_return co_await Decide(action, std::move(proof));
}

Task<absl::StatusOr<std::string>> SourceSession::Decide(v1::FinalizeAction action,
                                                        std::string proof) {
  if (action == v1::FINALIZE_ACTION_STOP) {
    if (proof.empty()) co_return co_await Commit();
    auto done = DecodeProof(proof, plan_digest_);
    if (!done.ok()) co_return done.status();
    const Proof decoded = *std::move(done);
    absl::Status released = co_await Release(decoded);
    if (!released.ok()) co_return released;
    co_return go_proof_;
  }
  if (action != v1::FINALIZE_ACTION_RESUME) {
    co_return absl::InvalidArgumentError(absl::StrCat("unknown finalize action ", action));
  }
  if (core_ != nullptr && core_->past_point_of_no_return() &&
      core_->record() != SourceRecord::kReleased && core_->record() != SourceRecord::kReclaimed) {
    if (proof.empty()) {
      co_return Explain(
          absl::FailedPreconditionError(
              absl::StrCat("session ", id(), " is committed: VM ", info_.vm_name(), " may run at ",
                           info_.destination(), ", so it cannot resume here without proof")),
          "finalize",
          "finalize the destination with STOP and pass on the REFUSED proof that it returns");
    }
    auto refused = DecodeProof(proof, plan_digest_);
    if (!refused.ok()) co_return refused.status();
    const Proof decoded = *std::move(refused);
    absl::Status reclaimed = co_await Reclaim(decoded);
    if (!reclaimed.ok()) co_return reclaimed;
    co_return std::string();
  }
  if (core_ != nullptr && core_->record() == SourceRecord::kReleased) {
    co_return Explain(absl::FailedPreconditionError(
                          absl::StrCat("VM ", info_.vm_name(), " runs at ", info_.destination(),
                                       "; there is nothing left to resume here")),
                      "finalize", "");
  }
  auto legal = Apply(info_.state(), SessionCall::kFinalize);
  if (!legal.ok()) co_return legal.status();
  if (legal->repeated) co_return std::string();
  const std::string why = "rolled back by its caller";
  absl::Status back = co_await RollBack(why);
  if (!back.ok()) co_return back;
  co_return std::string();
}

Task<absl::Status> SourceSession::RunHereAgain() {
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM ended while it waited here");
  schema::MigrationFinalizedOptions options;
  options.origin = schema::MigrationOrigin::kSource;
  options.finalized_operation = schema::MigrationFinalOperation::kResume;
  options.leave_paused = vm_->paused_by_user();
  co_return co_await system->FinalizeLiveMigration(options);
}

Task<absl::Status> SourceSession::RollBack(const std::string& why) {
  auto keep = self();
  const std::string reason = why;
  if (core_ != nullptr && core_->record() != SourceRecord::kAbort) {
    // First of all, so that nothing can commit any more. If it cannot be written, the VM belongs
    // here all the same: it is COMMIT that would have given it away.
    auto step = core_->Abort();
    absl::Status aborted = co_await TakeStep(step);
    if (!aborted.ok()) spdlog::warn("session {}: {}", id(), aborted.ToString());
    if (step.ok() && step->has_value()) core_->Apply(**step);
  }
  if (info_.state() == v1::SESSION_STATE_TRANSFER_COMPLETED) {
    // The state lies at the destination, which has not been granted it.
    absl::Status resumed = co_await RunHereAgain();
    if (!resumed.ok()) co_return Explain(resumed, "roll back", "try again");
  } else if (std::shared_ptr<vm::ComputeSystem> system = vm_->system()) {
    // Leaves the migration, so that another one can begin.
    const schema::MigrationCancelOptions options{schema::MigrationOrigin::kSource};
    absl::Status left = co_await system->CancelLiveMigration(options);
    if (!left.ok()) co_return Explain(left, "roll back", "try again");
  } else {
    info_.set_vm_location("nowhere");
  }
  if (connection_ != nullptr) {
    (void)connection_->SendMessage(MessageKind::kProof,
                                   MakeProof(ProofKind::kAbort, vm_->epoch(), reason));
  }
  const bool cancelled = info_.state() == v1::SESSION_STATE_CANCELLED;
  (void)Enter(SessionCall::kFinalizeDone);
  vm_->ReturnFromMigration(vm_->epoch());
  if (info_.error().empty()) info_.set_error(reason);
  End(v1::MIGRATION_PHASE_RECOVERY_DONE,
      cancelled ? v1::MIGRATION_PHASE_STATE_CANCELLED : v1::MIGRATION_PHASE_STATE_SUCCESS,
      info_.error());
  co_return absl::OkStatus();
}

absl::Status SourceSession::TooLateToCancel() const {
  return Explain(
      rpc::ErrorWithReason(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("session ", id(), " is past its point of no return and cannot be cancelled"),
          "past_point_of_no_return"),
      "cancel", "wait for its outcome");
}

Task<absl::Status> SourceSession::Cancel(std::string reason) {
  auto keep = self();
  co_return co_await CallOffNow(std::move(reason), "");
}

Task<absl::Status> SourceSession::CallOffNow(std::string reason, std::string word) {
  auto keep = self();
  if (commit_started_) co_return TooLateToCancel();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (core_ != nullptr && core_->past_point_of_no_return()) co_return TooLateToCancel();
  if (!word.empty() && Apply(info_.state(), SessionCall::kCancel).ok()) {
    Conclude(v1::SESSION_OUTCOME_CANCELLED, word);
  }
  auto entered = Enter(SessionCall::kCancel);
  if (!entered.ok()) co_return entered.status();
  if (entered->repeated) co_return absl::OkStatus();
  info_.set_error(reason.empty() ? "cancelled" : reason);
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system != nullptr) {
    const schema::MigrationCancelOptions options{schema::MigrationOrigin::kSource};
    absl::Status cancelled = co_await system->CancelLiveMigration(options);
    if (!cancelled.ok()) {
      (void)Enter(SessionCall::kCancelFailed);
      co_return Explain(cancelled, "cancel", "try again");
    }
  }
  vote_settled_.Set();
  connected_.Set();
  auto wait = [](AsyncEvent* event) -> Task<absl::Status> {
    co_await event->Wait();
    co_return absl::OkStatus();
  };
  absl::Status over = co_await WithDeadline(kCancelLimit, "the transfer", wait(&transfer_ended_));
  if (!over.ok()) {
    (void)Enter(SessionCall::kCancelFailed);
    co_return Explain(over, "cancel", "try again");
  }
  vm_->UnfreezeGuest();
  if (core_ != nullptr) {
    // Without COMMIT the VM belongs here, also if ABORT cannot be written.
    absl::Status aborted = co_await TakeStep(core_->Abort());
    if (!aborted.ok()) spdlog::warn("session {}: {}", id(), aborted.ToString());
    if (connection_ != nullptr) {
      (void)connection_->SendMessage(MessageKind::kProof,
                                     MakeProof(ProofKind::kAbort, vm_->epoch(), info_.error()));
    }
  }
  (void)Enter(SessionCall::kCancelDone);
  Publish(v1::MIGRATION_PHASE_DONE, v1::MIGRATION_PHASE_STATE_CANCELLED, info_.error());
  Store();
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> SourceSession::Commit() {
  auto keep = self();
  if (core_ == nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " was never exported; there is nothing to finalize"));
  }
  auto step = core_->Commit();
  if (!step.ok()) co_return Explain(step.status(), "commit", "the VM runs on here");
  if (!step->has_value()) co_return go_proof_;
  if (info_.state() != v1::SESSION_STATE_TRANSFER_COMPLETED || commit_started_) {
    co_return absl::FailedPreconditionError(
        StrCat("session ", id(), " cannot commit while it is ", ToString(info_.state())));
  }
  commit_started_ = true;
  const SourceStep taken = **step;
  vm::AppendOptions decisive;
  decisive.decisive = true;
  absl::Status journaled =
      co_await Journal(ToString(taken.record), taken.epoch, std::move(decisive));
  if (!journaled.ok()) {
    commit_started_ = false;
    co_return Explain(journaled, "commit", "the VM stays here; free space for the journal");
  }
  core_->Apply(taken);
  vm_->MarkInDoubt();
  info_.set_vm_location("in doubt");
  const auto now = Clock::now();
  go_proof_ =
      MakeProof(ProofKind::kGo, taken.epoch, absl::StrCat(MillisecondsBetween(stopped_at_, now)));
  info_.mutable_statistics()->set_blackout_device_ms(MillisecondsBetween(stopped_at_, voted_at_));
  info_.mutable_statistics()->set_blackout_commit_ms(MillisecondsBetween(voted_at_, now));
  blackout_limit_.reset();
  if (trace_) {
    trace_->Span(SessionTrace::Row::kBlackout, "device state", stopped_at_, voted_at_);
    trace_->Span(SessionTrace::Row::kBlackout, "commit", voted_at_, now);
  }
  if (commit_when_ready_ && connection_ != nullptr) {
    (void)connection_->SendMessage(MessageKind::kProof, go_proof_);
  }
  vm_->AnnounceMove();
  deps_.events().Publish("migration.committed", id(), {{"vm", info_.vm_name()}});
  co_return go_proof_;
}

Task<absl::Status> SourceSession::Release(const Proof& done) {
  auto keep = self();
  const Proof proof = done;
  if (core_ == nullptr) co_return absl::FailedPreconditionError("the session was never exported");
  auto step = core_->Release(proof);
  if (!step.ok()) co_return step.status();
  if (!step->has_value()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await TakeStep(std::move(step)));
  double blackout = 0;
  double resume = 0;
  if (std::sscanf(proof.detail.c_str(), "%lf %lf", &blackout, &resume) == 2) {
    info_.mutable_statistics()->set_blackout_ms(blackout);
    info_.mutable_statistics()->set_blackout_resume_ms(resume);
  }
  if (connection_ != nullptr) {
    const SessionStatistics statistics = connection_->statistics();
    info_.mutable_statistics()->set_transferred_bytes(statistics.bytes_sent +
                                                      statistics.bytes_received);
  }
  info_.mutable_statistics()->set_total_ms(MillisecondsBetween(created_, Clock::now()));
  co_return co_await FinishRelease();
}

// RELEASED is written: what is left of the VM here goes.
Task<absl::Status> SourceSession::FinishRelease() {
  auto keep = self();
  info_.set_vm_location(info_.destination());
  (void)Enter(SessionCall::kFinalizeDone);
  absl::Status ended = co_await vm_->Relinquish();
  if (!ended.ok()) spdlog::warn("session {}: what is left of the VM: {}", id(), ended.ToString());
  absl::Status forgotten = co_await deps_.inventory.Forget(vm_->id(), info_.destination());
  if (!forgotten.ok()) spdlog::error("session {}: {}", id(), forgotten.ToString());
  released_.Set();
  End(v1::MIGRATION_PHASE_DONE, v1::MIGRATION_PHASE_STATE_SUCCESS,
      absl::StrCat("VM ", info_.vm_name(), " runs at ", info_.destination()));
  co_return absl::OkStatus();
}

Task<absl::Status> SourceSession::Reclaim(const Proof& refused) {
  auto keep = self();
  auto step = core_->Reclaim(refused);
  if (!step.ok()) co_return step.status();
  if (!step->has_value()) co_return absl::OkStatus();
  const uint64_t epoch = (*step)->epoch;
  CO_RETURN_IF_ERROR(co_await TakeStep(std::move(step)));
  co_return co_await FinishReclaim(epoch);
}

// RECLAIMED is written: the VM is this host's again.
Task<absl::Status> SourceSession::FinishReclaim(uint64_t epoch) {
  auto keep = self();
  absl::Status resumed = co_await RunHereAgain();
  // After a restart the VMM may not be in a migration any more.
  if (!resumed.ok() && vm_->system() != nullptr) resumed = co_await vm_->RunOn();
  (void)Enter(SessionCall::kFinalizeDone);
  info_.set_vm_location(resumed.ok() ? deps_.own_address() : "nowhere");
  info_.set_error("the destination refused the VM after the switchover");
  vm_->ReturnFromMigration(epoch);
  released_.Set();
  End(v1::MIGRATION_PHASE_RECOVERY_DONE,
      resumed.ok() ? v1::MIGRATION_PHASE_STATE_SUCCESS : v1::MIGRATION_PHASE_STATE_RECOVERY_FAILED,
      info_.error());
  co_return Explain(resumed, "reclaim", "");
}

Task<absl::Status> SourceSession::AwaitTransfer() {
  auto keep = self();
  co_await transfer_ended_.Wait();
  co_return transfer_status_;
}

Task<absl::Status> SourceSession::AwaitCommit() {
  auto keep = self();
  co_await commit_settled_.Wait();
  co_return commit_status_;
}

void SourceSession::NoteError(const absl::Status& status) {
  if (info_.error().empty()) info_.set_error(std::string(status.message()));
  Conclude(v1::SESSION_OUTCOME_FAILED, rpc::ReasonOf(status));
}

Task<bool> SourceSession::AwaitRelease(milliseconds limit) {
  auto keep = self();
  auto wait = [](AsyncEvent* event) -> Task<absl::Status> {
    co_await event->Wait();
    co_return absl::OkStatus();
  };
  absl::Status released = co_await WithDeadline(limit, "the destination", wait(&released_));
  co_return released.ok();
}

}  // namespace ferry::migration
