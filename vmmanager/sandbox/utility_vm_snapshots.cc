// The part of UtilityVm that goes into snapshots inside its disks, and back to them.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "guestmanager/timeline.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_lock.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/sandbox/wrong_state.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using state::v1::SnapshotRecord;

absl::Status NoSuchSnapshot(const std::string& vm, const std::string& tag) {
  return rpc::ErrorWithReason(absl::StatusCode::kNotFound,
                              absl::StrCat("VM ", vm, " has no snapshot ", tag), "no_such_snapshot",
                              absl::StrCat("See those there are: ferryctl snapshot list ", vm));
}

// What the backend says keeps its code; what it has no reason for gets one.
absl::Status Told(const absl::Status& status, const std::string& text, const std::string& reason,
                  const std::string& next_step) {
  return rpc::ErrorWithReason(status.code(), absl::StrCat(text, ": ", status.message()), reason,
                              next_step);
}

// A record of another version is known, and no more than that; but a VM that is on its way back
// must not run, whoever wrote that down.
SnapshotRecord AsKnownHere(SnapshotRecord record) {
  const bool readable = record.schema_version() == kStateSchemaVersion;
  const bool loading = record.stage() == state::v1::SNAPSHOT_STAGE_LOADING;
  if (!readable && !loading) record.set_stage(state::v1::SNAPSHOT_STAGE_UNSPECIFIED);
  return record;
}

// How much memory is in one that was just taken; 0 if that cannot be told.
Task<uint64_t> VmStateBytes(std::shared_ptr<ComputeSystem> system, SnapshotOptions options) {
  const auto present = co_await system->ListSnapshots();
  if (!present.ok()) co_return 0;
  for (const DiskSnapshots& disk : *present) {
    for (const DiskSnapshot& snapshot : disk.snapshots) {
      if (disk.disk == options.vm_state && snapshot.tag == options.tag) {
        co_return snapshot.vm_state_bytes;
      }
    }
  }
  co_return 0;
}

}  // namespace

void UtilityVm::AddSnapshot(const SnapshotRow& row) {
  SnapshotRecord record;
  if (!record.ParseFromString(row.record)) record.Clear();
  snapshots_[row.tag] = AsKnownHere(std::move(record));
}

absl::Status UtilityVm::CheckSnapshotsMayChange(const std::string& operation) const {
  RETURN_IF_ERROR(CheckHere());
  RETURN_IF_ERROR(RefuseIfMigrating(operation));
  RETURN_IF_ERROR(CheckCheckpointsRest(operation));
  if (phase_ != Phase::kUp || system_ == nullptr || guest_ == nullptr) return Refuse(operation);
  if (called_off()) return CalledOff(operation);
  return CheckArrived(operation);
}

absl::Status UtilityVm::CheckHasNoSnapshots(const std::string& operation,
                                            const std::string& why) const {
  if (snapshots_.empty()) return absl::OkStatus();
  const std::string& tag = snapshots_.begin()->first;
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", row_.name, " cannot be ", operation, ": it has snapshots in its disks (",
                   tag, snapshots_.size() > 1 ? " and more" : "", "), and ", why),
      "vm_has_snapshots",
      absl::StrCat("Delete them first: ferryctl snapshot delete ", row_.name, " ", tag));
}

