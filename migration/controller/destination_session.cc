#include "migration/controller/destination_session.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/blackout.h"
#include "migration/controller/refusals.h"
#include "migration/options/initialize_options.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/checkpoint_moves.h"
#include "vmmanager/sandbox/host_capacity.h"
#include "vmmanager/sandbox/incoming_machine.h"
#include "vmmanager/state/envelope.h"

namespace ferry::migration {
namespace {

google::protobuf::Timestamp WallTimeOf(std::chrono::steady_clock::time_point when) {
  const auto ago = std::chrono::steady_clock::now() - when;
  const auto wall = std::chrono::system_clock::now().time_since_epoch() - ago;
  return google::protobuf::util::TimeUtil::NanosecondsToTimestamp(
      std::chrono::duration_cast<std::chrono::nanoseconds>(wall).count());
}

}  // namespace

Task<absl::Status> DestinationSession::TakeStep(
    absl::StatusOr<std::optional<DestinationStep>> step) {
  if (!step.ok()) co_return step.status();
  if (!step->has_value()) co_return absl::OkStatus();
  const DestinationStep taken = **step;
  vm::AppendOptions options;
  options.decisive =
      taken.record == DestinationRecord::kGranted || taken.record == DestinationRecord::kSuperseded;
  const bool has_vm = taken.record == DestinationRecord::kPrepared ||
                      taken.record == DestinationRecord::kGranted ||
                      taken.record == DestinationRecord::kRunning;
  // The guest that is voted for must be known after a restart, too; and of one that has arrived,
  // whether it is to stay paused.
  if (has_vm) options.vm = vm_->Row();
  CO_RETURN_IF_ERROR(co_await Journal(ToString(taken.record), taken.epoch, std::move(options)));
  core_->Apply(taken);
  co_return absl::OkStatus();
}

Task<absl::Status> DestinationSession::ImportAgain(v1::ImportSandboxRequest request) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (info_.done() || sealed_plan_.empty() || request.config() != sealed_plan_) {
    co_return absl::AlreadyExistsError(absl::StrCat(
        "session ", id(), " exists here and has ended, or with another plan; choose another id"));
  }
  auto legal = Apply(info_.state(), SessionCall::kImport);
  if (legal.ok() && !legal->repeated) {
    co_return absl::UnavailableError(
        absl::StrCat("session ", id(), " could not be imported; try again"));
  }
  co_return legal.status();
}

Task<absl::Status> DestinationSession::Import(v1::ImportSandboxRequest request) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  CO_ASSIGN_OR_RETURN(const vm::PlanState plan, vm::DecodePlan(request.config()));
  if (plan.session_id != id()) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("the config was exported for session ", plan.session_id, ", not for ", id()));
  }
  if (!request.sandbox_id().empty() && request.sandbox_id() != plan.vm.vm_id()) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("sandbox_id is ", request.sandbox_id(), ", but the config holds VM ",
                     plan.vm.vm_id(), "; a VM keeps its id, so leave sandbox_id out"));
  }
  CO_ASSIGN_OR_RETURN(vm::IncomingMachine machine,
                      co_await vm::FitMachine(plan.vm, deps_.inventory, deps_.digests));
  CO_RETURN_IF_ERROR(Explain(RefuseDifferences(machine.differences), "import", ""));
  std::string own = deps_.inventory.deps().settings.state_folder;
  auto checkpoints = co_await vm::FitCheckpoints(plan.vm, std::move(own), &deps_.digests.reads());
  CO_RETURN_IF_ERROR(Explain(checkpoints.status(), "import", ""));
  info_.set_vm_id(plan.vm.vm_id());
  v1::VmSpec spec;
  if (!google::protobuf::util::JsonStringToMessage(plan.vm.spec_json(), &spec).ok()) {
    co_return absl::InvalidArgumentError("the config's VM specification cannot be read");
  }
  vm::VmRow row;
  row.id = plan.vm.vm_id();
  row.name = plan.vm.vm_name();
  row.spec_json = plan.vm.spec_json();
  CO_RETURN_IF_ERROR(
      PlaceDisks(std::move(machine.copies), &machine.document, &spec, &row.spec_json));
  CO_RETURN_IF_ERROR(Explain(co_await CheckDiskRoom(), "import", ""));
  row.document_json = schema::ToJson(machine.document);
  row.epoch = plan.vm.epoch();
  row.created_unix_ms = info_.created_unix_ms();
  if (plan.vm.containers_size() > 0 && deps_.containers == nullptr) {
    co_return absl::FailedPreconditionError("this host has no containers, and the VM has some");
  }
  CO_ASSIGN_OR_RETURN(vm_,
                      deps_.inventory.AddIncoming(id(), std::move(row), spec, machine.document));
  vm_->SetCheckpoints(*std::move(checkpoints));
  vm_->SetFirmwareStore(plan.vm.firmware_store());

  MakeArrivals(plan);
  sealed_plan_ = request.config();
  plan_digest_ = vm::PlanDigest(sealed_plan_);
  base_epoch_ = plan.vm.epoch();
  peer_journal_id_ = plan.source_journal_id;
  info_.set_vm_name(plan.vm.vm_name());
  info_.set_source(plan.source_address);
  info_.set_destination(deps_.own_address());
  info_.set_vm_location(plan.source_address);
  core_ = std::make_unique<DestinationCommit>(Identity());
  core_->AwaitDisks(AwaitedDisks());
  // A restarted daemon finds the records by the session.
  absl::Status imported = co_await StoreNow();
  if (imported.ok()) imported = co_await TakeStep(core_->Import());
  if (imported.ok()) imported = Enter(SessionCall::kImport).status();
  if (imported.ok()) {
    Store();
  } else {
    deps_.inventory.DropIncoming(plan.vm.vm_id());
  }
  co_return imported;
}

