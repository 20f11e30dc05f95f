// The part of UtilityVm of which checkpoints are taken.
#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/counted.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/sandbox/wrong_state.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

struct UtilityVm::CheckpointBeingTaken {
  std::string name;
  CheckpointRecord record;
  CheckpointSteps steps;
  bool was_paused = false;
  std::chrono::steady_clock::time_point stopped;
  // Of a VM that runs while its memory is written.
  bool behind = false;
  bool decided = false;  // it runs again, or will not
  bool over = false;
  absl::Status written;
};

namespace {

using Clock = std::chrono::steady_clock;

uint64_t MicrosecondsSince(Clock::time_point then) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - then).count());
}

DiskPlace PlaceOf(const CheckpointDisk& disk) { return {disk.controller(), disk.lun()}; }

}  // namespace

void UtilityVm::AddCheckpoint(const CheckpointRow& row) {
  CheckpointRecord record;
  const bool readable =
      record.ParseFromString(row.record) && record.schema_version() == kStateSchemaVersion;
  if (!readable) record.set_stage(state::v1::CHECKPOINT_STAGE_UNSPECIFIED);
  checkpoints_[row.name] = std::move(record);
}

CheckpointScene UtilityVm::checkpoint_scene() const {
  return {row_.name, state(), DisksByName(document_), checkpoints_};
}

absl::Status UtilityVm::CheckpointInWork(const std::string& operation) const {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot be ", operation, " while a checkpoint is taken"),
      "checkpoint_in_work", "Wait for that, or cancel it: ferryctl job list");
}

absl::Status UtilityVm::CheckCheckpointsRest(const std::string& operation) const {
  if (writes_checkpoint_) return CheckpointInWork(operation);
  if (!doubtful_.empty()) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", row_.name, " cannot be ", operation,
                     " until it is written down which checkpoints it has: that failed, and may ",
                     "have been done all the same"),
        "checkpoints_not_written", "See the host's log, mend its state folder's disk, try again.");
  }
  if (move_.record.has_value()) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", row_.name, " cannot be ", operation, " until it is settled in which ",
                     "file its disk ", move_.record->disk(), " is: ", move_.record->from(), " or ",
                     move_.record->to()),
        "disk_move_not_settled", "That is tried again by itself; see the host's log.");
  }
  const std::string half = UnsettledCheckpoint(checkpoints_);
  if (half.empty()) return absl::OkStatus();
  const bool newer = checkpoints_.at(half).stage() == state::v1::CHECKPOINT_STAGE_UNSPECIFIED;
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot be ", operation, ": of its checkpoint ", half,
                   newer ? " there is a record that this ferryd cannot read"
                         : " there is only half, in files that are still to be merged"),
      newer ? "checkpoint_of_newer" : "checkpoint_not_settled",
      newer ? "Use the ferryd that took it."
            : absl::StrCat("Remove it: ferryctl checkpoint delete ", row_.name, " ", half));
}

absl::Status UtilityVm::CheckHasNoCheckpoints(const std::string& operation,
                                              const std::string& why) const {
  if (checkpoints_.empty()) return absl::OkStatus();
  const std::string& name = checkpoints_.begin()->first;
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot be ", operation, ": it has checkpoints (", name,
                   checkpoints_.size() > 1 ? " and more" : "", "), and ", why),
      "vm_has_checkpoints",
      absl::StrCat("Delete them first: ferryctl checkpoint delete ", row_.name, " ", name));
}

