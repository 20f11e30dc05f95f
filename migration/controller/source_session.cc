#include "migration/controller/source_session.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "migration/controller/blackout.h"
#include "migration/controller/exported_plan.h"
#include "migration/options/initialize_options.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_lock.h"
#include "vmmanager/state/envelope.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {
namespace {

constexpr milliseconds kCancelLimit{10'000};
constexpr char kRefusedLate[] = "the destination refused the VM after the switchover";

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
  if (options) copy_storage_ = options->copy_storage();
  CO_RETURN_IF_ERROR(CheckCopyStorage(copy_storage_));
  options_.origin = schema::MigrationOrigin::kSource;
  UseOptions(options_);
  const auto& throttle = options_.memory_transfer_throttle_params;
  convergence_ = ConvergenceWatch(throttle &&
                                  throttle->maximum_number_of_brownout_transfer_passes.has_value());
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
  std::weak_ptr<SourceSession> weak = keep;
  vm_->set_event_tap([weak](const vm::SystemEvent& event) {
    if (auto session = weak.lock()) session->OnSystemEvent(event);
  });
  absl::StatusOr<std::string> plan = co_await Export();
  if (!plan.ok()) {
    // The source runs and accepts calls as before.
    EndReason why = WhyFailed(plan.status());
    Conclude(why);
    (void)Enter(SessionCall::kTransferFailed);
    absl::Status back = co_await RollBack(std::move(why));
    if (!back.ok()) spdlog::error("session {}: {}", id(), back.ToString());
    co_return Explain(plan.status(), "prepare", "the VM runs on here; correct this and try again");
  }
  deps_.events().Publish("migration.opened", id(),
                         {{"vm", vm_->name()}, {"destination", destination}});
  Store();
  sealed_plan_ = *plan;
  co_return plan;
}

Task<absl::StatusOr<std::string>> SourceSession::ExportAgain(
    v1::PrepareAndExportSandboxRequest request) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (info_.done() || request_.empty() || request.SerializeAsString() != request_) {
    co_return absl::AlreadyExistsError(
        absl::StrCat("session ", id(), " exists and has ended, or was asked for something else; ",
                     "choose another id"));
  }
  auto legal = Apply(info_.state(), SessionCall::kExport);
  if (!legal.ok()) co_return legal.status();
  co_return sealed_plan_;
}

// Once it has ended nobody can ask for the plan again.
void SourceSession::LetGo() {
  MigrationSession::LetGo();
  if (layers_ != nullptr) layers_->Close();
  disks_.reset();
  std::string().swap(sealed_plan_);
  std::string().swap(request_);
  disk_marks_.clear();
  if (deps_.exports != nullptr) Spawn(deps_.executor(), deps_.exports->End(info_.vm_id()));
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
  std::shared_ptr<vm::UtilityVm> machine = vm_;
  CO_ASSIGN_OR_RETURN(
      vm::PlanState plan,
      co_await DescribeForExport(deps_, std::move(machine), id(), copy_storage_, &disk_marks_));
  if (deps_.exports != nullptr) {
    CO_ASSIGN_OR_RETURN(const std::vector<state::v1::ContainerRecord> containers,
                        co_await deps_.exports->Begin(vm_->id(), copy_storage_));
    plan.vm.clear_containers();
    plan.vm.mutable_containers()->Add(containers.begin(), containers.end());
  }
  plan.init_options_json = schema::ToJson(options_);
  plan.vm.set_compat_info(compat_info);
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
  if (action == v1::FINALIZE_ACTION_STOP) co_return co_await Stop(std::move(proof));
  if (action == v1::FINALIZE_ACTION_RESUME) co_return co_await Resume(std::move(proof));
  co_return absl::InvalidArgumentError(absl::StrCat("unknown finalize action ", action));
}