void DestinationSession::LetGo() {
  MigrationSession::LetGo();
  // It may leave this host again; who asks about it later finds it in the inventory.
  vm_.reset();
  std::string().swap(sealed_plan_);
  std::string().swap(sealed_cut_);
  arrivals_.reset();
  disks_.reset();
}

absl::Status DestinationSession::CheckRoom() const {
  const absl::Status room = vm::CheckCapacity(vm_->memory_mb(), vm_->id(), deps_.inventory);
  return Explain(room, "prepare", "free some here, or choose another destination");
}

absl::StatusOr<schema::MigrationInitializeOptions> DestinationSession::AgreedOptions(
    const std::optional<v1::InitializeOptions>& options) const {
  ASSIGN_OR_RETURN(schema::MigrationInitializeOptions own, InitializeOptionsFromProto(options));
  ASSIGN_OR_RETURN(const vm::PlanState plan, vm::DecodePlan(sealed_plan_));
  if (!plan.init_options_json.empty()) {
    ASSIGN_OR_RETURN(schema::MigrationInitializeOptions source,
                     schema::MigrationInitializeOptionsFromJson(plan.init_options_json));
    if (options) {
      RETURN_IF_ERROR(CheckOptionsAgree(source, own));
    } else {
      own = std::move(source);
    }
  }
  own.origin = schema::MigrationOrigin::kDestination;
  return own;
}

Task<absl::StatusOr<v1::PrepareSandboxResponse>> DestinationSession::Prepare(
    std::optional<v1::InitializeOptions> options) {
  auto keep = self();
  const std::string given = options ? options->SerializeAsString() : "";
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  auto legal = Apply(info_.state(), SessionCall::kPrepareDestination);
  if (!legal.ok()) co_return legal.status();
  if (legal->repeated) co_return PreparedAs(given);
  auto converted = AgreedOptions(options);
  if (!converted.ok()) {
    co_return Explain(converted.status(), "prepare", "prepare with the source's options, or none");
  }
  UseOptions(*converted);
  verify_ = converted->checksum_verification.value_or(false);
  CO_RETURN_IF_ERROR(CheckRoom());
  CO_RETURN_IF_ERROR(Explain(co_await PrepareContainers(), "prepare", ""));
  CO_ASSIGN_OR_RETURN(incoming_path_, MakeSocketPath());
  vm::MigrationEndpoint endpoint;
  endpoint.unix_path = incoming_path_;
  absl::Status prepared = co_await MakeDisks();
  if (prepared.ok()) prepared = co_await vm_->PrepareIncoming(*converted, endpoint);
  std::string token;
  if (prepared.ok()) {
    auto made = MakeToken();
    prepared = made.status();
    if (made.ok()) token = *std::move(made);
  }
  if (prepared.ok()) {
    auto expectation = deps_.listener.Expect(id(), token, deps_.store().journal_id(), peer_name_);
    prepared = expectation.status();
    if (expectation.ok()) expectation_ = *std::move(expectation);
  }
  if (prepared.ok()) prepared = co_await TakeStep(core_->Listen());
  if (prepared.ok()) prepared = Enter(SessionCall::kPrepareDestination).status();
  if (!prepared.ok()) {
    EndReason why = Failed(rpc::ReasonOf(prepared), std::string(prepared.message()));
    (void)co_await RefuseNow(std::move(why), std::nullopt);
    co_return Explain(prepared, "prepare", "the VM runs on at its source");
  }
  std::weak_ptr<DestinationSession> weak = keep;
  vm_->set_event_tap([weak](const vm::SystemEvent& event) {
    if (auto session = weak.lock()) session->OnSystemEvent(event);
  });
  Store();
  v1::PrepareSandboxResponse response;
  response.set_session_address(deps_.listener.address());
  response.set_session_token(token);
  prepared_options_ = given;
  prepared_ = response;
  co_return response;
}

