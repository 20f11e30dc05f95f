// The part of UtilityVm that goes on after a restart of the daemon.
#include <spdlog/spdlog.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_lock.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

Task<absl::Status> UtilityVm::Adopt(AdoptionClaim claim) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  switch (claim.kind) {
    case AdoptionClaim::Kind::kOwner:
      break;
    case AdoptionClaim::Kind::kMigratingOut:
    case AdoptionClaim::Kind::kInDoubt:
      notice_ =
          MigrationNotice{MigrationNotice::Kind::kOpened, claim.session_id, claim.destination};
      break;
    case AdoptionClaim::Kind::kIncoming:
      incoming_session_ = claim.session_id;
      break;
    case AdoptionClaim::Kind::kStale:
      if (row_.epoch <= claim.stale_epoch) incoming_session_ = claim.session_id;
      break;
  }
  if (claim.kind == AdoptionClaim::Kind::kInDoubt) MarkInDoubt();
  if (claim.kind == AdoptionClaim::Kind::kIncoming) SetPhase(Phase::kIncoming);
  if (std::string tag = HalfLoadedSnapshot(); !tag.empty()) {
    co_return co_await GiveUpHalfLoaded(std::move(tag));
  }
  absl::Status taken = absl::NotFoundError("no VMM process belongs to it");
  if (has_adoption_record()) taken = co_await TakeOver(claim);
  if (taken.ok()) co_return taken;
  if (system_ != nullptr) {
    // What is in its file is not this, and nothing else runs until this has ended.
    if (is_saved()) co_return taken;
    // It lives, so it must not be started again, whatever of it could not be taken over.
    if (phase_ != Phase::kInDoubt && phase_ != Phase::kIncoming) {
      SetPhase(Phase::kUp, absl::StrCat("not all of it was taken over: ", taken.message()));
    }
    co_return taken;
  }
  row_.adoption_record.clear();
  if (claim.may_have_left) MarkInDoubt();
  // What a session still claims keeps its phase: the session knows what its end means.
  if (phase_ == Phase::kInDoubt || phase_ == Phase::kIncoming) co_return taken;
  notice_.reset();
  row_.guest_state.clear();
  // Its containers keep what they have printed; the rest goes when it starts again.
  DropAttachedDisks();
  // It was only about to go on from a file that is not its own.
  if (row_.desired_state == kFromElsewhere) ForgetSaved();
  row_.desired_state = "stopped";
  std::string why = absl::StrCat("it ended while the daemon was away: ", taken.message());
  if (is_saved()) why.clear();
  SetPhase(Phase::kStopped, std::move(why));
  (void)co_await Persist();
  co_return taken;
}

Task<absl::Status> UtilityVm::TakeOver(const AdoptionClaim& claim) {
  const AdoptionClaim wanted = claim;
  auto system = co_await deps_.backend.Adopt(row_.id, document_, row_.adoption_record);
  if (!system.ok()) co_return system.status();
  system_ = *std::move(system);
  StartPump();
  const bool was_in_file = saved_.has_value();
  if (is_saved()) {
    const absl::Status stays = co_await EndIfInFile();
    if (!stays.ok()) co_return stays;
  }
  paused_ = row_.desired_state == "paused";
  if (wanted.kind == AdoptionClaim::Kind::kIncoming && !wanted.guest_is_loaded) {
    co_return absl::OkStatus();
  }
  CO_RETURN_IF_ERROR(AdoptGuest());
  if (wanted.kind == AdoptionClaim::Kind::kIncoming) {
    const schema::PropertyQuery query;
    std::shared_ptr<ComputeSystem> incoming = system_;
    auto properties = co_await incoming->GetProperties(query);
    if (!properties.ok()) co_return properties.status();
    runs_already_ = properties->state == schema::SystemState::kRunning;
    co_return absl::OkStatus();
  }
  if (wanted.may_have_left && co_await MayHaveLeft()) MarkInDoubt();
  if (phase_ == Phase::kInDoubt) {
    FreezeGuest();
    co_return absl::OkStatus();
  }
  // It lives, so what was saved of it must never be restored again.
  ForgetSaved();
  co_await DropHalfSnapshots();
  co_await SettleOwnDisks();
  const absl::Status believed = co_await BelieveVmmsDisks();
  if (!believed.ok()) spdlog::error("vm {}: {}", row_.name, believed.ToString());
  // A VMM that is still told of a migration has to know that its user wants the guest paused.
  std::shared_ptr<ComputeSystem> adopted = system_;
  if (paused_ && adopted != nullptr) CO_RETURN_IF_ERROR(co_await adopted->Pause());
  if (system_ == nullptr) co_return absl::NotFoundError("it ended when it had been taken over");
  SetPhase(Phase::kUp);
  co_await AdoptTroubles();
  if (system_ == nullptr) co_return absl::NotFoundError("it ended when it had been taken over");
  // The file system of the locks may hang, and other VMs wait to be taken over.
  Spawn(deps_.executor, SettleAdopted(shared_from_this()));
  deps_.events.Publish("vm.adopted", row_.id, {{"name", row_.name}});
  if (!paused_) Spawn(deps_.executor, AwaitAgent(shared_from_this()));
  if (was_in_file) CO_RETURN_IF_ERROR(co_await Persist());
  co_return absl::OkStatus();
}

