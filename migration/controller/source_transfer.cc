// The source's transfer task: from the session connection to the destination's vote.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/connection/dialer.h"
#include "migration/controller/source_session.h"
#include "migration/controller/state_check.h"
#include "migration/controller/transfer_progress.h"
#include "migration/options/initialize_options.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/state/envelope.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {
namespace {

static_assert(kMaxWorkers < SessionLimits().max_channels);
constexpr milliseconds kReasonLimit{1'000};
// Longer than a backend gives a VMM that is to end.
constexpr milliseconds kEndLimit{20'000};

// HCS's session number: the first four bytes, big-endian, of the id's SHA-256.
uint32_t SessionNumber(const std::string& session_id) {
  const std::string digest = vm::Sha256(session_id);
  uint32_t number = 0;
  for (int i = 0; i < 4; ++i) number = number << 8 | static_cast<uint8_t>(digest[i]);
  return number;
}

}  // namespace

Task<absl::Status> SourceSession::Transfer(v1::TransferSandboxRequest request) {
  auto keep = self();
  if (sends_disks_) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " is copying its disks; transfer the VM when it has"));
  }
  auto entered = Enter(SessionCall::kTransfer);
  if (!entered.ok()) co_return entered.status();
  if (entered->repeated) co_return absl::OkStatus();
  transfer_ended_.Reset();
  Spawn(deps_.executor(), RunTransfer(keep, std::move(request)));
  co_return absl::OkStatus();
}

Task<void> SourceSession::RunTransfer(Self self, v1::TransferSandboxRequest request) {
  absl::Status status = co_await self->Connect(request);
  if (status.ok()) status = co_await self->MoveMemory();
  if (!status.ok()) co_await self->AwaitReason();
  self->FinishTransfer(status);
  if (status.ok() && self->commit_when_ready_) {
    AsyncMutex::Guard lock = co_await self->deciding_.Lock();
    auto committed = co_await self->Commit();
    self->commit_status_ = committed.status();
    if (!committed.ok()) {
      self->Conclude({v1::SESSION_OUTCOME_FAILED, self->origin(), rpc::ReasonOf(committed.status()),
                      std::string(committed.status().message()),
                      rpc::NextStepOf(committed.status())});
    }
  }
  self->commit_settled_.Set();
  if (status.ok()) co_return;
  AsyncMutex::Guard lock = co_await self->deciding_.Lock();
  co_await self->WriteAbort();
}

Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> SourceSession::DialDestination(
    std::string session_id, std::string address, std::string token) {
  DialOptions dial;
  dial.address = std::move(address);
  dial.tls = deps_.tls;
  dial.params.role = Role::kSource;
  dial.params.session_id = std::move(session_id);
  dial.params.token = std::move(token);
  dial.params.journal_id = deps_.store().journal_id();
  auto connection = co_await Dial(std::move(dial));
  if (!connection.ok()) co_return AtDestination(connection.status());
  co_return connection;
}

Task<absl::Status> SourceSession::Connect(const v1::TransferSandboxRequest& request) {
  const milliseconds timeout = SocketTimeout(request);
  if (connection_ == nullptr && !request.session_address().empty()) {
    auto connection =
        co_await DialDestination(id(), request.session_address(), request.session_token());
    if (!connection.ok()) co_return connection.status();
    ConnectionArrived(*std::move(connection));
  }
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(timeout, "the session connection", WaitFor(&connected_)));
  if (connection_ == nullptr && !socket_error_.ok()) co_return socket_error_;
  if (info_.state() != v1::SESSION_STATE_TRANSFERRING) {
    co_return absl::CancelledError(info_.error());
  }
  peer_journal_id_ = connection_->peer_journal_id();
  core_->set_peer_journal_id(peer_journal_id_);
  Spawn(deps_.executor(), ReadMessages(self(), connection_));
  co_return absl::OkStatus();
}

