// The part of UtilityVm that goes back to checkpoints, and merges what came after them.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/schema/attachments.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

// Whoever wrote down where a disk goes on may not have come to tell its VMM, or not have heard the
// answer: the VMM is right.
Task<absl::Status> UtilityVm::BelieveVmmsDisks() {
  using asio::experimental::awaitable_operators::operator||;
  CO_RETURN_IF_ERROR(co_await BelieveMovedDisk());
  std::shared_ptr<ComputeSystem> system = system_;
  const auto half = checkpoints_.find(UnsettledCheckpoint(checkpoints_));
  if (system == nullptr || half == checkpoints_.end()) co_return absl::OkStatus();
  const CheckpointRecord record = half->second;
  const std::function<bool()> stays = [this] { return !called_off(); };
  auto first = co_await (system->ListDiskFiles() || AwaitWhile(stays, kAsLongAsItTakes));
  if (first.index() != 0) co_return CalledOff("asked for its disks");
  CO_RETURN_IF_ERROR(std::get<0>(first).status());
  const DiskFiles files = *std::get<0>(first);
  for (const CheckpointDisk& disk : record.disks()) {
    const std::string written = DiskFile(disk);
    const auto now = files.find({disk.controller(), disk.lun()});
    if (now == files.end()) continue;
    // Before it is an overlay's the disk may be written down as such: that one is empty.
    const bool merged =
        now->second == disk.file() && record.stage() == state::v1::CHECKPOINT_STAGE_MERGING;
    const bool doubtful = unwritten_.contains(disk.overlay());
    const bool is_over = now->second == disk.overlay() && (doubtful || written == disk.file());
    const bool is_below = merged && (doubtful || written == disk.overlay());
    if (is_over || is_below) CO_RETURN_IF_ERROR(co_await PlaceDisk(disk, is_below));
  }
  co_return absl::OkStatus();
}

schema::Attachment* UtilityVm::AttachmentOf(const CheckpointDisk& disk) {
  schema::Attachment* found = schema::FindAttachment(&document_, disk.controller(), disk.lun());
  if (found == nullptr) return nullptr;
  // A place may be another's by now.
  const std::string& path = found->path;
  const bool its = disk.container_id().empty() || path == disk.file() || path == disk.overlay();
  return its ? found : nullptr;
}

void UtilityVm::SetDiskFile(const CheckpointDisk& disk, const std::string& file,
                            const std::string& format) {
  if (schema::Attachment* attachment = AttachmentOf(disk)) {
    attachment->path = file;
    attachment->format = format;
  }
  if (!disk.container_id().empty()) return;
  if (const auto own = OwnDiskAt(spec_, disk.lun())) {
    spec_.mutable_disks(*own)->set_file(file);
    spec_.mutable_disks(*own)->set_format(format);
  }
}

std::string UtilityVm::DiskFile(const CheckpointDisk& disk) const {
  if (!disk.container_id().empty()) {
    return deps_.scratch == nullptr ? "" : deps_.scratch->FileOf(disk.container_id());
  }
  const auto own = OwnDiskAt(spec_, disk.lun());
  return own ? spec_.disks(*own).file() : "";
}

std::set<std::string> UtilityVm::FilesInUse() const {
  std::set<std::string> files;
  for (const v1::DiskSpec& disk : spec_.disks()) files.insert(disk.file());
  for (const auto& [name, record] : checkpoints_) {
    for (const CheckpointDisk& disk : record.disks()) files.insert(DiskFile(disk));
  }
  // Of those that are not there any more, which is no file.
  files.erase("");
  return files;
}

bool UtilityVm::IsUnused(const std::string& file) const {
  return !file.empty() && !FilesOf(checkpoints_).contains(file) && !FilesInUse().contains(file);
}

Task<void> UtilityVm::RemoveUnused(std::set<std::string> files) {
  for (const std::string& file : files) {
    if (!IsUnused(file)) continue;
    const absl::Status removed = co_await deps_.overlays->Remove(file);
    if (!removed.ok()) spdlog::warn("vm {}: {}", row_.name, removed.ToString());
  }
}