// A VMM that runs the guest is right whatever was written down; one that does not holds nothing
// that the file lacks.
Task<absl::Status> UtilityVm::EndIfInFile() {
  const bool runs = co_await Executes();
  if (runs) {
    spdlog::error("vm {}: it runs, although it was written down as saved", row_.name);
    row_.desired_state = "running";
    ForgetSaved();
    co_return absl::OkStatus();
  }
  if (saved_is_unreadable_) co_return Refuse("taken over");
  co_await EndSystem();
  if (system_ != nullptr) co_return VmmHasNotEnded();
  co_return absl::NotFoundError("nothing of it ran");
}

// Lets it go on where a former daemon had it stand still, be it to save it or because it had just
// come from a file, and did not live to the end of that.
Task<void> UtilityVm::SettleAdopted(std::shared_ptr<UtilityVm> self) {
  const std::shared_ptr<ComputeSystem> adopted = self->system_;
  if (self->settling_ == adopted) co_return;
  self->settling_ = adopted;
  const absl::Cleanup over = [self, adopted] {
    if (self->settling_ == adopted) self->settling_.reset();
  };
  while (true) {
    if (co_await self->Executes()) {
      self->NoteRuns();
      self->settling_.reset();
      co_await self->ClaimWhatRuns(self->row_.epoch);
      co_return;
    }
    // What has ended meanwhile has given it up.
    if (self->system_ == nullptr || self->system_ != adopted) co_return;
    // Whoever lets it run asks again.
    const absl::Status claimed = co_await self->ClaimFence(self->row_.epoch);
    const absl::Status runs = co_await self->LetGoOn(claimed);
    if (runs.ok()) co_return;
    // A VMM that does not answer may do what it was told, and later.
    const bool answered = !GotNoAnswer(runs);
    if (answered) co_return;
    co_await Delay(self->deps_.settings.retry_pause);
  }
}

// Of one that stands still. Where it may not run, it is left so that its user can resume it.
Task<absl::Status> UtilityVm::LetGoOn(absl::Status may_run) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  std::shared_ptr<ComputeSystem> system = system_;
  const bool ours = system != nullptr && session().empty() && phase_ == Phase::kUp && !detached_;
  if (!ours) co_return absl::OkStatus();
  if (called_off()) co_return CalledOff("let run");
  if (may_run.ok()) may_run = co_await DisksAreKnown();
  absl::Status runs;
  // Calling off what the VMM knows of a migration would let it run.
  if (!may_run.ok()) runs = co_await system->Pause();
  const schema::MigrationCancelOptions source{schema::MigrationOrigin::kSource};
  if (runs.ok()) runs = co_await system->CancelLiveMigration(source);
  if (runs.ok()) runs = may_run;
  if (runs.ok()) runs = co_await RunOn();
  if (runs.ok()) NoteRuns();
  if (runs.ok() || system_ == nullptr) co_return absl::OkStatus();
  NoteStandsStill(runs);
  if (waits_to_run()) co_return runs;
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
  co_return runs;
}