absl::Status UtilityVm::CheckCheckpointsMayChange(const std::string& operation,
                                                  const std::string& half) const {
  RETURN_IF_ERROR(CheckHere());
  RETURN_IF_ERROR(RefuseIfMigrating(operation));
  const auto found = checkpoints_.find(half);
  const bool to_settle = found != checkpoints_.end() && !writes_checkpoint_ &&
                         UnsettledCheckpoint(checkpoints_) == half &&
                         found->second.stage() != state::v1::CHECKPOINT_STAGE_UNSPECIFIED;
  if (!to_settle) RETURN_IF_ERROR(CheckCheckpointsRest(operation));
  const bool stands = phase_ == Phase::kStopped || phase_ == Phase::kFailed;
  const bool up = phase_ == Phase::kUp && system_ != nullptr && guest_ != nullptr;
  if (!stands && !up) return Refuse(operation);
  // Its file knows the disks that it was saved with.
  if (is_saved()) return Refuse(operation);
  if (stands && system_ != nullptr) return VmmHasNotEnded();
  if (called_off()) return CalledOff(operation);
  if (deps_.overlays == nullptr) {
    return absl::UnimplementedError("this host's ferryd takes no checkpoints");
  }
  return CheckArrived(operation);
}

Task<absl::Status> UtilityVm::PutCheckpoints(CheckpointRecords changed) {
  // A row as it was must not come after this one.
  const AsyncMutex::Guard lock = co_await rows_.Lock();
  std::vector<CheckpointRow> rows;
  for (const auto& [name, record] : changed) {
    rows.push_back({row_.id, name, record.SerializeAsString()});
  }
  // What could not be written down must not get there with something else.
  VmRow row = Row();
  row.document_json = schema::ToJson(document_);
  CO_RETURN_IF_ERROR(WriteSpec(spec_, &row.spec_json));
  std::optional<VmRow> stored = std::move(row);
  CO_RETURN_IF_ERROR(co_await deps_.store.PutCheckpoints(std::move(rows), std::move(stored)));
  // The VM may have ended meanwhile, and have lost disks.
  row_.document_json = schema::ToJson(document_);
  CO_RETURN_IF_ERROR(WriteSpec(spec_, &row_.spec_json));
  for (auto& [name, record] : changed) checkpoints_[name] = record;
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::WriteDoubtful() {
  auto self = shared_from_this();
  const absl::Status written = co_await WriteDoubtfulOnce();
  if (!written.ok() && !std::exchange(writes_doubtful_, true)) {
    Spawn(deps_.executor, WriteDoubtfulLater(self));
  }
  co_return written;
}

Task<void> UtilityVm::WriteDoubtfulLater(std::shared_ptr<UtilityVm> self) {
  const std::function<bool()> stays = [self] { return self->CheckHere().ok(); };
  while (stays() && !self->doubtful_.empty()) {
    (void)co_await self->AwaitWhile(stays, self->deps_.settings.retry_pause);
    const AsyncMutex::Guard lock = co_await self->operation_.Lock();
    if (stays()) (void)co_await self->WriteDoubtfulOnce();
  }
  self->writes_doubtful_ = false;
}

Task<absl::Status> UtilityVm::WriteDoubtfulOnce() {
  CheckpointRecords changed;
  std::vector<std::string> gone;
  for (const auto& [name, record] : doubtful_) {
    if (record.has_value()) changed[name] = *record;
    if (!record.has_value()) gone.push_back(name);
  }
  for (const std::string& name : gone) CO_RETURN_IF_ERROR(co_await ForgetCheckpoint(name));
  if (!changed.empty()) CO_RETURN_IF_ERROR(co_await PutCheckpoints(std::move(changed)));
  doubtful_.clear();
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::TakeCheckpoint(std::string name, CheckpointRecord planned,
                                             CheckpointSteps steps) {
  auto self = shared_from_this();
  auto taking = std::make_shared<CheckpointBeingTaken>();
  taking->name = name;
  taking->record = std::move(planned);
  taking->steps = std::move(steps);
  absl::Status taken;
  {
    const AsyncMutex::Guard lock = co_await operation_.Lock();
    (void)co_await WriteDoubtful();
    absl::Status may = CheckCheckpointsMayChange("taken a checkpoint of");
    // Since it was planned one may have been defined.
    if (may.ok()) may = CheckIsNew(checkpoint_scene(), name);
    if (may.ok() && taking->steps.forgotten) may = CheckMayBeForgotten(checkpoint_scene());
    if (may.ok()) {
      may = CheckStillFits(checkpoint_scene(), taking->record, taking->steps.memory);
    }
    if (may.ok() && taking->steps.memory) {
      may = CheckSharesNothing(spec_, "Take its disks alone (--disk-only).");
    }
    if (may.ok() && taking->steps.memory && phase_ != Phase::kUp) may = Refuse("saved");
    if (may.ok()) {
      may = CheckHasNoSnapshots("taken a checkpoint of",
                                "they would be lost with the files that are put aside");
    }
    if (may.ok() && taking->steps.quiesce) may = co_await CheckCanQuiesce();
    CO_RETURN_IF_ERROR(may);
    taken = co_await BeginCheckpoint(taking);
    if (!taking->behind) co_return co_await EndCheckpoint(taking, std::move(taken));
    writes_checkpoint_ = true;
  }
  // It runs, and may be paused, or ended at once.
  const std::function<bool()> writes = [taking] { return !taking->over; };
  (void)co_await AwaitWhile(writes, kAsLongAsItTakes);
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  writes_checkpoint_ = false;
  CO_RETURN_IF_ERROR(CheckHere());
  co_return co_await EndCheckpoint(taking, taking->written);
}

// Up to the point from which the disks are overlays, and the memory written or on its way.
Task<absl::Status> UtilityVm::BeginCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking) {
  taking->was_paused = paused_;
  pause_wanted_ = false;
  taking->stopped = Clock::now();
  if (!taking->steps.memory) co_return co_await PutDisksAside(taking);
  // What its user paused must not run, not even for a moment.
  const bool behind = taking->steps.live && !taking->was_paused;
  SetPhase(Phase::kSaving);
  deps_.events.Publish("vm.checkpoint_saving", row_.id,
                       {{"name", row_.name}, {"checkpoint", taking->name}});
  CO_ASSIGN_OR_RETURN(guest::GuestState state, co_await HoldStill("CHECKPOINT.stopped"));
  std::optional<Counted> standing;
  if (!behind) standing.emplace(&stands_for_them_);
  taking->record.set_processes(static_cast<uint32_t>(state.processes.size()));
  CO_ASSIGN_OR_RETURN(UniqueFd memory, co_await taking->steps.begin(std::move(state)));
  CO_RETURN_IF_ERROR(co_await GoOnInOverlays(taking));
  if (behind) co_return co_await WriteBehind(taking, std::move(memory));
  co_return co_await WriteStandingStill(std::move(memory));
}

Task<absl::Status> UtilityVm::PutDisksAside(std::shared_ptr<CheckpointBeingTaken> taking) {
  if (!taking->steps.quiesce) co_return co_await GoOnInOverlays(taking);
  // Before anything is written down: most of what can fail does so here, and costs nothing.
  CO_RETURN_IF_ERROR(co_await FreezeFilesystems());
  const absl::Status aside = co_await GoOnInOverlays(taking);
  const absl::Status held = co_await ThawFilesystems();
  CO_RETURN_IF_ERROR(aside);
  taking->record.set_quiesced(held.ok());
  co_return held;
}

// What is on top of the disks may be used from the moment that it is written down: until the VMM
// uses it, it is the same as what is below.
Task<absl::Status> UtilityVm::GoOnInOverlays(std::shared_ptr<CheckpointBeingTaken> taking) {
  CheckpointRecord& record = taking->record;
  CO_ASSIGN_OR_RETURN(*record.mutable_firmware_store(), co_await firmware_.Read());
  record.set_taken_unix_ms(NowUnixMs());
  std::vector<DiskOverlay> overlays;
  for (const CheckpointDisk& disk : record.disks()) {
    SetDiskFile(disk, disk.overlay(), "qcow2");
    overlays.push_back({PlaceOf(disk), disk.overlay()});
  }
  CheckpointRecords making = {{taking->name, record}};
  absl::Status stored = co_await PutCheckpoints(std::move(making));
  if (!stored.ok()) {
    for (const CheckpointDisk& disk : record.disks()) SetDiskFile(disk, disk.file(), disk.format());
    row_.document_json = schema::ToJson(document_);
    // It may be written down all the same.
    doubtful_[taking->name] = std::nullopt;
    const absl::Status forgotten = co_await WriteDoubtful();
    if (taking->steps.in_doubt) *taking->steps.in_doubt = !forgotten.ok();
    co_return stored;
  }
  if (taking->steps.recorded) *taking->steps.recorded = true;
  Reached("CHECKPOINT.recorded");
  for (const CheckpointDisk& disk : record.disks()) {
    if (disk.container_id().empty() || deps_.scratch == nullptr) continue;
    std::string id = disk.container_id();
    std::string file = disk.overlay();
    CO_RETURN_IF_ERROR(co_await deps_.scratch->Put(std::move(id), std::move(file)));
  }
  std::shared_ptr<ComputeSystem> system = system_;
  if (phase_ == Phase::kStopped || phase_ == Phase::kFailed) co_return absl::OkStatus();
  if (system == nullptr) co_return absl::AbortedError("its VMM ended");
  if (!overlays.empty()) {
    CO_RETURN_IF_ERROR(co_await system->AddOverlays(std::move(overlays)));
  }
  Reached("CHECKPOINT.overlaid");
  co_return absl::OkStatus();
}

// It runs again as soon as its VMM can do with that.
Task<absl::Status> UtilityVm::WriteBehind(std::shared_ptr<CheckpointBeingTaken> taking,
                                          UniqueFd memory) {
  // Where that cannot be done, it is written the other way.
  UniqueFd again(::fcntl(memory.get(), F_DUPFD_CLOEXEC, 0));
  Spawn(deps_.executor, RunBehind(shared_from_this(), taking, std::move(memory)));
  const std::function<bool()> undecided = [this, taking] {
    return !taking->decided && !called_off();
  };
  (void)co_await AwaitWhile(undecided, kAsLongAsItTakes);
  if (!taking->decided && called_off()) co_return CalledOff("taken a checkpoint of");
  if (taking->over && taking->written.GetPayload(kNothingChanged).has_value()) {
    spdlog::info("vm {}: its memory is written while it stands still: {}", row_.name,
                 taking->written.ToString());
    co_return co_await WriteStandingStill(std::move(again));
  }
  again.Reset();
  taking->behind = true;
  taking->record.set_method("live");
  if (detached_) co_return CheckHere();
  taking->record.set_stood_still_us(MicrosecondsSince(taking->stopped));
  if (system_ != nullptr && phase_ == Phase::kSaving) SetPhase(Phase::kUp);
  if (guest_ != nullptr) guest_->RunsAgain();
  if (guest_ != nullptr) UnfreezeGuest();
  Reached("CHECKPOINT.runs");
  co_return absl::OkStatus();
}

Task<void> UtilityVm::RunBehind(std::shared_ptr<UtilityVm> self,
                                std::shared_ptr<CheckpointBeingTaken> taking, UniqueFd memory) {
  std::shared_ptr<ComputeSystem> system = self->system_;
  const schema::SaveOptions options;
  std::function<void()> runs = [self, taking] {
    taking->decided = true;
    self->Pulse();
  };
  taking->written = absl::AbortedError("its VMM ended");
  if (system != nullptr) {
    taking->written = co_await system->SaveBehind(options, std::move(memory), std::move(runs));
  }
  taking->over = true;
  taking->decided = true;
  self->Pulse();
}

Task<absl::Status> UtilityVm::WriteStandingStill(UniqueFd memory) {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return absl::AbortedError("its VMM ended");
  const schema::SaveOptions options;
  const Counted standing(&stands_for_them_);
  // Of those who came when it was not known yet that it stands still.
  if (pauses_waiting_ > 0) pause_wanted_ = true;
  const std::function<bool()> stays = [this] { return !detached_ && !called_off(); };
  auto first =
      co_await (system->Save(options, std::move(memory)) || AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0) co_return CalledOff("taken a checkpoint of");
  co_return std::get<0>(std::move(first));
}

// However far it came.
Task<absl::Status> UtilityVm::EndCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking,
                                            absl::Status taken) {
  if (detached_) co_return CheckHere();
  Reached("CHECKPOINT.written");
  const CheckpointSteps& steps = taking->steps;
  co_await RunAfterCheckpoint(taking, taken.ok());
  if (taken.ok() && steps.memory) taken = co_await steps.seal(&taking->record);
  if (taken.ok()) Reached("CHECKPOINT.sealed");
  if (taken.ok() && steps.forgotten) {
    taken = co_await ForgetCheckpoint(taking->name);
  } else if (taken.ok()) {
    taken = co_await NoteWholeCheckpoint(taking->name, taking->record);
  }
  if (taken.ok() && steps.forgotten) *steps.forgotten = taking->record;
  if (detached_) co_return CheckHere();
  if (!taken.ok() && steps.memory) taken = co_await steps.discard(std::move(taken));
  absl::Status undone;
  co_await LeaveCheckpoint(taking, taken.ok());
  if (!taken.ok()) undone = co_await UndoCheckpoint(taking->name);
  deps_.events.Publish(
      taken.ok() ? "vm.checkpoint_taken" : "vm.checkpoint_failed", row_.id,
      {{"name", row_.name}, {"checkpoint", taking->name}, {"error", std::string(taken.message())}});
  if (taken.ok()) {
    Reached("CHECKPOINT.whole");
    const bool halts = steps.halt && phase_ == Phase::kUp;
    if (halts) taken = co_await StopNow(true, kAsLongAsItTakes);
    co_return taken;
  }
  std::string left;
  if (!undone.ok()) left = absl::StrCat("; and half of it is left: ", undone.message());
  co_return rpc::ErrorWithReason(
      taken.code(),
      absl::StrCat("checkpoint ", taking->name, " of VM ", row_.name,
                   " could not be taken, and the VM ", WhatItDoes(), ": ", taken.message(), left),
      "checkpoint_not_taken",
      undone.ok()
          ? rpc::NextStepOf(taken)
          : absl::StrCat("Remove it: ferryctl checkpoint delete ", row_.name, " ", taking->name));
}