Task<absl::Status> UtilityVm::PutSnapshot(std::string tag, SnapshotRecord record) {
  SnapshotRow row{row_.id, tag, record.SerializeAsString()};
  CO_RETURN_IF_ERROR(co_await deps_.store.PutSnapshot(std::move(row)));
  snapshots_[tag] = AsKnownHere(std::move(record));
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::ForgetSnapshot(std::string tag) {
  std::string forgotten = tag;
  CO_RETURN_IF_ERROR(co_await deps_.store.DeleteSnapshot(row_.id, std::move(forgotten)));
  snapshots_.erase(tag);
  co_return absl::OkStatus();
}

Task<absl::StatusOr<v1::Snapshot>> UtilityVm::FindSnapshot(std::string tag) {
  auto all = co_await DescribeAllSnapshots();
  // That the disks cannot be asked is no reason to say that it is not there.
  if (!all.ok()) all = DescribeSnapshots(snapshots_, {}, DisksByName(document_), false);
  for (const v1::Snapshot& snapshot : *all) {
    if (snapshot.tag() == tag) co_return snapshot;
  }
  co_return NoSuchSnapshot(row_.name, tag);
}

Task<absl::StatusOr<std::vector<v1::Snapshot>>> UtilityVm::ListSnapshots() {
  auto self = shared_from_this();
  CO_RETURN_IF_ERROR(CheckHere());
  // While one is made or loaded the disks answer nobody.
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  co_return co_await DescribeAllSnapshots();
}

Task<absl::StatusOr<std::vector<v1::Snapshot>>> UtilityVm::DescribeAllSnapshots() {
  std::vector<DiskSnapshots> present;
  std::shared_ptr<ComputeSystem> system = system_;
  const bool is_up = phase_ == Phase::kUp && system != nullptr;
  if (is_up) {
    CO_ASSIGN_OR_RETURN(present, co_await system->ListSnapshots());
  }
  co_return DescribeSnapshots(snapshots_, present, DisksByName(document_), is_up);
}

Task<absl::StatusOr<v1::Snapshot>> UtilityVm::SaveSnapshot(SnapshotWish wish, TakingSteps steps) {
  using asio::experimental::awaitable_operators::operator||;
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckSnapshotsMayChange("saved in a snapshot"));
  CO_RETURN_IF_ERROR(CheckSharesNothing(
      spec_, "Take a checkpoint of its disks alone: ferryctl checkpoint create --disk-only"));
  CO_RETURN_IF_ERROR(CheckHasNoCheckpoints(
      "saved in a snapshot", "going back to one, or deleting it, would take the snapshot away"));
  CO_ASSIGN_OR_RETURN(const SnapshotOptions options,
                      PlanSnapshot(row_.name, DisksByName(document_), wish));
  CO_RETURN_IF_ERROR(co_await CheckTagIsFree(options.tag));
  CO_RETURN_IF_ERROR(CheckSnapshotsMayChange("saved in a snapshot"));
  const bool was_paused = paused_;
  SetPhase(Phase::kSaving);
  deps_.events.Publish("vm.snapshot_saving", row_.id, {{"name", row_.name}, {"tag", wish.tag}});
  const std::function<bool()> stays = [this] { return !detached_ && !called_off(); };
  auto first = co_await (TakeSnapshot(&options, &steps) || AwaitWhile(stays, kAsLongAsItTakes));
  if (detached_) co_return CheckHere();
  absl::Status taken = CalledOff("saved in a snapshot");
  if (first.index() == 0) taken = std::get<0>(std::move(first));
  // Where nobody knows what is in the disks, the next boot or daemon looks, and removes it.
  const bool is_known = taken.GetPayload(kNothingChanged).has_value() ||
                        (system_ != nullptr && !called_off() && !absl::IsDeadlineExceeded(taken) &&
                         !absl::IsUnavailable(taken));
  if (!taken.ok() && is_known && snapshots_.contains(options.tag)) {
    const absl::Status forgotten = co_await ForgetSnapshot(options.tag);
    if (!forgotten.ok()) spdlog::error("vm {}: {}", row_.name, forgotten.ToString());
  }
  co_await RunOnUnsaved(was_paused);
  deps_.events.Publish(
      taken.ok() ? "vm.snapshot_saved" : "vm.snapshot_failed", row_.id,
      {{"name", row_.name}, {"tag", options.tag}, {"error", std::string(taken.message())}});
  if (taken.ok()) co_return co_await FindSnapshot(options.tag);
  co_return Told(taken,
                 absl::StrCat("snapshot ", options.tag, " of VM ", row_.name,
                              " could not be taken, and the VM is ", StateName(state())),
                 "snapshot_not_taken", rpc::NextStepOf(taken));
}

