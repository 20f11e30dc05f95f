// The part of UtilityVm that serves migrations, on their source and on their destination.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/checkpoint_moves.h"
#include "vmmanager/sandbox/disk_lock.h"
#include "vmmanager/sandbox/utility_vm.h"

namespace ferry::vm {

absl::Status UtilityVm::OpenMigration(const std::string& session_id,
                                      const std::string& destination) {
  RETURN_IF_ERROR(CheckMayLeave());
  if (notice_.has_value() || !incoming_session_.empty()) {
    return rpc::Reworded(
        RefuseIfMigrating("migrated"), absl::StatusCode::kAlreadyExists,
        absl::StrCat("VM ", row_.name, " is already being migrated by session ", session()));
  }
  if (phase_ != Phase::kUp) return Refuse("migrated");
  RETURN_IF_ERROR(CheckArrived("migrated"));
  if (operation_.locked()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "VM ", row_.name, " cannot be migrated: another operation is under way; try again"));
  }
  notice_ = MigrationNotice{MigrationNotice::Kind::kOpened, session_id, destination};
  Notify(*notice_);
  return absl::OkStatus();
}

absl::Status UtilityVm::CheckMayLeave() const {
  RETURN_IF_ERROR(
      CheckHasNoSnapshots("migrated", "what this host knows of them would stay behind"));
  RETURN_IF_ERROR(CheckCheckpointsRest("migrated"));
  RETURN_IF_ERROR(CheckCheckpointsMayMove(row_.name, checkpoints_));
  if (!spec_.stays()) return absl::OkStatus();
  std::string why;
  if (!spec_.shares().empty()) {
    why = absl::StrCat(", and shares folders with it (", spec_.shares(0).host_path(),
                       spec_.shares_size() > 1 ? " and more" : "", ")");
  }
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot be migrated: it was made to stay on this host", why),
      "vm_stays",
      "Run what has to move in a VM made without --stays, with its files in an image or copied "
      "in.");
}

absl::Status UtilityVm::CheckArrived(const std::string& operation) const {
  if (arriving_session_.empty()) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot be ", operation, ": migration ", arriving_session_,
                   " brought it here, and that is not recorded yet"),
      "arrival_not_recorded",
      "see that there is room for this host's journal; that is tried again by itself");
}

void UtilityVm::FreezeGuest() {
  frozen_ = true;
  ++standstills_;
  if (guest_ != nullptr) guest_->Freeze();
}

void UtilityVm::UnfreezeGuest() {
  if (!std::exchange(frozen_, false)) return;
  if (guest_ != nullptr) guest_->Unfreeze();
  Pulse();
  LookForTroubles();
}

void UtilityVm::MarkInDoubt() {
  const std::string there = notice_ ? notice_->destination : "the destination";
  SetPhase(Phase::kInDoubt, absl::StrCat("only ", there, " knows whether it runs ",
                                         "there; waiting for that host's answer"));
}

Task<bool> UtilityVm::MayHaveLeft() {
  auto self = shared_from_this();
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return true;
  const schema::PropertyQuery query;
  auto properties = co_await system->GetProperties(query);
  co_return !properties.ok() || properties->state_sent;
}

Task<absl::Status> UtilityVm::ClaimFence(uint64_t epoch) {
  auto self = shared_from_this();
  FenceClaim claim{row_.id, row_.name, epoch};
  absl::Status claimed = co_await deps_.fence.Claim(std::move(claim));
  fenced_ = !claimed.ok() && phase_ == Phase::kInDoubt;
  if (fenced_) {
    row_.state_reason = absl::StrCat("it is this host's, but waits: ", claimed.message());
  }
  co_return claimed;
}

Task<void> UtilityVm::YieldFence() {
  auto self = shared_from_this();
  co_await deps_.fence.Yield(row_.id);
}

void UtilityVm::AnnounceMove() {
  MigrationNotice moved = *notice_;
  moved.kind = MigrationNotice::Kind::kMoved;
  Notify(moved);
}

void UtilityVm::ReturnFromMigration(uint64_t epoch) {
  if (!notice_.has_value()) return;
  MigrationNotice closed = *std::exchange(notice_, std::nullopt);
  closed.kind = MigrationNotice::Kind::kClosed;
  event_tap_ = nullptr;
  row_.epoch = epoch;
  if (phase_ == Phase::kInDoubt && system_ != nullptr) {
    SetPhase(Phase::kUp);
    if (paused_) Spawn(deps_.executor, RecallTroubles(shared_from_this()));
  }
  if (phase_ == Phase::kInDoubt) {
    row_.desired_state = "stopped";
    SetPhase(Phase::kFailed, "it ended while it waited for the destination's answer");
    TellEnded();
  }
  UnfreezeGuest();
  Pulse();
  Notify(closed);
  PersistSoon();
}