// It runs as before, unless somebody wants it otherwise.
Task<void> UtilityVm::RunAfterCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking, bool taken) {
  const CheckpointSteps& steps = taking->steps;
  if (phase_ == Phase::kSaving) {
    const bool wanted = std::exchange(pause_wanted_, false) && system_ != nullptr && !called_off();
    if (wanted) paused_ = true;
    // What is to be paused with the checkpoint alone is not until that is whole.
    co_await RunOnUnsaved(paused_ || taking->was_paused || (taken && (steps.paused || steps.halt)));
    if (wanted) co_await LeavePaused();
    if (steps.memory && taking->record.method().empty()) {
      taking->record.set_method("stopped");
      taking->record.set_stood_still_us(MicrosecondsSince(taking->stopped));
    }
  }
}

// Once it is decided what becomes of it.
Task<void> UtilityVm::LeaveCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking, bool taken) {
  std::shared_ptr<ComputeSystem> system = system_;
  if (phase_ != Phase::kUp || system == nullptr || paused_) co_return;
  const CheckpointSteps& steps = taking->steps;
  if (taken && (steps.paused || steps.halt)) {
    co_await LeavePaused();
    co_return;
  }
  const absl::Status left = co_await RunOn();
  if (guest_ != nullptr) guest_->RunsAgain();
  if (!left.ok() && system_ != nullptr) NoteStandsStill(left);
}