// What the VM went on in may have been merged by a former daemon. It may also be long gone, and
// somebody else's file have its name.
Task<void> UtilityVm::RemoveOverlays(CheckpointRecord record) {
  for (const CheckpointDisk& disk : record.disks()) {
    // What is its user's goes only if it is merged.
    if (disk.overlay_kept() || !IsUnused(disk.overlay())) continue;
    OverlayWish overlay{disk.file(), disk.format(), disk.overlay()};
    const absl::Status removed = co_await deps_.overlays->RemoveDraft(std::move(overlay));
    if (!removed.ok()) spdlog::warn("vm {}: {}", row_.name, removed.ToString());
  }
}

Task<absl::Status> UtilityVm::PlaceDisk(CheckpointDisk disk, bool below) {
  const schema::Attachment* attachment = AttachmentOf(disk);
  const schema::Attachment before = attachment == nullptr ? schema::Attachment{} : *attachment;
  std::string file = below ? disk.file() : disk.overlay();
  // Also of whoever is cut off while it waits, for instance because the VMM died.
  absl::Cleanup unchanged = [this, self = shared_from_this(), disk, before] {
    if (!before.path.empty()) SetDiskFile(disk, before.path, before.format);
    row_.document_json = schema::ToJson(document_);
  };
  // A write that failed may have been done all the same.
  unwritten_.insert(disk.overlay());
  SetDiskFile(disk, file, below ? disk.format() : "qcow2");
  CheckpointRecords none;
  CO_RETURN_IF_ERROR(co_await PutCheckpoints(std::move(none)));
  // Of a container's disk its record is what counts; the row follows with the next change.
  if (!disk.container_id().empty() && deps_.scratch != nullptr) {
    std::string id = disk.container_id();
    CO_RETURN_IF_ERROR(co_await deps_.scratch->Put(std::move(id), std::move(file)));
  }
  std::move(unchanged).Cancel();
  unwritten_.erase(disk.overlay());
  co_return absl::OkStatus();
}

// As long as nobody wants the VM to end at once.
Task<absl::Status> UtilityVm::MergeOnline(std::shared_ptr<ComputeSystem> system, DiskPlace disk,
                                          std::string format, PlaceDiskFile place) {
  using asio::experimental::awaitable_operators::operator||;
  // What is about to change over comes to its end, so that the guest goes on. Detach() waits for
  // that, too.
  const std::function<bool()> stays = [this] { return switches_ || !called_off(); };
  MergeProgress progress = merge_progress_;
  auto first = co_await (system->MergeOverlay(std::move(disk), std::move(format), std::move(place),
                                              std::move(progress)) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  switches_ = false;
  Pulse();
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0) co_return CalledOff("relieved of a checkpoint");
  co_return std::get<0>(std::move(first));
}

Task<absl::Status> UtilityVm::MergeLower(std::shared_ptr<ComputeSystem> system,
                                         LowerOverlay lower) {
  using asio::experimental::awaitable_operators::operator||;
  const std::function<bool()> stays = [this] { return !called_off(); };
  MergeProgress progress = merge_progress_;
  auto first = co_await (system->MergeLowerOverlay(std::move(lower), std::move(progress)) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0) co_return CalledOff("relieved of a checkpoint");
  co_return std::get<0>(std::move(first));
}

// It takes as long as the disks do, and can be repeated.
Task<absl::Status> UtilityVm::MergeOffline(std::string overlay) {
  using asio::experimental::awaitable_operators::operator||;
  // A VM that does not run has nothing to end.
  const std::function<bool()> stays = [this] {
    return !called_off() || phase_ == Phase::kStopped || phase_ == Phase::kFailed;
  };
  auto first =
      co_await (deps_.overlays->Merge(std::move(overlay)) || AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0) co_return CalledOff("relieved of a checkpoint");
  co_return std::get<0>(std::move(first));
}

// A VMM that did not answer may have left the guest standing still.
Task<void> UtilityVm::GoOnAfterMerge() {
  if (system_ == nullptr || called_off() || detached_) co_return;
  const absl::Status runs = co_await RunOn();
  if (runs.ok() || system_ == nullptr) co_return;
  NoteStandsStill(runs);
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
}