Task<absl::StatusOr<std::string>> SourceSession::Stop(std::string proof) {
  auto keep = self();
  if (proof.empty()) co_return co_await Commit();
  if (proof == resumed_proof_) {
    // The caller knows that it runs here. A STOP without the proof that RESUME returned is the
    // commit, and may be an old one that was long on its way.
    const auto resumed = DecodeProof(proof, plan_digest_);
    if (!resumed.ok()) co_return resumed.status();
    const absl::Status ended = co_await EndResumedVm(resumed->epoch);
    if (!ended.ok()) co_return ended;
    co_return resumed_proof_;
  }
  auto done = DecodeProof(proof, plan_digest_);
  if (!done.ok()) co_return done.status();
  const Proof decoded = *std::move(done);
  absl::Status released = co_await Release(decoded);
  if (!released.ok()) co_return released;
  co_return go_proof_;
}

Task<absl::StatusOr<std::string>> SourceSession::Resume(std::string proof) {
  auto keep = self();
  const SourceRecord record = core_ == nullptr ? SourceRecord::kNone : core_->record();
  if (record == SourceRecord::kGivenUp) {
    co_return Explain(
        absl::FailedPreconditionError(absl::StrCat("VM ", info_.vm_name(), " was given up here")),
        "finalize", "");
  }
  if (record == SourceRecord::kReleased || vm_ == nullptr) {
    co_return Explain(absl::FailedPreconditionError(
                          absl::StrCat("VM ", info_.vm_name(), " runs at ", info_.destination(),
                                       "; there is nothing left to resume here")),
                      "finalize", "");
  }
  if (stopped_again_) {
    co_return Explain(
        absl::FailedPreconditionError(absl::StrCat(
            "VM ", info_.vm_name(), " was given back and then stopped in session ", id())),
        "finalize", "start the VM");
  }
  absl::Status back = absl::OkStatus();
  if (record == SourceRecord::kReclaimed) {
    if (!info_.done()) back = co_await FinishReclaim(head_.epoch);
  } else if (record == SourceRecord::kForced) {
    back = co_await FinishForced();
  } else if (core_ != nullptr && core_->past_point_of_no_return()) {
    if (proof.empty()) {
      co_return Explain(
          absl::FailedPreconditionError(absl::StrCat("VM ", info_.vm_name(), " of session ", id(),
                                                     " may run at ", info_.destination(),
                                                     ", so it cannot resume here without proof")),
          "finalize",
          "finalize the destination with STOP and pass on the REFUSED proof that it returns");
    }
    auto refused = DecodeProof(proof, plan_digest_);
    if (!refused.ok()) co_return refused.status();
    const Proof decoded = *std::move(refused);
    back = co_await Reclaim(decoded);
  } else {
    auto legal = Apply(info_.state(), SessionCall::kFinalize);
    if (!legal.ok()) co_return legal.status();
    if (!legal->repeated) {
      EndReason why = CalledOff(origin(), "rolled back by its caller");
      back = co_await RollBack(std::move(why));
    }
  }
  if (!back.ok()) co_return back;
  if (resumed_proof_.empty()) {
    resumed_proof_ = MakeProof(ProofKind::kAbort, vm_->epoch(), info_.error());
  }
  co_return resumed_proof_;
}

Task<absl::Status> SourceSession::RunHereAgain() {
  auto keep = self();
  if (vm_->system() == nullptr) {
    co_return absl::UnavailableError("the VM ended while it waited here");
  }
  CO_RETURN_IF_ERROR(co_await vm_->ClaimFence(head_.epoch));
  absl::Status resumed = co_await TakeBack();
  // After a restart the VMM may not be in a migration any more.
  if (!resumed.ok() && vm_->system() != nullptr) resumed = co_await vm_->RunOn();
  co_return resumed;
}

Task<absl::Status> SourceSession::ClaimIfStopped() {
  auto keep = self();
  if (vm_->system() == nullptr) co_return absl::OkStatus();
  if (co_await vm_->Executes()) co_return absl::OkStatus();
  co_return co_await vm_->ClaimFence(std::max(head_.epoch, vm_->epoch()));
}