absl::StatusOr<v1::PrepareSandboxResponse> DestinationSession::PreparedAs(
    const std::string& options) const {
  if (prepared_ && options == prepared_options_) return *prepared_;
  return absl::FailedPreconditionError(
      absl::StrCat("session ", id(), " was prepared with other options"));
}

EndReason DestinationSession::Failed(std::string word, std::string message) const {
  return {v1::SESSION_OUTCOME_FAILED, origin(), std::move(word), std::move(message)};
}

Task<absl::StatusOr<std::string>> DestinationSession::Finalize(v1::FinalizeAction action,
                                                               std::string proof) {
  auto keep = self();
  switch (action) {
    case v1::FINALIZE_ACTION_STOP:
      co_return co_await Stop(std::move(proof));
    case v1::FINALIZE_ACTION_RESUME: {
      if (core_ == nullptr) {
        co_return absl::FailedPreconditionError(absl::StrCat("session ", id(), " holds no VM"));
      }
      if (proof.empty() && !core_->may_execute()) {
        co_return Explain(absl::FailedPreconditionError(
                              absl::StrCat("session ", id(), " cannot run VM ", info_.vm_name(),
                                           " without the source's GO proof")),
                          "finalize",
                          "finalize the source with STOP and pass on the proof that it returns");
      }
      Proof go;
      if (!proof.empty()) {
        auto decoded = DecodeProof(proof, plan_digest_);
        if (!decoded.ok()) co_return decoded.status();
        go = *std::move(decoded);
      }
      if (stopped_again_) {
        co_return Explain(
            absl::FailedPreconditionError(absl::StrCat(
                "VM ", info_.vm_name(), " ran here and was then stopped in session ", id())),
            "finalize", "start the VM");
      }
      co_return co_await Run(std::move(go), GoCame::kByOthers);
    }
    default:
      co_return absl::InvalidArgumentError("finalize needs an action: STOP or RESUME");
  }
}

Task<absl::StatusOr<std::string>> DestinationSession::Stop(std::string proof) {
  auto keep = self();
  if (proof.empty() || proof != done_proof_) {
    EndReason why = CalledOff(origin(), "stopped by its caller");
    co_return co_await Refuse(std::move(why));
  }
  // The caller knows that it runs here: it has the proof that RESUME returned. A STOP without it
  // asks for the refusal, and must not end what was granted meanwhile.
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  const absl::Status ended = co_await EndResumedVm(core_->identity().epoch + 1);
  if (!ended.ok()) co_return ended;
  co_return done_proof_;
}

bool DestinationSession::may_expire() const {
  if (core_ == nullptr || !core_->may_refuse_alone()) return false;
  // As long as the source is there and sends, it is the source that counts.
  const bool receiving = info_.state() == v1::SESSION_STATE_TRANSFERRING &&
                         connection_ != nullptr && !connection_->closed();
  const bool layers_come = layers_ != nullptr && !layers_->closed();
  const bool disks_come = disks_ != nullptr && !disks_->closed();
  return !receiving && !layers_come && !disks_come;
}