Task<absl::Status> UtilityVm::MergeBack(CheckpointDisk disk) {
  std::shared_ptr<ComputeSystem> system = system_;
  const DiskPlace at{disk.controller(), disk.lun()};
  DiskFiles files;
  if (system != nullptr) {
    CO_ASSIGN_OR_RETURN(files, co_await system->ListDiskFiles());
  }
  const auto now = files.find(at);
  const bool in_vm = now != files.end();
  if (in_vm && now->second == disk.overlay()) {
    PlaceDiskFile place = [this, self = shared_from_this(),
                           disk](bool below) -> Task<absl::Status> {
      // Also back: what is being written down is not left half done.
      switches_ = true;
      const absl::Status placed = co_await PlaceDisk(disk, below);
      Reached(below ? "CHECKPOINT.placed" : "CHECKPOINT.put_back");
      co_return placed;
    };
    co_return co_await MergeOnline(std::move(system), at, disk.format(), std::move(place));
  }
  const schema::Attachment* attached = AttachmentOf(disk);
  const bool recorded = DiskFile(disk) == disk.overlay();
  // Of a container's disk that is written down after the VM's row, and before any VMM is told.
  const bool documented =
      !disk.container_id().empty() && attached != nullptr && attached->path == disk.overlay();
  if (!recorded && !documented) co_return absl::OkStatus();
  // A VMM that still writes to the file below has put nothing into the overlay.
  const bool untouched = !recorded || (in_vm && now->second == disk.file());
  if (!untouched) CO_RETURN_IF_ERROR(co_await MergeOffline(disk.overlay()));
  co_return co_await PlaceDisk(disk, true);
}

Task<absl::StatusOr<CheckpointRecord>> UtilityVm::DeleteCheckpoint(std::string name,
                                                                   MergeCheck check,
                                                                   MergeProgress progress) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  (void)co_await WriteDoubtful();
  const auto found = checkpoints_.find(name);
  if (found == checkpoints_.end()) co_return NoSuchCheckpoint(row_.name, name);
  CheckpointRecord record = found->second;
  const bool whole = record.stage() == state::v1::CHECKPOINT_STAGE_WHOLE;
  // The rest of one that is not whole goes in this way, too.
  CO_RETURN_IF_ERROR(CheckCheckpointsMayChange("relieved of a checkpoint", name));
  if (record.stage() == state::v1::CHECKPOINT_STAGE_MAKING) {
    CO_RETURN_IF_ERROR(co_await UndoCheckpoint(name));
    co_return record;
  }
  auto plan = PlanDeletion(row_.name, checkpoints_, FilesInUse(), name);
  CO_RETURN_IF_ERROR(plan.status());
  // What is begun has to be ended, whatever has come over its files since.
  if (whole) CO_RETURN_IF_ERROR(co_await CheckMayBeMerged(*std::move(plan), std::move(check)));
  CO_RETURN_IF_ERROR(CheckCheckpointsMayChange("relieved of a checkpoint", name));
  CheckpointRecord merging = record;
  merging.set_stage(state::v1::CHECKPOINT_STAGE_MERGING);
  CheckpointRecords changed = {{name, std::move(merging)}};
  if (whole) CO_RETURN_IF_ERROR(co_await PutCheckpoints(std::move(changed)));
  Reached("CHECKPOINT.merging");
  merge_progress_ = std::move(progress);
  const absl::Cleanup untold = [this, self] { merge_progress_ = nullptr; };
  const absl::Status deleted = co_await DeleteNow(name);
  CO_RETURN_IF_ERROR(CheckHere());
  if (deleted.ok()) co_return record;
  co_return rpc::ErrorWithReason(
      deleted.code(),
      absl::StrCat("checkpoint ", name, " of VM ", row_.name, " is only half deleted, and the VM ",
                   WhatItDoes(), ": ", deleted.message()),
      "checkpoint_not_deleted",
      absl::StrCat("Mend that, and delete it again: ferryctl checkpoint delete ", row_.name, " ",
                   name));
}

bool UtilityVm::IsGone(const CheckpointDisk& disk) const {
  return !disk.container_id().empty() &&
         (deps_.scratch == nullptr || deps_.scratch->FileOf(disk.container_id()).empty());
}

// What is begun with a file missing would never come to its end.
Task<absl::Status> UtilityVm::CheckAllThere(CheckpointDeletion plan) {
  for (const OverlayMerge& merge : plan.merges) {
    if (IsGone(merge.disk)) continue;
    std::vector<std::string> needed = {merge.overlay, merge.disk.file()};
    needed.insert(needed.end(), merge.above.begin(), merge.above.end());
    for (const std::string& file : needed) {
      const absl::Status there = co_await deps_.overlays->CheckIsThere(file);
      if (there.ok()) continue;
      co_return rpc::ErrorWithReason(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("disk ", merge.disk.name(), " of VM ", row_.name,
                       " cannot be merged, and nothing was changed: ", there.message()),
          "overlay_missing", "Bring the file back, or make it readable for ferryd, and try again.");
    }
  }
  co_return absl::OkStatus();
}

