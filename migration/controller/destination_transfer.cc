// The destination's transfer task: from the session connection to its vote.
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/controller/destination_session.h"
#include "migration/controller/state_check.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/state/envelope.h"

namespace ferry::migration {
Task<absl::Status> DestinationSession::Transfer(v1::TransferSandboxRequest request) {
  auto keep = self();
  if (!DisksToCome().empty() && disks_ == nullptr &&
      info_.state() == v1::SESSION_STATE_DESTINATION_PREPARED) {
    co_return Explain(absl::FailedPreconditionError(
                          absl::StrCat("the content of VM ", info_.vm_name(),
                                       "'s disks has not come, which this host does ", "not see")),
                      "transfer", "call ReceiveDisks here, and SendDisks at the source");
  }
  auto entered = Enter(SessionCall::kTransfer);
  if (!entered.ok()) co_return entered.status();
  if (entered->repeated) co_return absl::OkStatus();
  transfer_ended_.Reset();
  Spawn(deps_.executor(), RunTransfer(keep, std::move(request)));
  co_return absl::OkStatus();
}

Task<void> DestinationSession::RunTransfer(Self self, v1::TransferSandboxRequest request) {
  absl::Status status = co_await self->Receive(request);
  if (status.ok()) status = co_await self->Vote();
  self->transfer_ended_.Set();
  self->LetGoIfOver();
  if (status.ok()) co_return;
  EndReason why = co_await self->WhyFailed(status);
  auto legal = Apply(self->info_.state(), SessionCall::kTransferFailed);
  if (!legal.ok() || legal->repeated) co_return;
  self->Conclude(why);
  (void)self->Enter(SessionCall::kTransferFailed);
  auto refused = co_await self->Refuse(std::move(why));
  if (refused.ok()) co_return;
  spdlog::error("session {}: {}", self->id(), refused.status().ToString());
  // The source cannot be told, but it need not wait for a vote, with its guest stopped.
  if (self->connection_ != nullptr) self->connection_->Close();
}

Task<absl::Status> DestinationSession::Receive(const v1::TransferSandboxRequest& request) {
  const milliseconds timeout = SocketTimeout(request);
  if (connection_ == nullptr) {
    using asio::experimental::awaitable_operators::operator||;
    auto first = co_await (expectation_->Wait(timeout) || connected_.Wait());
    if (first.index() == 0) {
      auto connection = std::get<0>(std::move(first));
      if (!connection.ok()) co_return connection.status();
      ConnectionArrived(*std::move(connection));
    }
  }
  expectation_.reset();
  if (connection_ == nullptr && !socket_error_.ok()) co_return socket_error_;
  if (connection_ == nullptr || info_.state() != v1::SESSION_STATE_TRANSFERRING) {
    co_return absl::CancelledError("the session ended before the source connected");
  }
  Spawn(deps_.executor(), ReadMessages(self(), connection_));
  CO_RETURN_IF_ERROR(connection_->RelayToPath(incoming_path_));
  std::shared_ptr<vm::ComputeSystem> system = vm_->system();
  if (system == nullptr) co_return absl::UnavailableError("the VM ended while it was awaited");
  const schema::MigrationTransferOptions options{schema::MigrationOrigin::kDestination};
  const vm::TransferHooks hooks;
  co_return co_await system->StartLiveMigrationTransfer(options, hooks);
}

// A stream that its source ended has failed here as a consequence; the source says why, if it is
// still there.
Task<EndReason> DestinationSession::WhyFailed(absl::Status status) {
  auto keep = self();
  EndReason why = Failed(rpc::ReasonOf(status), std::string(status.message()));
  if (connection_ == nullptr) co_return why;
  if (connection_->closed()) {
    why.word = "connection_lost";
    why.began_at = v1::MIGRATION_ORIGIN_SOURCE;
  } else if (connection_->stream_ended_by_peer()) {
    (void)co_await WithDeadline(deps_.limits.cut, "the source's word", WaitFor(&word_arrived_));
    why.began_at = v1::MIGRATION_ORIGIN_SOURCE;
  }
  co_return why;
}

// The whole state is here: check it, make it the guest's, and only then promise to run it.
Task<absl::Status> DestinationSession::Vote() {
  CO_RETURN_IF_ERROR(co_await WithDeadline(limits_.cut, "the cut", WaitFor(&cut_arrived_)));
  if (sealed_cut_.empty()) co_return absl::DataLossError("the source's cut did not arrive");
  CO_ASSIGN_OR_RETURN(const vm::CutState cut, vm::DecodeCut(sealed_cut_, sealed_plan_));
  if (cut.session_id != id() || cut.vm_id != info_.vm_id()) {
    co_return absl::DataLossError("the cut belongs to another plan than the one imported here");
  }
  state_digest_ = vm::Sha256(sealed_cut_);
  // QEMU accepts a damaged stream without a word, so nothing is promised before the digests of all
  // of it have been compared.
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(limits_.cut, "the end of the VM's state", connection_->WaitReceived()));
  CO_RETURN_IF_ERROR(co_await TakeLastOfDisks(cut.copied_disks));
  AsyncMutex::Guard lock = co_await deciding_.Lock();
  if (core_->record() == DestinationRecord::kRefused) {
    co_return absl::CancelledError("the session ended before the vote");
  }
  CO_RETURN_IF_ERROR(vm_->RestoreGuest(cut.guest));
  if (arrivals_ != nullptr) CO_RETURN_IF_ERROR(co_await arrivals_->Arrive(cut.containers));
  paused_by_user_ = cut.paused_by_user;
  CO_RETURN_IF_ERROR(co_await TakeStep(core_->Prepare()));
  auto entered = Enter(SessionCall::kTransferDone);
  if (!entered.ok()) co_return entered.status();
  std::string received;
  if (verify_) {
    StateCheck check = CheckOfReceived(*connection_);
    info_.mutable_statistics()->set_verified_bytes(check.bytes);
    received = std::move(check.text);
  }
  vote_sent_at_ = Clock::now();
  co_return connection_->SendMessage(
      MessageKind::kProof,
      MakeProof(ProofKind::kPrepared, core_->identity().epoch, std::move(received)));
}