Task<absl::Status> SourceSession::TakeBack() {
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM ended while it waited here");
  schema::MigrationFinalizedOptions options;
  options.origin = schema::MigrationOrigin::kSource;
  options.finalized_operation = schema::MigrationFinalOperation::kResume;
  options.leave_paused = vm_->paused_by_user();
  co_return vm::AsFenceHeld(co_await system->FinalizeLiveMigration(options));
}

// First of all, so that nothing can commit any more, and before the stream ends, so that the
// destination knows why. If it cannot be written, the VM belongs here all the same: it is COMMIT
// that would have given it away.
Task<void> SourceSession::WriteAbort() {
  auto keep = self();
  if (core_ == nullptr) co_return;
  auto step = core_->Abort();
  if (!step.ok()) co_return;
  if (step->has_value()) {
    absl::Status aborted = co_await TakeStep(step);
    if (!aborted.ok()) spdlog::warn("session {}: {}", id(), aborted.ToString());
    core_->Apply(**step);
  }
  if (connection_ == nullptr || std::exchange(abort_told_, true)) co_return;
  (void)connection_->SendMessage(
      MessageKind::kProof,
      MakeProof(ProofKind::kAbort, vm_->epoch(), end_reason() ? ToDetail(*end_reason()) : ""));
}

Task<absl::Status> SourceSession::RollBack(EndReason why) {
  auto keep = self();
  Conclude(std::move(why));
  if (disks_ != nullptr) disks_->Close();
  co_await WriteAbort();
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system != nullptr) {
    absl::Status left = co_await ClaimIfStopped();
    if (left.ok() && info_.state() == v1::SESSION_STATE_TRANSFER_COMPLETED) {
      // The state lies at the destination, which has not been granted it.
      left = co_await TakeBack();
    } else if (left.ok()) {
      // Leaves the migration, so that another one can begin.
      const schema::MigrationCancelOptions options{schema::MigrationOrigin::kSource};
      left = co_await system->CancelLiveMigration(options);
    }
    if (!left.ok()) {
      Store();  // a daemon that is restarted before this is through has to know why
      co_return Explain(left, "roll back", "try again");
    }
  } else {
    info_.set_vm_location("nowhere");
  }
  (void)Enter(SessionCall::kFinalizeDone);
  vm_->ReturnFromMigration(vm_->epoch());
  EndBadly(system == nullptr ? Recovery::kNone : Recovery::kDone);
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
  EndReason why = CalledOff(origin(), reason);
  co_return co_await CancelBecause(std::move(why));
}

Task<absl::Status> SourceSession::CancelBecause(EndReason why) {
  auto keep = self();
  if (commit_started_) co_return TooLateToCancel();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  co_return co_await CallOff(std::move(why));
}

Task<absl::Status> SourceSession::CallOff(EndReason why) {
  auto keep = self();
  if (core_ != nullptr && core_->past_point_of_no_return()) co_return TooLateToCancel();
  if (info_.done() && info_.outcome() == v1::SESSION_OUTCOME_CANCELLED) co_return absl::OkStatus();
  auto legal = Apply(info_.state(), SessionCall::kCancel);
  if (legal.ok() && legal->repeated) co_return absl::OkStatus();
  if (legal.ok()) Conclude(std::move(why));
  auto entered = Enter(SessionCall::kCancel);
  if (!entered.ok()) co_return entered.status();
  if (layers_ != nullptr) layers_->Close();
  // Nobody waits for what the other end does not take.
  if (disks_ != nullptr) disks_->Close();
  co_await WriteAbort();
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system != nullptr) {
    const schema::MigrationCancelOptions options{schema::MigrationOrigin::kSource};
    absl::Status cancelled = co_await ClaimIfStopped();
    if (cancelled.ok()) cancelled = co_await system->CancelLiveMigration(options);
    if (!cancelled.ok()) {
      (void)Enter(SessionCall::kCancelFailed);
      co_return Explain(cancelled, "cancel", "try again");
    }
  }
  vote_settled_.Set();
  connected_.Set();
  absl::Status over =
      co_await WithDeadline(kCancelLimit, "the transfer", WaitFor(&transfer_ended_));
  if (!over.ok()) {
    (void)Enter(SessionCall::kCancelFailed);
    co_return Explain(over, "cancel", "try again");
  }
  vm_->UnfreezeGuest();
  (void)Enter(SessionCall::kCancelDone);
  TellFailure();
  Store();
  co_return absl::OkStatus();
}