Task<void> UtilityVm::LeavePaused() {
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return;
  ++standstills_;
  if (guest_ != nullptr) guest_->StandsStill();
  absl::Status left = co_await system->Pause();
  if (left.ok() && system_ != nullptr) {
    paused_ = true;
    row_.desired_state = "paused";
    deps_.events.Publish("vm.paused", row_.id);
    left = co_await Persist();
  }
  if (!left.ok()) spdlog::error("vm {}: {}", row_.name, left.ToString());
}

Task<absl::Status> UtilityVm::NoteWholeCheckpoint(std::string name, CheckpointRecord record) {
  CheckpointRecords changed;
  const std::string before = CurrentCheckpoint(checkpoints_);
  if (!before.empty()) {
    changed[before] = checkpoints_[before];
    changed[before].set_current(false);
  }
  record.set_stage(state::v1::CHECKPOINT_STAGE_WHOLE);
  record.set_current(true);
  changed[name] = std::move(record);
  co_return co_await PutCheckpoints(std::move(changed));
}

Task<absl::Status> UtilityVm::ForgetCheckpoint(std::string name) {
  std::optional<VmRow> row = Row();
  std::vector<CheckpointRow> none;
  std::string forgotten = name;
  CO_RETURN_IF_ERROR(co_await deps_.store.DeleteCheckpoint(row_.id, std::move(forgotten),
                                                           std::move(none), std::move(row)));
  checkpoints_.erase(name);
  Pulse();
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::MergeBackAll(CheckpointRecord record) {
  CO_RETURN_IF_ERROR(co_await BelieveVmmsDisks());
  for (const CheckpointDisk& disk : record.disks()) {
    CO_RETURN_IF_ERROR(co_await MergeBack(disk));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::UndoCheckpoint(std::string name) {
  const auto found = checkpoints_.find(name);
  if (found == checkpoints_.end()) co_return absl::OkStatus();
  const CheckpointRecord record = found->second;
  const bool had_vmm = system_ != nullptr;
  absl::Status merged = co_await MergeBackAll(record);
  // What its end has kept from being merged is merged without it.
  if (!merged.ok() && had_vmm && co_await HasEnded(merged)) merged = co_await MergeBackAll(record);
  if (!merged.ok()) co_await GoOnAfterMerge();
  CO_RETURN_IF_ERROR(merged);
  CO_RETURN_IF_ERROR(co_await ForgetCheckpoint(name));
  Reached("CHECKPOINT.undone");
  co_await RemoveOverlays(record);
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::DefineCheckpoint(std::string name, CheckpointRecord record,
                                               std::set<std::string> files,
                                               std::set<std::string> known,
                                               std::function<Task<absl::Status>()> check) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  (void)co_await WriteDoubtful();
  CO_RETURN_IF_ERROR(CheckIsNew(checkpoint_scene(), name));
  CO_RETURN_IF_ERROR(CheckCheckpointsMayChange("given a checkpoint"));
  CO_RETURN_IF_ERROR(CheckHasNoSnapshots("given a checkpoint", "it cannot have both"));
  std::set<std::string> here;
  for (const auto& [other, its] : checkpoints_) here.insert(other);
  if (here != known || FilesInUse() != files) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kAborted,
        absl::StrCat("the disks or checkpoints of VM ", row_.name, " changed meanwhile"),
        "disks_changed", "Try again.");
  }
  CO_RETURN_IF_ERROR(co_await check());
  // While that took its time the VM may have been let go of.
  CO_RETURN_IF_ERROR(CheckHere());
  CheckpointRecords changed;
  const std::string before = CurrentCheckpoint(checkpoints_);
  if (record.current() && !before.empty()) {
    changed[before] = checkpoints_[before];
    changed[before].set_current(false);
  }
  changed[name] = std::move(record);
  Reached("CHECKPOINT.defining");
  CO_RETURN_IF_ERROR(co_await PutCheckpoints(std::move(changed)));
  Reached("CHECKPOINT.defined");
  deps_.events.Publish("vm.checkpoint_defined", row_.id,
                       {{"name", row_.name}, {"checkpoint", name}});
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