// Files may be on storage that hangs.
Task<absl::Status> UtilityVm::CheckMayBeMerged(CheckpointDeletion plan, MergeCheck check) {
  using asio::experimental::awaitable_operators::operator||;
  const std::function<bool()> stays = [this] {
    return !detached_ && (!called_off() || phase_ == Phase::kStopped || phase_ == Phase::kFailed);
  };
  auto there = co_await (CheckAllThere(std::move(plan)) || AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (there.index() != 0) co_return CalledOff("relieved of a checkpoint");
  CO_RETURN_IF_ERROR(std::get<0>(there));
  auto may = co_await (check() || AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (may.index() != 0) co_return CalledOff("relieved of a checkpoint");
  co_return std::get<0>(may);
}

Task<absl::Status> UtilityVm::DeleteNow(std::string name) {
  const bool had_vmm = system_ != nullptr;
  absl::Status merged = co_await MergeAll(name);
  if (!merged.ok() && had_vmm && co_await HasEnded(merged)) merged = co_await MergeAll(name);
  if (!merged.ok()) co_await GoOnAfterMerge();
  co_return merged;
}

Task<absl::StatusOr<bool>> UtilityVm::HasOpen(std::shared_ptr<ComputeSystem> system,
                                              CheckpointDisk disk, std::string file) {
  if (system == nullptr) co_return false;
  CO_ASSIGN_OR_RETURN(const DiskFiles files, co_await system->ListDiskFiles());
  const auto now = files.find({disk.controller(), disk.lun()});
  if (now != files.end() && now->second == file) co_return true;
  const bool elsewhere = std::any_of(files.begin(), files.end(),
                                     [&file](const auto& each) { return each.second == file; });
  // Scratch disks come and go, and their places are given anew; the VM's own stay.
  if (!elsewhere && !disk.container_id().empty()) co_return false;
  co_return absl::FailedPreconditionError(
      absl::StrCat("its VMM does not have ", file, " as the disk ", disk.name()));
}

Task<absl::Status> UtilityVm::MergeBelow(OverlayMerge merge) {
  std::shared_ptr<ComputeSystem> system = system_;
  const std::string top = DiskFile(merge.disk);
  std::vector<std::string> chain = ChainBelow(checkpoints_, top);
  chain.push_back(top);
  const auto is_in_chain = [&chain](const std::string& file) {
    return std::find(chain.begin(), chain.end(), file) != chain.end();
  };
  CO_ASSIGN_OR_RETURN(bool open, co_await HasOpen(system, merge.disk, top));
  // What other checkpoints go on in is nobody's to write to now.
  open = open && is_in_chain(merge.overlay);
  if (open) {
    LowerOverlay lower{
        {merge.disk.controller(), merge.disk.lun()}, merge.overlay, merge.disk.file()};
    CO_RETURN_IF_ERROR(co_await MergeLower(std::move(system), std::move(lower)));
    Reached("CHECKPOINT.merged_below");
  } else {
    CO_RETURN_IF_ERROR(co_await MergeOffline(merge.overlay));
  }
  for (const std::string& above : merge.above) {
    // What is open was put over the file by the VMM. It may have failed to write that down, or not
    // have brought it to the disk, and what was merged is about to be removed.
    absl::Status over;
    if (open && is_in_chain(above)) {
      over = co_await deps_.overlays->CheckLiesOver(above, merge.disk.file());
    } else {
      over = co_await deps_.overlays->PutOver(above, merge.disk.file(), merge.disk.format());
    }
    CO_RETURN_IF_ERROR(over);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::MergeAll(std::string name) {
  CO_RETURN_IF_ERROR(co_await BelieveVmmsDisks());
  CO_ASSIGN_OR_RETURN(const CheckpointDeletion plan,
                      PlanDeletion(row_.name, checkpoints_, FilesInUse(), name));
  const CheckpointRecord gone = checkpoints_[name];
  std::set<std::string> files;
  for (const CheckpointDisk& disk : gone.disks()) {
    if (disk.file_is_overlay()) files.insert(disk.file());
  }
  for (const OverlayMerge& merge : plan.merges) {
    files.insert(merge.overlay);
    // What a container wrote that is not there any more is nobody's.
    if (IsGone(merge.disk)) continue;
    if (merge.is_vms) {
      CheckpointDisk disk = merge.disk;
      disk.set_overlay(merge.overlay);
      CO_RETURN_IF_ERROR(co_await MergeBack(disk));
      continue;
    }
    CO_RETURN_IF_ERROR(co_await MergeBelow(merge));
  }
  Reached("CHECKPOINT.merged");
  CheckpointRecords changed = plan.changed;
  std::vector<CheckpointRow> others;
  for (auto& [other, record] : changed) {
    for (CheckpointDisk& disk : *record.mutable_disks()) {
      if (disk.taken_as().empty() || IsGone(disk)) continue;
      std::string file = disk.file();
      CO_ASSIGN_OR_RETURN(*disk.mutable_generation(),
                          co_await ReadGeneration(std::move(file), &deps_.reads));
    }
    others.push_back({row_.id, other, record.SerializeAsString()});
  }
  std::optional<VmRow> row = Row();
  std::string forgotten = name;
  CO_RETURN_IF_ERROR(co_await deps_.store.DeleteCheckpoint(row_.id, std::move(forgotten),
                                                           std::move(others), std::move(row)));
  for (const auto& [other, record] : changed) checkpoints_[other] = record;
  checkpoints_.erase(name);
  Pulse();
  Reached("CHECKPOINT.deleted");
  co_await RemoveUnused(std::move(files));
  co_await RemoveOverlays(gone);
  deps_.events.Publish("vm.checkpoint_deleted", row_.id,
                       {{"name", row_.name}, {"checkpoint", name}});
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::SettleCheckpoint(std::string name) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  const auto found = checkpoints_.find(name);
  if (found == checkpoints_.end()) co_return absl::OkStatus();
  // This daemon is just taking it.
  if (writes_checkpoint_) co_return absl::OkStatus();
  // Another host's copy may have the files.
  CO_RETURN_IF_ERROR(RefuseIfMigrating("relieved of a checkpoint"));
  CO_RETURN_IF_ERROR(CheckArrived("relieved of a checkpoint"));
  const state::v1::CheckpointStage stage = found->second.stage();
  if (stage == state::v1::CHECKPOINT_STAGE_MAKING) co_return co_await UndoCheckpoint(name);
  if (stage == state::v1::CHECKPOINT_STAGE_MERGING) co_return co_await DeleteNow(name);
  co_return absl::OkStatus();
}

// What it is doing is of a time that will not have been.
Task<absl::Status> UtilityVm::EndForReturn(std::string name, bool memory) {
  if (system_ == nullptr) co_return absl::OkStatus();
  SetPhase(Phase::kRestoring);
  if (guest_ != nullptr) {
    last_timeline_ = guest_->timeline();
    guest_->set_on_change(nullptr);
    guest_->Close(
        rpc::ErrorWithReason(absl::StatusCode::kAborted,
                             absl::StrCat("VM ", row_.name, " went back to checkpoint ", name,
                                          "; what came after that has not happened"),
                             "vm_went_back",
                             absl::StrCat("See what runs in it now (ferryctl ps ", row_.name,
                                          "), and attach to that.")));
    guest_.reset();
  }
  // Its containers go on as they were then, and have not ended.
  if (memory) ForEachObserver([](MoveObserver& observer) { observer.OnSaved(); });
  co_await EndSystem();
  CO_RETURN_IF_ERROR(CheckHere());
  frozen_ = false;
  paused_ = false;
  if (system_ == nullptr && !memory) TellEnded();
  SetPhase(system_ == nullptr ? Phase::kStopped : Phase::kUp);
  if (system_ != nullptr) co_return VmmHasNotEnded();
  co_return absl::OkStatus();
}

// Something else may have been deleted since its overlays were made.
absl::Status UtilityVm::CheckReturnFits(const CheckpointRecord& record,
                                        const CheckpointReturn& how) const {
  const bool fits =
      how.disks.size() == static_cast<size_t>(record.disks_size()) &&
      std::all_of(record.disks().begin(), record.disks().end(), [&how](const auto& disk) {
        const auto planned = how.disks.find(disk.name());
        return planned != how.disks.end() && planned->second.below == disk.file();
      });
  if (fits && record.stage() == state::v1::CHECKPOINT_STAGE_WHOLE) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kAborted,
      absl::StrCat("the checkpoints of VM ", row_.name, " changed meanwhile"), "disks_changed",
      "Try again.");
}

Task<absl::StatusOr<CheckpointRecord>> UtilityVm::GoBackToCheckpoint(std::string name,
                                                                     CheckpointReturn how) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  (void)co_await WriteDoubtful();
  const auto found = checkpoints_.find(name);
  if (found == checkpoints_.end()) co_return NoSuchCheckpoint(row_.name, name);
  const std::optional<state::v1::SavedRecord> saved = saved_;
  // One that went back already, and has not run since, may go elsewhere.
  const bool went_back = is_saved() && !saved_is_unreadable_ && !saved_->checkpoint().empty();
  if (went_back) saved_.reset();
  const absl::Status may = CheckCheckpointsMayChange("taken back to a checkpoint");
  if (!may.ok()) saved_ = saved;
  CO_RETURN_IF_ERROR(may);
  CheckpointRecord record = found->second;
  const bool memory = !record.memory_file().empty();
  if (const absl::Status fits = CheckReturnFits(record, how); !fits.ok()) {
    saved_ = saved;
    co_return fits;
  }
  CO_RETURN_IF_ERROR(co_await EndForReturn(name, memory));
  Reached("CHECKPOINT.ended");
  v1::VmSpec spec = spec_;
  const schema::ComputeSystem document = document_;
  std::set<std::string> left;
  std::set<std::string> former;
  for (CheckpointDisk& disk : *record.mutable_disks()) {
    const std::string file = DiskFile(disk);
    if (!file.empty()) left.insert(file);
    // Files that a VM was made with are nobody's to remove.
    const bool is_ours =
        !BelowOf(checkpoints_, file).empty() && !IsUsersOverlay(checkpoints_, file);
    if (is_ours) former.insert(file);
    disk.set_overlay(how.disks.at(disk.name()).overlay);
    disk.clear_overlay_kept();
    SetDiskFile(disk, disk.overlay(), "qcow2");
  }
  ForgetSaved();
  if (memory) saved_ = MemoryOf(name, record);
  if (how.size) document_.virtual_machine.compute_topology = *how.size;
  row_.desired_state = "stopped";
  CheckpointRecords changed = WithoutOverlays(checkpoints_, left);
  const std::string before = CurrentCheckpoint(checkpoints_);
  if (!before.empty() && before != name) {
    changed.try_emplace(before, checkpoints_[before]);
    changed[before].set_current(false);
  }
  record.set_current(true);
  changed[name] = record;
  CheckpointRecords unchanged;
  for (const auto& [each, its] : changed) unchanged[each] = checkpoints_[each];
  const absl::Status stored = co_await PutCheckpoints(std::move(changed));
  if (!stored.ok()) {
    // What was set meanwhile stays.
    CopySettings(spec_, &spec);
    spec_ = std::move(spec);
    document_ = document;
    saved_ = saved;
    if (memory) TellEnded();
    // It may be written down all the same, and would be what a restart goes by.
    for (auto& [each, its] : unchanged) doubtful_[each] = its;
    const absl::Status as_before = co_await WriteDoubtful();
    if (how.in_doubt) *how.in_doubt = !as_before.ok();
    co_return stored;
  }
  Reached("CHECKPOINT.returned");
  // Only now that it is decided. Its memory has it, too.
  const absl::Status remembers = co_await firmware_.Put(record.firmware_store());
  std::string went = absl::StrCat("it went back to checkpoint ", name);
  if (!remembers.ok()) {
    absl::StrAppend(&went, ", but its firmware remembers what came after: ", remembers.message());
    spdlog::error("vm {}: {}", row_.name, went);
  }
  SetPhase(Phase::kStopped, std::move(went));
  Reached("CHECKPOINT.back");
  for (const CheckpointDisk& disk : record.disks()) {
    if (disk.container_id().empty() || deps_.scratch == nullptr) continue;
    std::string id = disk.container_id();
    std::string file = disk.overlay();
    // With memory its containers' records come back with that.
    const absl::Status put = co_await deps_.scratch->Put(std::move(id), std::move(file));
    if (!put.ok()) spdlog::error("vm {}: {}", row_.name, put.ToString());
  }
  co_await RemoveUnused(std::move(former));
  deps_.events.Publish("vm.went_back", row_.id, {{"name", row_.name}, {"checkpoint", name}});
  spdlog::warn("vm {}: it went back to checkpoint {}; what it prints from here on is of that time",
               row_.name, name);
  co_return record;
}

}  // namespace ferry::vm