Task<absl::Status> SourceSession::MoveMemory() {
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM has ended");
  CO_RETURN_IF_ERROR(co_await TakeStep(core_->BeginTransfer()));
  may_have_voted_ = true;
  if (refused_ || info_.state() != v1::SESSION_STATE_TRANSFERRING) {
    co_return absl::CancelledError("the session ended before its transfer began");
  }
  CO_ASSIGN_OR_RETURN(const std::string path, MakeSocketPath());
  CO_RETURN_IF_ERROR(connection_->RelayFromListener(path));

  Self keep = self();
  vm::MigrationEndpoint endpoint;
  endpoint.unix_path = path;
  schema::MigrationStartOptions start;
  start.session_id = SessionNumber(id());
  CO_RETURN_IF_ERROR(co_await system->StartLiveMigrationOnSource(start, endpoint));
  info_.mutable_statistics()->set_setup_ms(MillisecondsBetween(created_, Clock::now()));

  vm::TransferHooks hooks = MakeHooks();
  const schema::MigrationTransferOptions transfer{schema::MigrationOrigin::kSource};
  WatchForStall();
  absl::Status moved = co_await system->StartLiveMigrationTransfer(transfer, hooks);
  const std::unique_ptr<StallWatchdog> watchdog = std::move(watchdog_);
  CO_RETURN_IF_ERROR(co_await JudgeTransfer(std::move(moved), watchdog->stalled()));
  core_->NoteTransferCompleted();
  co_return co_await AwaitVote();
}

vm::TransferHooks SourceSession::MakeHooks() {
  std::weak_ptr<SourceSession> weak = self();
  vm::TransferHooks hooks;
  hooks.on_stopped = [weak]() -> Task<absl::Status> {
    auto session = weak.lock();
    if (session == nullptr) co_return absl::CancelledError("the session is gone");
    co_return co_await session->OnStopped();
  };
  if (schema::BlackoutThresholdMs(options_)) {
    hooks.check_rest = [weak](const vm::TransferProgress& rest) {
      auto session = weak.lock();
      return session == nullptr ? absl::OkStatus() : session->CheckRest(rest);
    };
  }
  return hooks;
}

Task<absl::Status> SourceSession::JudgeTransfer(absl::Status moved, bool stalled) {
  auto keep = self();
  if (!moved.ok() && stalled) co_return Stalled("the VM");
  if (!moved.ok() && connection_->closed()) {
    // Why the connection ended says more than what the VMM makes of it.
    const absl::Status lost = co_await connection_->WaitClosed();
    if (!lost.ok()) {
      co_return AtDestination(
          rpc::ErrorWithReason(lost.code(), lost.message(), "connection_lost", kAfterALostLink));
    }
  }
  co_return moved;
}

Task<absl::Status> SourceSession::AwaitVote() {
  auto keep = self();
  absl::Status voted =
      co_await WithDeadline(limits_.vote, "the destination's vote", WaitFor(&vote_settled_));
  if (voted.ok() && !voted_) {
    voted = vote_error_.ok() ? absl::AbortedError("the destination did not vote") : vote_error_;
  }
  if (!voted.ok()) {
    // The guest is stopped and its state lies at the destination, which has no leave to run it.
    absl::Status resumed = co_await RunHereAgain();
    if (!resumed.ok()) spdlog::error("session {}: {}", id(), resumed.ToString());
    co_return AtDestination(voted);
  }
  co_return voted;
}

absl::Status SourceSession::Stalled(const char* what) {
  return AtDestination(rpc::ErrorWithReason(
      absl::StatusCode::kAborted,
      absl::StrCat("no byte of ", what, " moved for ", limits_.stall.count(),
                   " ms, so the migration was called off; look whether QEMU, the daemon and its "
                   "disk are well at ",
                   info_.destination(), ", then try again"),
      "transfer_stalled"));
}

absl::Status SourceSession::AtDestination(absl::Status status) {
  failed_at_ = v1::MIGRATION_ORIGIN_DESTINATION;
  return status;
}