Task<void> DestinationSession::Expire(EndReason why) {
  auto keep = self();
  auto refused = co_await Refuse(std::move(why));
  if (!refused.ok()) spdlog::error("session {}: {}", id(), refused.status().ToString());
}

Task<absl::Status> DestinationSession::Cancel(std::string reason) {
  auto keep = self();
  EndReason why = CalledOff(origin(), reason);
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (core_ != nullptr && core_->may_execute()) {
    co_return Explain(
        rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                             absl::StrCat("VM ", info_.vm_name(),
                                          " runs here already; the migration cannot be cancelled"),
                             "past_point_of_no_return"),
        "cancel", "");
  }
  // The source's own abort may have come first; then what was asked for is so.
  if (core_ != nullptr && core_->record() == DestinationRecord::kRefused) {
    co_return absl::OkStatus();
  }
  auto legal = Apply(info_.state(), SessionCall::kCancel);
  if (!legal.ok()) co_return Enter(SessionCall::kCancel).status();
  if (legal->repeated) co_return absl::OkStatus();
  Conclude(why);
  (void)Enter(SessionCall::kCancel);
  auto refused = co_await RefuseNow(std::move(why), std::nullopt);
  if (!refused.ok()) {
    (void)Enter(SessionCall::kCancelFailed);
    co_return Explain(refused.status(), "cancel", "try again");
  }
  (void)Enter(SessionCall::kCancelDone);
  Store();
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::string>> DestinationSession::Run(Proof go, GoCame came) {
  auto keep = self();
  const auto go_received = Clock::now();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  co_await NoteIfPutBack(go);
  co_await RefuseIfGone();
  NoteHeard(go);
  auto step = core_->Grant(go);
  if (step.ok() && !step->has_value() && running_) co_return done_proof_;
  if (step.ok() && vm_ == nullptr) {
    co_return Explain(
        absl::FailedPreconditionError(absl::StrCat("VM ", info_.vm_name(), ", which session ", id(),
                                                   " granted to this host, is not here any more")),
        "resume", "");
  }
  if (step.ok()) {
    CO_RETURN_IF_ERROR(co_await ClaimFence());
    // It may have ended meanwhile.
    if (vm_->system() == nullptr) co_await RefuseIfGone();
    step = core_->Grant(go);
  }
  if (!step.ok()) {
    co_return Explain(step.status(), "commit",
                      refused_proof_.empty() ? "" : "finalize with STOP for the REFUSED proof");
  }
  CO_RETURN_IF_ERROR(co_await TakeStep(std::move(step)));
  co_return co_await RunGranted(std::move(go), came, go_received);
}

Task<void> DestinationSession::RefuseIfGone() {
  auto keep = self();
  if (core_->may_execute() || !core_->may_refuse_alone()) co_return;
  if (co_await LookAtCopy() != DestinationCommit::Copy::kGone) co_return;
  // Nothing was granted, so the source may still have it back.
  EndReason why = Failed("destination_vm_died", absl::StrCat("VM ", info_.vm_name(),
                                                             " ended here while it waited for "
                                                             "its GO"));
  (void)co_await RefuseNow(std::move(why), std::nullopt);
}

Task<absl::Status> DestinationSession::ClaimFence() {
  auto keep = self();
  // What has ended runs nowhere.
  if (vm_ == nullptr || vm_->system() == nullptr) co_return absl::OkStatus();
  const uint64_t epoch = core_->identity().epoch + 1;
  if (core_->may_execute() && co_await LookAtCopy() == DestinationCommit::Copy::kRuns) {
    co_await vm_->ClaimWhatRuns(epoch);
    co_return absl::OkStatus();
  }
  const auto asked = Clock::now();
  absl::Status claimed = co_await vm_->ClaimFence(epoch);
  if (trace_) trace_->Span(SessionTrace::Row::kBlackout, "fence", asked, Clock::now());
  if (claimed.ok()) co_return claimed;
  claimed = Explain(claimed, "commit", "");
  if (!core_->may_refuse_alone()) co_return claimed;
  EndReason why = Failed(rpc::ReasonOf(claimed), std::string(claimed.message()));
  auto refused = co_await RefuseNow(std::move(why), std::nullopt);
  if (!refused.ok()) spdlog::error("session {}: {}", id(), refused.status().ToString());
  co_return claimed;
}