Task<absl::Status> UtilityVm::CheckTagIsFree(std::string tag) {
  std::shared_ptr<ComputeSystem> system = system_;
  CO_ASSIGN_OR_RETURN(const std::vector<DiskSnapshots> present, co_await system->ListSnapshots());
  absl::Status is_new = CheckTagIsNew(present, tag);
  if (is_new.ok() && snapshots_.contains(tag)) {
    is_new = absl::AlreadyExistsError("this host has a record of one");
  }
  if (is_new.ok()) co_return is_new;
  co_return Told(is_new, absl::StrCat("VM ", row_.name, " has a snapshot ", tag, " already"),
                 "snapshot_exists",
                 absl::StrCat("Choose another tag, or delete that one: ferryctl snapshot delete ",
                              row_.name, " ", tag));
}

// Up to a snapshot that is whole.
Task<absl::Status> UtilityVm::TakeSnapshot(const SnapshotOptions* options, TakingSteps* steps) {
  std::shared_ptr<ComputeSystem> system = system_;
  SnapshotRecord record;
  record.set_schema_version(kStateSchemaVersion);
  record.set_paused(paused_);
  CO_ASSIGN_OR_RETURN(const guest::GuestState state, co_await HoldStill("SNAPSHOT.stopped"));
  CO_ASSIGN_OR_RETURN(*record.mutable_guest(), EncodeGuest(state));
  CO_ASSIGN_OR_RETURN(const auto containers, steps->containers());
  for (const state::v1::ContainerRecord& container : containers) {
    *record.add_containers() = container;
  }
  record.set_stage(state::v1::SNAPSHOT_STAGE_MAKING);
  record.set_taken_unix_ms(NowUnixMs());
  record.set_document_json(schema::ToJson(document_));
  CO_ASSIGN_OR_RETURN(*record.mutable_firmware_store(), co_await firmware_.Read());
  const NamedDisks named = DisksByName(document_);
  for (const DiskPlace& place : options->disks) {
    for (const auto& [name, disk] : named) {
      if (disk.place != place) continue;
      state::v1::SnapshotDisk* its = record.add_disks();
      its->set_name(name);
      its->set_controller(place.controller);
      its->set_lun(place.lun);
      if (place == options->vm_state) record.set_vmstate(name);
    }
  }
  // Known before it is there: a daemon that finds half of one must know that.
  CO_RETURN_IF_ERROR(co_await PutSnapshot(options->tag, record));
  Reached("SNAPSHOT.recorded");
  CO_RETURN_IF_ERROR(co_await system->SaveSnapshot(*options));
  Reached("SNAPSHOT.taken");
  record.set_stage(state::v1::SNAPSHOT_STAGE_WHOLE);
  record.set_vm_state_bytes(co_await VmStateBytes(system, *options));
  const absl::Status whole = co_await PutSnapshot(options->tag, record);
  if (whole.ok()) {
    Reached("SNAPSHOT.whole");
    co_return whole;
  }
  const absl::Status deleted = co_await system->DeleteSnapshot(options->tag, options->disks);
  if (deleted.ok()) co_return whole;
  spdlog::error("vm {}: {}", row_.name, deleted.ToString());
  co_return absl::UnavailableError(
      absl::StrCat(whole.message(), "; and it is still in the disks: ", deleted.message()));
}

Task<absl::StatusOr<SnapshotRecord>> UtilityVm::LoadableSnapshot(std::string tag,
                                                                 GoingBackSteps* steps) {
  std::shared_ptr<ComputeSystem> system = system_;
  CO_ASSIGN_OR_RETURN(const std::vector<DiskSnapshots> present, co_await system->ListSnapshots());
  const auto found = snapshots_.find(tag);
  if (found == snapshots_.end()) {
    const absl::Status absent = CheckTagIsNew(present, tag);
    if (absent.ok()) co_return NoSuchSnapshot(row_.name, tag);
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("snapshot ", tag, " of VM ", row_.name,
                     " was not taken by Ferry, which does not know the processes in it"),
        "snapshot_not_ferrys",
        "Stop the VM and put its disks back with qemu-img snapshot -a; then boot it.");
  }
  const SnapshotRecord record = found->second;
  if (record.stage() == state::v1::SNAPSHOT_STAGE_UNSPECIFIED) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("snapshot ", tag, " of VM ", row_.name, " cannot be loaded: ", kOfANewer),
        "snapshot_of_newer", "Use the ferryd that took it.");
  }
  if (record.stage() != state::v1::SNAPSHOT_STAGE_WHOLE) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("snapshot ", tag, " of VM ", row_.name, " is not whole"), "snapshot_not_whole",
        absl::StrCat("Delete it: ferryctl snapshot delete ", row_.name, " ", tag));
  }
  CO_RETURN_IF_ERROR(CheckSameMachine(row_.name, tag, record, document_));
  const absl::Status there = CheckCanBeLoaded(present, OptionsOf(tag, record));
  if (!there.ok()) {
    const absl::Status refused(absl::StatusCode::kFailedPrecondition, there.message());
    co_return Told(refused, absl::StrCat("VM ", row_.name, " cannot go back to snapshot ", tag),
                   "snapshot_partial",
                   absl::StrCat("See which disks have it: ferryctl snapshot list ", row_.name));
  }
  CO_RETURN_IF_ERROR(DecodeGuest(record.guest()).status());
  CO_RETURN_IF_ERROR(steps->check(record));
  co_return record;
}