void UtilityVm::NoteStandsStill(const absl::Status& runs) {
  if (!waits_to_run()) spdlog::error("vm {}: it stands still: {}", row_.name, runs.ToString());
  if (GotNoAnswer(runs)) {
    const bool unwritten = rpc::ReasonOf(runs) == "disks_not_known";
    SetPhase(Phase::kUp, unwritten ? kUnwritten : kSilent);
    Spawn(deps_.executor, SettleAdopted(shared_from_this()));
    return;
  }
  // So that whoever looks sees it, and can let it go on.
  NoteRuns();
  paused_ = true;
  row_.desired_state = "paused";
  Spawn(deps_.executor, RecallTroubles(shared_from_this()));
}

void UtilityVm::NoteRuns() {
  if (waits_to_run()) SetPhase(Phase::kUp);
}

bool UtilityVm::waits_to_run() const {
  return phase_ == Phase::kUp && (row_.state_reason == kSilent || row_.state_reason == kUnwritten);
}

Task<bool> UtilityVm::Executes() {
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return false;
  const schema::PropertyQuery query;
  auto properties = co_await system->GetProperties(query);
  co_return properties.ok() && properties->state == schema::SystemState::kRunning;
}

Task<void> UtilityVm::ClaimWhatRuns(uint64_t epoch) {
  auto self = shared_from_this();
  const absl::Status claimed = co_await ClaimFence(epoch);
  if (claimed.ok()) co_return;
  spdlog::error("vm {}: it runs here, and {}", row_.name, claimed.ToString());
  deps_.events.Publish("vm.fence_lost", row_.id, {{"error", std::string(claimed.message())}});
}

absl::Status UtilityVm::AdoptGuest() {
  MakeGuest();
  if (!row_.guest_state.empty()) {
    auto state = DecodeGuest(row_.guest_state);
    if (state.ok()) {
      RETURN_IF_ERROR(guest_->Restore(*state));
    } else {
      spdlog::error("vm {}: its processes are not known any more: {}", row_.name,
                    state.status().ToString());
    }
  }
  return guest_->Listen();
}

Task<absl::Status> UtilityVm::RunOn() {
  auto self = shared_from_this();
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr || paused_) co_return absl::OkStatus();
  const schema::PropertyQuery query;
  auto properties = co_await system->GetProperties(query);
  if (!properties.ok()) co_return properties.status();
  if (properties->state != schema::SystemState::kPaused) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await MayRun());
  co_return AsFenceHeld(co_await system->Resume());
}

Task<absl::Status> UtilityVm::MayRun() {
  CO_RETURN_IF_ERROR(co_await DisksAreKnown());
  co_return co_await ClaimFence(row_.epoch);
}

Task<absl::Status> UtilityVm::DisksAreKnown() {
  const absl::Status known = co_await BelieveVmmsDisks();
  if (known.ok() || called_off()) co_return known;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kUnavailable,
      absl::StrCat("VM ", row_.name, " stands still until it is known, and written down, which ",
                   "files its disks go on in: ", known.message()),
      "disks_not_known",
      absl::StrCat("Mend that. If you have not paused it, it goes on by itself; else try again: "
                   "ferryctl vm resume ",
                   row_.name));
}

Task<void> UtilityVm::MarkLost(uint64_t epoch, const std::string& why) {
  auto self = shared_from_this();
  const std::string reason = why;
  row_.epoch = epoch;
  row_.desired_state = "stopped";
  row_.adoption_record.clear();
  row_.guest_state.clear();
  arriving_session_ = std::exchange(incoming_session_, {});
  event_tap_ = nullptr;
  co_await deps_.fence.Release(row_.id);
  SetPhase(Phase::kFailed, reason);
  absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
  TellEnded();
}

}  // namespace ferry::vm