Task<absl::StatusOr<std::string>> DestinationSession::RunGranted(Proof go, GoCame came,
                                                                 Clock::time_point go_received) {
  auto keep = self();
  const uint64_t epoch = core_->identity().epoch + 1;
  absl::Status ran = co_await vm_->RunIncoming(epoch, paused_by_user_);
  // It came before, and only the record of that is missing; its users may do with it what they
  // like, and it may have ended since.
  const bool waits = vm_->state() == v1::VM_STATE_INCOMING;
  if (!ran.ok() && !waits && !vm_->current_notice()) ran = absl::OkStatus();
  if (!ran.ok() && waits && vm_->system() == nullptr) {
    // It is this host's now and nobody else's, dead as it is: the source holds a state from before
    // and must not run it.
    lost_ = absl::StrCat("VM ", info_.vm_name(), " ended at the switchover, after it was granted ",
                         "to this host: ", ran.message());
    info_.set_error(lost_);
    co_await vm_->MarkLost(epoch, lost_);
  } else if (!ran.ok()) {
    info_.set_error(std::string(ran.message()));
    co_return Explain(ran, "resume", "try again: the VM may run only here now");
  }
  TellContainers();
  info_.set_vm_location(deps_.own_address());
  // It may have run since an earlier GO, whose end could not be written down.
  const bool known = resumed_at_ > vote_sent_at_.value_or(go_received);
  const auto resumed = known ? resumed_at_ : Clock::now();
  if (trace_) {
    trace_->Span(SessionTrace::Row::kBlackout, "resume", std::min(go_received, resumed), resumed);
  }
  std::optional<v1::BlackoutExitedDetails> blackout;
  DestinationTimes times;
  if (connection_ != nullptr && connection_->rtt()) {
    times.one_way = std::chrono::duration<double, std::milli>(*connection_->rtt()).count() / 2;
  }
  // When GO was made cannot be told from when it came, if it was carried or came again.
  const bool took_its_time = came == GoCame::kByOthers || resumed < go_received;
  if (took_its_time && vote_sent_at_) {
    times.since_vote = MillisecondsBetween(*vote_sent_at_, resumed);
  }
  times.since_go = std::max(0.0, MillisecondsBetween(go_received, resumed));
  // A daemon that was restarted after its GRANTED has no GO that tells.
  if (const auto measured = MeasureBlackout(go.detail, times)) {
    blackout.emplace();
    blackout->set_blackout_duration_milliseconds(std::llround(measured->total));
    blackout->set_blackout_ms(measured->total);
    blackout->set_device_ms(measured->device);
    blackout->set_commit_ms(measured->commit);
    blackout->set_resume_ms(measured->resume);
    *blackout->mutable_blackout_stop_timestamp() = WallTimeOf(resumed);
  }
  absl::Status recorded = co_await KeepDisks();
  if (recorded.ok()) recorded = co_await TakeStep(core_->Running());
  if (!recorded.ok()) {
    TryAgainLater();
    co_return recorded;
  }
  vm_->NoteArrived();
  FinishRunning(std::move(blackout));
  RemoveDoneContainers();
  co_return done_proof_;
}

void DestinationSession::FinishRunning(std::optional<v1::BlackoutExitedDetails> blackout) {
  const double blackout_ms = blackout ? blackout->blackout_ms() : 0;
  const double resume_ms = blackout ? blackout->resume_ms() : 0;
  done_proof_ =
      MakeProof(ProofKind::kDone, core_->identity().epoch + 1,
                absl::StrCat(blackout_ms, " ", resume_ms, lost_.empty() ? "" : kLostMark));
  running_ = true;
  if (connection_ != nullptr) (void)connection_->SendMessage(MessageKind::kProof, done_proof_);
  (void)Enter(SessionCall::kFinalizeDone);
  if (!lost_.empty()) {
    info_.set_vm_location("nowhere");
    Conclude(Failed("destination_vm_died", lost_));
    EndBadly(Recovery::kNone);
    return;
  }
  info_.set_vm_location(deps_.own_address());
  if (!notifier_->told(v1::MIGRATION_PHASE_BLACKOUT_EXITED)) {
    v1::Notification exited;
    exited.set_origin(origin());
    exited.set_phase(v1::MIGRATION_PHASE_BLACKOUT_EXITED);
    exited.set_state(v1::MIGRATION_PHASE_STATE_SUCCESS);
    if (blackout) *exited.mutable_blackout_exited() = *blackout;
    Tell(exited);
  }
  v1::Statistics& statistics = *info_.mutable_statistics();
  if (blackout) {
    statistics.set_blackout_ms(blackout_ms);
    statistics.set_blackout_device_ms(blackout->device_ms());
    statistics.set_blackout_commit_ms(blackout->commit_ms());
    statistics.set_blackout_resume_ms(resume_ms);
  }
  EndWell(absl::StrCat("VM ", info_.vm_name(), " runs here"));
}