Task<absl::Status> UtilityVm::Relinquish() {
  auto self = shared_from_this();
  SetPhase(Phase::kGone, absl::StrCat("it moved to ", notice_->destination));
  if (guest_ != nullptr) {
    guest_->set_on_change(nullptr);
    guest_->Close(absl::UnavailableError(row_.state_reason));
    guest_.reset();
  }
  std::shared_ptr<ComputeSystem> system = system_;
  absl::Status ended;
  if (system != nullptr) {
    const schema::MigrationFinalizedOptions options{schema::MigrationOrigin::kSource,
                                                    schema::MigrationFinalOperation::kStop};
    ended = co_await system->FinalizeLiveMigration(options);
    if (!ended.ok() && !exited_.is_set()) ended = co_await system->Terminate();
  }
  // Its last words were the numbers of the transfer.
  event_tap_ = nullptr;
  if (system_ == nullptr) output_.Remove();
  co_return ended;
}

Task<absl::Status> UtilityVm::PrepareIncoming(const schema::MigrationInitializeOptions& options,
                                              const MigrationEndpoint& endpoint) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  if (phase_ != Phase::kStopped) co_return Refuse("prepared for a migration");
  SetPhase(Phase::kIncoming);
  row_.desired_state = "incoming";
  schema::ComputeSystem document = document_;
  document.migration_options = options;
  auto system = co_await deps_.backend.Create(row_.id, document);
  if (!system.ok()) co_return system.status();
  // Of the same size, so that its VMM takes the source's in.
  CO_RETURN_IF_ERROR(co_await firmware_.PutExpected());
  CO_RETURN_IF_ERROR(co_await deps_.fence.Prepare(row_.id));
  system_ = *std::move(system);
  StartPump();
  output_.Clear();
  MakeGuest();
  schema::StartOptions start;
  start.destination_migration_options = options;
  CO_RETURN_IF_ERROR(co_await system_->Start(start, &endpoint));
  row_.adoption_record = system_->adoption_record();
  if (checkpoints_.empty()) co_return co_await Persist();
  CheckpointRecords carried = checkpoints_;
  co_return co_await PutCheckpoints(std::move(carried));
}

absl::Status UtilityVm::RestoreGuest(const guest::GuestState& state) {
  if (phase_ != Phase::kIncoming || guest_ == nullptr) return Refuse("restored");
  RETURN_IF_ERROR(guest_->Restore(state));
  return guest_->Listen();
}

Task<absl::Status> UtilityVm::RunIncoming(uint64_t epoch, bool paused) {
  auto self = shared_from_this();
  if (phase_ == Phase::kUp) co_return absl::OkStatus();
  if (phase_ != Phase::kIncoming || system_ == nullptr) co_return Refuse("run");
  row_.epoch = epoch;
  // It may have arrived before a restart, and have been paused since.
  paused = paused || paused_;
  row_.desired_state = paused ? "paused" : "running";
  std::shared_ptr<ComputeSystem> system = system_;
  if (!std::exchange(runs_already_, false)) {
    schema::MigrationFinalizedOptions options;
    options.origin = schema::MigrationOrigin::kDestination;
    options.finalized_operation = schema::MigrationFinalOperation::kResume;
    options.leave_paused = paused;
    CO_RETURN_IF_ERROR(AsFenceHeld(co_await system->FinalizeLiveMigration(options)));
  }
  paused_ = paused;
  arriving_session_ = std::exchange(incoming_session_, {});
  event_tap_ = nullptr;
  SetPhase(Phase::kUp);
  deps_.events.Publish("vm.arrived", row_.id, {{"name", row_.name}});
  PersistSoon();
  if (!paused) Spawn(deps_.executor, AwaitAgent(self));
  if (paused) Spawn(deps_.executor, RecallTroubles(self));
  // Until now it was not this host's to pause.
  LookForTroubles();
  co_return absl::OkStatus();
}

Task<void> UtilityVm::Discard(const absl::Status& reason) {
  auto self = shared_from_this();
  const absl::Status why = reason;
  SetPhase(Phase::kGone, std::string(why.message()));
  event_tap_ = nullptr;
  if (guest_ != nullptr) {
    guest_->set_on_change(nullptr);
    guest_->Close(why);
    guest_.reset();
  }
  std::shared_ptr<ComputeSystem> system = system_;
  if (system != nullptr) {
    const schema::MigrationCancelOptions options{schema::MigrationOrigin::kDestination};
    absl::Status cancelled = co_await system->CancelLiveMigration(options);
    if (!cancelled.ok() && !exited_.is_set()) cancelled = co_await system->Terminate();
    if (!cancelled.ok()) spdlog::warn("vm {}: {}", row_.name, cancelled.ToString());
  }
  if (system_ == nullptr) output_.Remove();
}

absl::Status UtilityVm::HoldStale(const std::string& session_id) {
  if (incoming_session_ == session_id) return absl::OkStatus();
  RETURN_IF_ERROR(RefuseIfMigrating("ended"));
  incoming_session_ = session_id;
  return absl::OkStatus();
}

Task<absl::Status> UtilityVm::EndStale() {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  if (phase_ == Phase::kGone) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(CheckHere());
  co_return co_await StopNow(true, milliseconds(0));
}

}  // namespace ferry::vm