// Why the transfer failed may be known a moment later than that it did: whose end of the stream
// went first, and whether its VMM died.
Task<void> SourceSession::AwaitReason() {
  auto keep = self();
  if (info_.state() == v1::SESSION_STATE_CANCELLING) co_return;
  if (connection_ != nullptr && !refused_ && connection_->stream_ended_by_peer()) {
    failed_at_ = v1::MIGRATION_ORIGIN_DESTINATION;
    (void)co_await WithDeadline(kReasonLimit, "the destination's word", WaitFor(&vote_settled_));
  }
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr || refused_) co_return;
  const schema::PropertyQuery query;
  auto properties = co_await system->GetProperties(query);
  const bool lives =
      properties.ok() && !properties->ending && properties->state != schema::SystemState::kStopped;
  if (lives) co_return;
  (void)co_await WithDeadline(kEndLimit, "the VM's end", WaitFor(&vm_end_seen_));
}

EndReason SourceSession::WhyFailed(const absl::Status& status) const {
  if (vm_ended_) {
    const std::string vm = absl::StrCat("VM ", info_.vm_name());
    if (vm_ended_->cause == vm::SystemExit::Cause::kShutdown) {
      return {v1::SESSION_OUTCOME_CANCELLED, origin(), kGuestShutdown,
              absl::StrCat(vm, " shut itself down before it could move")};
    }
    if (vm_ended_->cause == vm::SystemExit::Cause::kReset) {
      return {v1::SESSION_OUTCOME_CANCELLED, origin(), kGuestReset,
              absl::StrCat(vm, " reset itself before it could move")};
    }
    return {v1::SESSION_OUTCOME_FAILED, origin(), "source_vm_died",
            absl::StrCat(vm, " ended before it could move: ", status.message())};
  }
  if (refused_) return *refused_;
  return {v1::SESSION_OUTCOME_FAILED, failed_at_, rpc::ReasonOf(status),
          std::string(status.message()), rpc::NextStepOf(status)};
}

// The session has nothing left to move. What the destination holds already lives on there.
Task<void> SourceSession::EndWithItsVm(Self self) {
  self->connected_.Set();
  co_await self->transfer_ended_.Wait();
  AsyncMutex::Guard lock = co_await self->deciding_.Lock();
  if (self->info_.done() || self->info_.state() == v1::SESSION_STATE_TRANSFER_COMPLETED ||
      (self->core_ != nullptr && self->core_->past_point_of_no_return())) {
    co_return;
  }
  EndReason why = self->WhyFailed(absl::UnavailableError("it has ended"));
  absl::Status ended = co_await self->RollBack(std::move(why));
  if (!ended.ok()) spdlog::error("session {}: {}", self->id(), ended.ToString());
}

void SourceSession::WatchForStall() {
  StallWatchdog::Transfer transfer;
  transfer.moved = [connection = connection_] {
    const SessionStatistics statistics = connection->statistics();
    return statistics.bulk_bytes_sent + statistics.bulk_bytes_received;
  };
  transfer.call_off = [weak = std::weak_ptr<SourceSession>(self())] {
    return CallOffStalled(weak);
  };
  watchdog_ = std::make_unique<StallWatchdog>(deps_.executor(), limits_.stall, std::move(transfer));
}

Task<void> SourceSession::CallOffStalled(std::weak_ptr<SourceSession> weak) {
  Self session = weak.lock();
  if (session == nullptr || session->transfer_ended_.is_set()) co_return;
  // Whoever waits for the other end to read or write is let go, here and there.
  session->connection_->ResetChannels("the transfer stalled");
  if (session->disks_ != nullptr) session->disks_->Close();
  std::shared_ptr<vm::ComputeSystem> system = session->vm_->system();
  if (system == nullptr) co_return;
  const schema::MigrationCancelOptions options{schema::MigrationOrigin::kSource};
  absl::Status cancelled = co_await system->CancelLiveMigration(options);
  if (!cancelled.ok()) spdlog::warn("session {}: {}", session->id(), cancelled.ToString());
}