Task<void> SourceSession::Expire(EndReason why) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (info_.done()) co_return;
  if (commit_started_) {
    // Nobody brings the proofs any more, so they are offered to the destination itself.
    Spawn(deps_.executor(), FindDestination(keep));
    co_return;
  }
  EndReason again = why;
  absl::Status ended = co_await CallOff(std::move(why));
  if (ended.ok() && !info_.done()) ended = co_await RollBack(std::move(again));
  if (!ended.ok()) spdlog::error("session {}: {}", id(), ended.ToString());
}

Task<absl::StatusOr<std::string>> SourceSession::Commit() {
  auto keep = self();
  if (core_ == nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " was never exported; there is nothing to finalize"));
  }
  auto step = core_->Commit();
  if (!step.ok()) {
    co_return Explain(step.status(), "commit",
                      resumed_proof_.empty()
                          ? "the VM runs on here"
                          : "to end the VM, finalize with STOP and the proof that RESUME returned");
  }
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
  // Before anybody can learn of GO: the destination claims it next.
  const auto committed = Clock::now();
  co_await vm_->YieldFence();
  const auto now = Clock::now();
  go_proof_ = MakeProof(ProofKind::kGo, taken.epoch,
                        absl::StrCat(MillisecondsBetween(stopped_at_, now), " ",
                                     MillisecondsBetween(stopped_at_, voted_at_), " ",
                                     MillisecondsBetween(voted_at_, now)));
  info_.mutable_statistics()->set_blackout_device_ms(MillisecondsBetween(stopped_at_, voted_at_));
  info_.mutable_statistics()->set_blackout_commit_ms(MillisecondsBetween(voted_at_, now));
  blackout_limit_.reset();
  if (trace_) {
    trace_->Span(SessionTrace::Row::kBlackout, "device state", stopped_at_, voted_at_);
    trace_->Span(SessionTrace::Row::kBlackout, "commit", voted_at_, now);
    trace_->Span(SessionTrace::Row::kBlackout, "fence", committed, now);
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
  lost_there_ = absl::EndsWith(proof.detail, kLostMark);
  if (const auto times = TimesIn(proof.detail, 2)) {
    info_.mutable_statistics()->set_blackout_ms((*times)[0]);
    info_.mutable_statistics()->set_blackout_resume_ms((*times)[1]);
  }
  if (connection_ != nullptr) {
    const SessionStatistics statistics = connection_->statistics();
    info_.mutable_statistics()->set_transferred_bytes(statistics.bytes_sent +
                                                      statistics.bytes_received);
  }
  info_.mutable_statistics()->set_total_ms(MillisecondsBetween(created_, Clock::now()));
  co_return co_await FinishRelease();
}

// A session that a restarted daemon took up may have none any more.
Task<absl::Status> SourceSession::RemoveVm() {
  auto keep = self();
  const std::shared_ptr<vm::UtilityVm> vm = vm_;
  if (vm == nullptr) co_return absl::OkStatus();
  const absl::Status ended = co_await vm->Relinquish();
  if (!ended.ok()) spdlog::warn("session {}: what is left of the VM: {}", id(), ended.ToString());
  CO_RETURN_IF_ERROR(co_await deps_.inventory.Forget(vm->id(), info_.destination()));
  vm_.reset();
  co_return absl::OkStatus();
}