Task<void> DestinationSession::ReadMessages(Self self,
                                            std::shared_ptr<SessionConnection> connection) {
  while (auto message = co_await connection->NextMessage()) {
    if (message->kind == MessageKind::kCut) {
      // One that comes late is of no use.
      if (!self->info_.done()) self->sealed_cut_ = std::move(message->bytes);
      self->cut_arrived_.Set();
    } else if (message->kind == MessageKind::kProof) {
      co_await self->HandleProof(std::move(message->bytes));
    }
  }
  self->cut_arrived_.Set();
  if (self->running_ || self->info_.done()) co_return;
  const absl::Status ended = co_await connection->WaitClosed();
  {
    AsyncMutex::Guard lock = co_await self->deciding_.Lock();
    if (self->core_->record() != DestinationRecord::kPrepared) {
      // Before the vote nothing was promised. This also ends a transfer that waits for a stream
      // which does not come any more.
      EndReason why{v1::SESSION_OUTCOME_FAILED, v1::MIGRATION_ORIGIN_SOURCE, "connection_lost",
                    ended.ok() ? "the source went away" : std::string(ended.message())};
      (void)co_await self->RefuseNow(std::move(why), std::nullopt);
      self->word_arrived_.Set();
      co_return;
    }
  }
  co_await AwaitDecision(self);
}

Task<void> DestinationSession::HandleProof(std::string bytes) {
  auto proof = DecodeProof(bytes, plan_digest_);
  if (!proof.ok()) {
    spdlog::warn("session {}: {}", id(), proof.status().ToString());
    co_return;
  }
  const Proof decoded = *std::move(proof);
  absl::Status status = absl::OkStatus();
  if (decoded.kind == ProofKind::kGo) {
    auto ran = co_await Run(decoded, GoCame::kBySession);
    status = ran.status();
  } else if (decoded.kind == ProofKind::kAbort) {
    AsyncMutex::Guard lock = co_await deciding_.Lock();
    EndReason why = FromDetail(decoded.detail, v1::MIGRATION_ORIGIN_SOURCE);
    if (why.message.empty()) why.message = "called off by the source";
    if (!core_->may_execute()) {
      auto refused = co_await RefuseNow(std::move(why), decoded);
      status = refused.status();
    }
  } else {
    status = absl::InvalidArgumentError("a proof that only the destination can give");
  }
  if (!status.ok()) spdlog::warn("session {}: {}", id(), status.ToString());
}

Task<void> DestinationSession::RefuseEnded(Self self) {
  AsyncMutex::Guard lock = co_await self->deciding_.Lock();
  if (!self->core_->may_refuse_alone()) co_return;
  EndReason why = self->Failed(
      "destination_vm_died",
      absl::StrCat("VM ", self->info_.vm_name(), " ended here while it waited for its GO"));
  (void)co_await self->RefuseNow(std::move(why), std::nullopt);
}

void DestinationSession::OnSystemEvent(const vm::SystemEvent& event) {
  if (event.kind == vm::SystemEvent::Kind::kExited &&
      core_->record() == DestinationRecord::kPrepared) {
    // The transfer's end was waited for already, so nobody else would notice.
    Spawn(deps_.executor(), RefuseEnded(self()));
    return;
  }
  if (event.kind != vm::SystemEvent::Kind::kMigration) return;
  using Name = schema::MigrationEventName;
  switch (event.migration.event) {
    case Name::kBlackoutExited:
      // Told with its details once they are known.
      resumed_at_ = event.when;
      return;
    case Name::kMigrationDone:
    case Name::kMigrationFailed:
    case Name::kMigrationRecoveryDone:
      // How the session ends is its own to tell, and not the VMM's.
      return;
    default:
      Tell(ToNotification(event.migration, origin()));
  }
}

}  // namespace ferry::migration