Task<absl::StatusOr<v1::Snapshot>> UtilityVm::LoadSnapshot(std::string tag, GoingBackSteps steps) {
  using asio::experimental::awaitable_operators::operator||;
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckSnapshotsMayChange("taken back to a snapshot"));
  CO_RETURN_IF_ERROR(CheckTag(tag));
  CO_ASSIGN_OR_RETURN(SnapshotRecord record, co_await LoadableSnapshot(tag, &steps));
  const bool was_paused = paused_;
  record.set_stage(state::v1::SNAPSHOT_STAGE_LOADING);
  CO_RETURN_IF_ERROR(co_await PutSnapshot(tag, record));
  if (const absl::Status may = CheckSnapshotsMayChange("taken back to a snapshot"); !may.ok()) {
    Spawn(deps_.executor, SettleSnapshotsLater(self));
    co_return may;
  }
  Reached("SNAPSHOT.loading");
  SetPhase(Phase::kRestoring);
  deps_.events.Publish("vm.snapshot_loading", row_.id, {{"name", row_.name}, {"tag", tag}});
  const std::function<bool()> stays = [this] { return !detached_ && !called_off(); };
  auto first = co_await (GoBack(&tag, &record, &steps) || AwaitWhile(stays, kAsLongAsItTakes));
  if (detached_) co_return CheckHere();
  absl::Status back = CalledOff("taken back to a snapshot");
  if (first.index() == 0) back = std::get<0>(std::move(first));
  if (back.ok()) {
    deps_.events.Publish("vm.snapshot_loaded", row_.id, {{"name", row_.name}, {"tag", tag}});
    co_return co_await FindSnapshot(tag);
  }
  bool unchanged = back.GetPayload(kNothingChanged).has_value() && system_ != nullptr;
  if (!unchanged) co_await EndHalfLoaded(tag, back);
  const absl::Status settled = co_await SettleSnapshots();
  // Until that is written down, the next daemon would end it.
  if (!settled.ok()) Spawn(deps_.executor, SettleSnapshotsLater(self));
  if (unchanged && system_ == nullptr) {
    unchanged = false;
    co_await EndHalfLoaded(tag, back);
  }
  if (unchanged) {
    co_await RunOnUnsaved(was_paused);
    co_return Told(
        back,
        absl::StrCat("VM ", row_.name, " did not go back to snapshot ", tag, ", and is as it was"),
        "snapshot_not_loaded", rpc::NextStepOf(back));
  }
  co_return Told(back,
                 absl::StrCat("snapshot load failed: VM ", row_.name, " was on its way back to ",
                              tag, " and had to be ended"),
                 "snapshot_load_failed",
                 absl::StrCat("Boot it, from the disks as they are now (ferryctl start ", row_.name,
                              "), and try again or do without."));
}