Task<absl::Status> SourceSession::OnStopped() {
  auto keep = self();
  const auto begun = Clock::now();
  if (watchdog_ != nullptr) watchdog_->Stop();
  if (info_.state() != v1::SESSION_STATE_TRANSFERRING) {
    co_return absl::CancelledError(info_.error());
  }
  std::shared_ptr<guest::Guest> guest = vm_->guest();
  if (guest == nullptr) co_return absl::UnavailableError("the VM has ended");
  CO_RETURN_IF_ERROR(co_await SealDisks());
  vm_->FreezeGuest();
  auto guest_state = guest->Save();
  if (!guest_state.ok()) co_return guest_state.status();
  NoteInFlight(*guest_state);
  vm::CutState cut;
  cut.session_id = id();
  cut.vm_id = vm_->id();
  cut.plan_sha256 = plan_digest_;
  cut.guest_link = vm_->guest_link();
  cut.guest = *std::move(guest_state);
  cut.paused_by_user = vm_->paused_by_user();
  cut.copied_disks = copied_disks_;
  if (deps_.exports != nullptr) cut.containers = deps_.exports->Cut(vm_->id());
  CO_ASSIGN_OR_RETURN(std::string sealed, vm::EncodeCut(cut));
  state_digest_ = vm::Sha256(sealed);
  CO_RETURN_IF_ERROR(connection_->SendMessage(MessageKind::kCut, std::move(sealed)));
  if (trace_) trace_->Span(SessionTrace::Row::kBlackout, "cut", begun, Clock::now());
  co_return co_await TakeStep(core_->Quiesce());
}

void SourceSession::NoteInFlight(const guest::GuestState& state) {
  uint64_t input = 0;
  uint64_t output = 0;
  for (const guest::ProcessState& process : state.processes) {
    input += process.std_in.in_flight;
    output += process.std_out.in_flight + process.std_err.in_flight;
  }
  info_.mutable_statistics()->set_unacknowledged_stdin_bytes(input);
  info_.mutable_statistics()->set_unacknowledged_output_bytes(output);
}

absl::Status SourceSession::CheckVote(const Proof& prepared) {
  if (options_.checksum_verification.value_or(false)) {
    if (connection_ == nullptr) return absl::FailedPreconditionError("the session has ended");
    const StateCheck sent = CheckOfSent(*connection_);
    RETURN_IF_ERROR(CompareChecks(sent, prepared.detail));
    info_.mutable_statistics()->set_verified_bytes(sent.bytes);
  }
  return core_->NotePrepared(prepared, state_digest_);
}

void SourceSession::OnSystemEvent(const vm::SystemEvent& event) {
  switch (event.kind) {
    case vm::SystemEvent::Kind::kTransferProgress:
      OnProgress(event.progress);
      break;
    case vm::SystemEvent::Kind::kMigration:
      OnMigrationEvent(event);
      break;
    case vm::SystemEvent::Kind::kExited:
      vm_ended_ = event.exit;
      vm_end_seen_.Set();
      Spawn(deps_.executor(), EndWithItsVm(self()));
      break;
    default:
      break;
  }
}

void SourceSession::OnMigrationEvent(const vm::SystemEvent& event) {
  using Name = schema::MigrationEventName;
  switch (event.migration.event) {
    case Name::kOfflineDone:  // told once the destination has voted: the session can be finalized
    case Name::kMigrationDone:
    case Name::kMigrationFailed:
    case Name::kMigrationRecoveryDone:
      // How the session ends is its own to tell, and not the VMM's.
      return;
    case Name::kBlackoutStarted:
      OnBlackout(event.when);
      break;
    case Name::kTransferInProgress:
      memory_moves_ = true;
      if (force_) Spawn(deps_.executor(), ForceSwitchover(self(), *force_));
      break;
    default:
      break;
  }
  Tell(ToNotification(event.migration, origin()));
}

void SourceSession::OnProgress(const vm::TransferProgress& from) {
  *info_.mutable_progress() = ToProgress(from, info_.progress());
  v1::Statistics& statistics = *info_.mutable_statistics();
  statistics.set_memory_passes(from.pass);
  statistics.set_throttle_percent(std::max(statistics.throttle_percent(), from.throttle_percent));
  statistics.set_switchover_forced(statistics.switchover_forced() || from.forced);
  // The last numbers come when the transfer is over; they are for whoever asks.
  if (transfer_ended_.is_set()) return;
  TraceProgress(from);
  if (convergence_.Hopeless(from)) {
    std::string why = absl::StrCat(
        "the guest is slowed down by ", from.throttle_percent, " percent, and still dirties its ",
        "memory faster than it moves; give it a longer blackout, or use the profile must-finish");
    Spawn(deps_.executor(), CallOffByLimit(self(), std::move(why), "not_converging"));
  }
  v1::Notification notification;
  notification.set_origin(origin());
  notification.set_phase(v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS);
  notification.set_state(v1::MIGRATION_PHASE_STATE_SUCCESS);
  *notification.mutable_progress() = info_.progress();
  Tell(notification);
}