Task<void> SourceSession::ForgetVm() {
  auto keep = self();
  if (core_->record() == SourceRecord::kReleased) {
    (void)co_await FinishRelease();
  } else {
    (void)co_await FinishGivenUp();
  }
}

// RELEASED is written: what is left of the VM here goes.
Task<absl::Status> SourceSession::FinishRelease() {
  auto keep = self();
  info_.set_vm_location(lost_there_ ? "nowhere" : info_.destination());
  const absl::Status removed = co_await RemoveVm();
  released_.Set();
  if (!removed.ok()) {
    // The destination's word has been taken all the same.
    ForgetLater(removed);
    co_return absl::OkStatus();
  }
  (void)Enter(SessionCall::kFinalizeDone);
  if (lost_there_) {
    Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION,
              "vm_died_after_switchover",
              absl::StrCat("VM ", info_.vm_name(), " ended at ", info_.destination(),
                           " before it ran there, when it was that host's already")});
    EndBadly(Recovery::kNone);
    co_return absl::OkStatus();
  }
  EndWell(absl::StrCat("VM ", info_.vm_name(), " runs at ", info_.destination()));
  co_return absl::OkStatus();
}

Task<absl::Status> SourceSession::Reclaim(const Proof& refused) {
  auto keep = self();
  // Where there was no COMMIT, the destination only confirms what became of it here.
  EndReason why = core_->before_commit()
                      ? Restarted()
                      : FromDetail(refused.detail, v1::MIGRATION_ORIGIN_DESTINATION);
  const bool late = !core_->before_commit();
  auto step = core_->OnRefused(refused);
  if (!step.ok()) co_return step.status();
  if (!step->has_value() && info_.done()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await TakeStep(std::move(step)));
  if (late) {
    why.message = absl::StrCat(kRefusedLate, why.message.empty() ? "" : ": ", why.message);
  }
  Conclude(std::move(why));
  // A daemon that is restarted before the VM runs again has to know why, and where it began.
  info_.set_error(end_reason()->message);
  TellFailure();
  const absl::Status stored = co_await StoreNow();
  if (!stored.ok()) spdlog::error("session {}: {}", id(), stored.ToString());
  absl::Status back = co_await FinishReclaim(head_.epoch);
  if (!back.ok() && !info_.done()) Spawn(deps_.executor(), GoOnHereLater(keep));
  co_return back;
}

// RECLAIMED is written: the VM is this host's again.
Task<absl::Status> SourceSession::FinishReclaim(uint64_t epoch) {
  auto keep = self();
  Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, "destination_refused",
            kRefusedLate});
  absl::Status resumed = co_await RunHereAgain();
  info_.set_error(end_reason()->message);
  if (!resumed.ok() && vm_->system() != nullptr) {
    info_.set_error(absl::StrCat(end_reason()->message, "; the VM is this host's again, but does ",
                                 "not run yet: ", resumed.message()));
    co_return Explain(resumed, "reclaim", "try again: the VM may run only here now");
  }
  (void)Enter(SessionCall::kFinalizeDone);
  info_.set_vm_location(resumed.ok() ? deps_.own_address() : "nowhere");
  vm_->ReturnFromMigration(epoch);
  released_.Set();
  EndBadly(resumed.ok() ? Recovery::kDone : Recovery::kFailed);
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
  if (const auto known = rpc::GetErrorInfo(status)) {
    *info_.mutable_differences() = known->differences();
  }
  Conclude({v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_DESTINATION, rpc::ReasonOf(status),
            std::string(status.message()), rpc::NextStepOf(status)});
}

Task<bool> SourceSession::AwaitRelease(milliseconds limit) {
  auto keep = self();
  absl::Status released = co_await WithDeadline(limit, "the destination", WaitFor(&released_));
  co_return released.ok();
}

}  // namespace ferry::migration