// Up to a guest that runs, or stands still, as it did then.
Task<absl::Status> UtilityVm::GoBack(const std::string* tag, SnapshotRecord* record,
                                     GoingBackSteps* steps) {
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr || guest_ == nullptr) co_return absl::AbortedError("its VMM ended");
  ++standstills_;
  guest_->StandsStill();
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await system->Pause()));
  FreezeGuest();
  SnapshotOptions options = OptionsOf(*tag, *record);
  CO_RETURN_IF_ERROR(co_await system->LoadSnapshot(std::move(options)));
  Reached("SNAPSHOT.loaded");
  if (system_ == nullptr) co_return absl::AbortedError("its VMM ended");
  CO_RETURN_IF_ERROR(BringBackGuest(*tag, *record));
  SnapshotRecord then = *record;
  CO_RETURN_IF_ERROR(co_await steps->before_run(std::move(then)));
  if (record->paused()) co_await firmware_.Rewrite(record->firmware_store());
  paused_ = record->paused();
  row_.desired_state = paused_ ? "paused" : "running";
  CO_RETURN_IF_ERROR(co_await Persist());
  record->set_stage(state::v1::SNAPSHOT_STAGE_WHOLE);
  CO_RETURN_IF_ERROR(co_await PutSnapshot(*tag, *record));
  Reached("SNAPSHOT.back");
  frozen_ = false;
  if (!paused_) {
    CO_RETURN_IF_ERROR(co_await ClaimFence(row_.epoch));
    CO_RETURN_IF_ERROR(AsFenceHeld(co_await system->Resume()));
  }
  if (system_ == nullptr) co_return absl::AbortedError("its VMM ended as soon as it went on");
  SetPhase(Phase::kUp);
  spdlog::warn("vm {}: it went back to snapshot {}; what it printed from here on is of that time",
               row_.name, *tag);
  if (!paused_) Spawn(deps_.executor, AwaitAgent(shared_from_this()));
  co_return absl::OkStatus();
}

// What was attached is of a time that never was, and is not to come back by itself.
absl::Status UtilityVm::BringBackGuest(const std::string& tag, const SnapshotRecord& record) {
  ASSIGN_OR_RETURN(guest::GuestState state, DecodeGuest(record.guest()));
  guest::BeginTimeline(&state, guest_->timeline(), NowUnixMs());
  guest_->set_on_change(nullptr);
  guest_->Close(rpc::ErrorWithReason(
      absl::StatusCode::kAborted,
      absl::StrCat("VM ", row_.name, " went back to snapshot ", tag,
                   "; what came after that has not happened"),
      "vm_went_back",
      absl::StrCat("See what runs in it now (ferryctl ps ", row_.name, "), and attach to that.")));
  // Nothing was taken from it since it stands still.
  system_->guest_transport().ResumeReading();
  output_.Clear();
  MakeGuest();
  RETURN_IF_ERROR(guest_->Restore(state));
  return guest_->Listen();
}

// Its disks may be of one time and its memory of another: it must not run.
Task<void> UtilityVm::EndHalfLoaded(std::string tag, absl::Status why) {
  co_await EndSystem();
  co_await deps_.fence.Release(row_.id);
  frozen_ = false;
  paused_ = false;
  row_.desired_state = "stopped";
  SetPhase(Phase::kFailed, absl::StrCat("snapshot load failed: ", why.message()));
  deps_.events.Publish("vm.snapshot_load_failed", row_.id,
                       {{"name", row_.name}, {"tag", tag}, {"error", row_.state_reason}});
  TellEnded();
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
}

Task<absl::Status> UtilityVm::DeleteSnapshot(std::string tag) {
  using asio::experimental::awaitable_operators::operator||;
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckSnapshotsMayChange("relieved of a snapshot"));
  std::shared_ptr<ComputeSystem> system = system_;
  std::vector<DiskPlace> disks;
  for (const auto& [name, disk] : DisksByName(document_)) {
    if (disk.can_hold_snapshots()) disks.push_back(disk.place);
  }
  const bool recorded = snapshots_.contains(tag);
  const std::function<bool()> stays = [this] { return !detached_ && !called_off(); };
  Reached("SNAPSHOT.deleting");
  auto first = co_await (system->DeleteSnapshot(tag, std::move(disks)) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0) co_return CalledOff("relieved of a snapshot");
  const absl::Status deleted = std::get<0>(std::move(first));
  const bool absent = absl::IsNotFound(deleted) && deleted.GetPayload(kNothingChanged).has_value();
  if (absent && !recorded) co_return NoSuchSnapshot(row_.name, tag);
  if (!deleted.ok() && !absent) {
    co_return Told(deleted,
                   absl::StrCat("snapshot ", tag, " of VM ", row_.name, " was not deleted"),
                   "snapshot_not_deleted", rpc::NextStepOf(deleted));
  }
  Reached("SNAPSHOT.deleted");
  if (recorded) CO_RETURN_IF_ERROR(co_await ForgetSnapshot(tag));
  Reached("SNAPSHOT.forgotten");
  deps_.events.Publish("vm.snapshot_deleted", row_.id, {{"name", row_.name}, {"tag", tag}});
  co_return absl::OkStatus();
}