Task<absl::StatusOr<std::string>> DestinationSession::Refuse(EndReason why) {
  auto keep = self();
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  co_return co_await RefuseNow(std::move(why), std::nullopt);
}

Task<absl::StatusOr<std::string>> DestinationSession::RefuseNow(EndReason why,
                                                                std::optional<Proof> abort) {
  auto keep = self();
  if (core_ == nullptr) co_return std::string();
  if (abort) {
    NoteHeard(*abort);
    co_await NoteIfPutBack(*abort);
  }
  auto step = abort ? core_->OnAbort(*abort) : core_->Refuse();
  if (!step.ok()) {
    co_return Explain(step.status(), "finalize",
                      core_->may_execute() ? "the VM is this host's; to end it, finalize with STOP "
                                             "and the proof that RESUME returned"
                                           : "");
  }
  if (!step->has_value()) co_return refused_proof_;
  if (put_back_) why = PutBack();
  Conclude(std::move(why));
  CO_RETURN_IF_ERROR(co_await TakeStep(std::move(step)));
  co_await FinishRefuse();
  co_return refused_proof_;
}

Task<void> DestinationSession::FinishRefuse() {
  auto keep = self();
  // The source claims it as soon as it has heard.
  if (vm_ != nullptr) co_await vm_->YieldFence();
  // A transfer that waits for the connection wakes up, and lets go of the expectation itself.
  connected_.Set();
  word_arrived_.Set();
  layers_called_off_.Set();
  if (layers_ != nullptr) layers_->Close();
  if (disks_ != nullptr) disks_->Close();
  disks_expected_.reset();
  if (transfer_ended_.is_set()) expectation_.reset();
  Conclude(Failed(DefaultReason(v1::SESSION_OUTCOME_FAILED), "refused"));
  const std::string why = end_reason()->message;
  refused_proof_ = MakeProof(ProofKind::kRefused, core_->identity().epoch, ToDetail(*end_reason()));
  if (connection_ != nullptr) (void)connection_->SendMessage(MessageKind::kProof, refused_proof_);
  cut_arrived_.Set();
  const absl::Status reason = absl::NotFoundError(
      absl::StrCat("VM ", info_.vm_name(), " does not come to this host: ", why));
  if (vm_ != nullptr) co_await vm_->Discard(reason);
  co_await ForgetVm();
}

Task<void> DestinationSession::ForgetVm() {
  auto keep = self();
  if (core_->record() == DestinationRecord::kSuperseded) {
    const absl::Status ended = co_await FinishSupersede();
    if (!ended.ok()) ForgetLater(ended);
    co_return;
  }
  vm::ArrivalFolder arrivals = Arrivals();
  absl::Status forgotten =
      co_await vm::RemoveArrivals(&deps_.inventory.deps().host_reads, std::move(arrivals));
  if (forgotten.ok()) forgotten = co_await deps_.inventory.Forget(info_.vm_id(), "");
  if (!forgotten.ok()) {
    ForgetLater(forgotten);
    co_return;
  }
  if (arrivals_ != nullptr) {
    co_await arrivals_->Discard();
    co_await DropLayerPin();
  }
  const v1::SessionState state = info_.state();
  if (state != v1::SESSION_STATE_CANCELLING && state != v1::SESSION_STATE_CANCELLED) {
    (void)Enter(SessionCall::kTransferFailed);
    (void)Enter(SessionCall::kFinalizeDone);
  }
  info_.set_error(end_reason()->message);
  EndBadly(Recovery::kNone);
}

}  // namespace ferry::migration