Task<void> SourceSession::ReadMessages(Self self, std::shared_ptr<SessionConnection> connection) {
  while (auto message = co_await connection->NextMessage()) {
    if (message->kind == MessageKind::kProof) co_await self->HandleProof(message->bytes);
  }
  // Without the connection no vote can come any more; after COMMIT the proofs find another way.
  self->vote_settled_.Set();
}

Task<void> SourceSession::HandleProof(std::string bytes) {
  auto proof = DecodeProof(bytes, plan_digest_);
  if (!proof.ok()) {
    spdlog::warn("session {}: {}", id(), proof.status().ToString());
    co_return;
  }
  const Proof decoded = *std::move(proof);
  NoteHeard(decoded);
  absl::Status status = absl::OkStatus();
  switch (decoded.kind) {
    case ProofKind::kPrepared:
      status = CheckVote(decoded);
      voted_ = status.ok();
      if (!voted_) vote_error_ = status;
      voted_at_ = Clock::now();
      vote_settled_.Set();
      break;
    case ProofKind::kDone: {
      AsyncMutex::Guard lock = co_await deciding_.Lock();
      status = co_await Release(decoded);
      break;
    }
    case ProofKind::kRefused:
      if (commit_started_ || transfer_ended_.is_set()) {
        AsyncMutex::Guard lock = co_await deciding_.Lock();
        status = co_await OnRefused(decoded);
      } else {
        // While we cancel, that is only what the destination sees of it.
        refused_ = Refusal(decoded);
        vote_settled_.Set();
        std::shared_ptr<vm::ComputeSystem> system = vm_->system();
        if (system != nullptr) {
          const schema::MigrationCancelOptions options{schema::MigrationOrigin::kSource};
          status = co_await system->CancelLiveMigration(options);
        }
      }
      break;
    default:
      status = absl::InvalidArgumentError("a proof that only the source can give");
  }
  if (!status.ok()) spdlog::warn("session {}: {}", id(), status.ToString());
}

// The destination will not run the VM; deciding_ is held.
Task<absl::Status> SourceSession::OnRefused(Proof refused) {
  if (core_->record() == SourceRecord::kForced) co_return EndForced(refused);
  if (core_->past_point_of_no_return()) co_return co_await Reclaim(refused);
  // It had voted, and nobody has committed yet.
  if (info_.state() != v1::SESSION_STATE_TRANSFER_COMPLETED) co_return absl::OkStatus();
  EndReason why = Refusal(refused);
  co_return co_await RollBack(std::move(why));
}

EndReason SourceSession::Refusal(const Proof& refused) {
  EndReason why = FromDetail(refused.detail, v1::MIGRATION_ORIGIN_DESTINATION);
  why.message = absl::StrCat("the destination refused: ", why.message);
  return why;
}

void SourceSession::FinishTransfer(const absl::Status& status) {
  if (status.ok()) {
    transfer_status_ = status;
    auto entered = Enter(SessionCall::kTransferDone);
    if (entered.ok() && !entered->repeated) {
      Publish(v1::MIGRATION_PHASE_OFFLINE_DONE, v1::MIGRATION_PHASE_STATE_SUCCESS);
    }
  } else {
    Conclude(WhyFailed(status));
    // The guest may wait for what the other end does not take.
    if (disks_ != nullptr) disks_->Close();
    transfer_status_ = absl::Status(status.code(), info_.error());
    auto entered = Enter(SessionCall::kTransferFailed);
    vm_->UnfreezeGuest();
    if (entered.ok() && !entered->repeated) {
      TellFailure();
      Store();
    }
  }
  time_limit_.reset();
  if (!status.ok()) blackout_limit_.reset();
  transfer_ended_.Set();
  LetGoIfOver();
}

}  // namespace ferry::migration