// A former daemon died while it took them, or nobody knows how far one came.
Task<void> UtilityVm::DropHalfSnapshots() {
  const SnapshotRecords all = snapshots_;
  for (const auto& [tag, record] : all) {
    std::shared_ptr<ComputeSystem> system = system_;
    if (record.stage() != state::v1::SNAPSHOT_STAGE_MAKING || system == nullptr) continue;
    // To its VMM, one that came by a migration and stands still has just come; and one that was
    // being saved is let run by the end of that, unless somebody wants it paused.
    if (!co_await Executes()) (void)co_await system->Pause();
    const schema::MigrationCancelOptions source{schema::MigrationOrigin::kSource};
    if (session().empty()) (void)co_await system->CancelLiveMigration(source);
    const auto present = co_await system->ListSnapshots();
    absl::Status dropped = present.status();
    // What a container had is gone with the VM that it was put into.
    std::vector<DiskPlace> disks;
    for (const DiskPlace& place : OptionsOf(tag, record).disks) {
      const auto is = [&place](const DiskSnapshots& disk) { return disk.disk == place; };
      if (present.ok() && std::any_of(present->begin(), present->end(), is)) disks.push_back(place);
    }
    if (!disks.empty()) dropped = co_await system->DeleteSnapshot(tag, std::move(disks));
    if (dropped.ok() || absl::IsNotFound(dropped)) dropped = co_await ForgetSnapshot(tag);
    if (!dropped.ok()) spdlog::error("vm {}: snapshot {}: {}", row_.name, tag, dropped.ToString());
  }
}

std::string UtilityVm::HalfLoadedSnapshot() const {
  for (const auto& [tag, record] : snapshots_) {
    if (record.stage() == state::v1::SNAPSHOT_STAGE_LOADING) return tag;
  }
  return "";
}

Task<absl::Status> UtilityVm::SettleSnapshots() {
  for (std::string tag = HalfLoadedSnapshot(); !tag.empty(); tag = HalfLoadedSnapshot()) {
    SnapshotRecord record = snapshots_[tag];
    record.set_stage(state::v1::SNAPSHOT_STAGE_WHOLE);
    CO_RETURN_IF_ERROR(co_await PutSnapshot(std::move(tag), std::move(record)));
  }
  co_return absl::OkStatus();
}

Task<void> UtilityVm::SettleSnapshotsLater(std::shared_ptr<UtilityVm> self) {
  while (!self->detached_ && self->phase_ != Phase::kGone) {
    const absl::Status settled = co_await self->SettleSnapshots();
    if (settled.ok()) co_return;
    spdlog::error("vm {}: {}", self->row_.name, settled.ToString());
    co_await Delay(self->deps_.settings.retry_pause);
  }
}

// Nobody knows how far it is back; whatever runs of it is ended by whoever adopted all others.
Task<absl::Status> UtilityVm::GiveUpHalfLoaded(std::string tag) {
  row_.adoption_record.clear();
  row_.guest_state.clear();
  row_.desired_state = "stopped";
  DropAttachedDisks();
  SetPhase(Phase::kFailed,
           absl::StrCat("snapshot load failed: ferryd ended while the VM went back to ", tag));
  CO_RETURN_IF_ERROR(co_await Persist());
  co_return co_await SettleSnapshots();
}

}  // namespace ferry::vm
