// The part of UtilityVm that lets a disk of its own go on in another file.
#include <spdlog/spdlog.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

using state::v1::DiskMoveRecord;

absl::Status UtilityVm::CheckMayMove(const DiskMoveWish& wish) const {
  RETURN_IF_ERROR(CheckOwnDisksMayChange("given another file for a disk"));
  ASSIGN_OR_RETURN(const int index, FindOwnDisk(wish.disk));
  const v1::DiskSpec& disk = spec_.disks(index);
  if (disk.file() != wish.from) {
    return absl::AbortedError(
        absl::StrCat("disk ", wish.disk, " of VM ", row_.name, " changed meanwhile; try again"));
  }
  if (deps_.overlays == nullptr) return absl::UnimplementedError("there is no qemu-img here");
  RETURN_IF_ERROR(CheckFileIsNew(wish.to));
  if (!disk.read_only() || system_ == nullptr) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("disk ", wish.disk, " of VM ", row_.name,
                   " is only read, and such a disk cannot change over while the VM runs"),
      "disk_is_read_only", absl::StrCat("Stop the VM first: ferryctl stop ", row_.name));
}

Task<absl::Status> UtilityVm::MoveOwnDisk(DiskMoveWish wish) {
  using asio::experimental::awaitable_operators::operator||;
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(co_await SettleMoveNow());
  CO_RETURN_IF_ERROR(CheckMayMove(wish));
  DiskMoveRecord record;
  record.set_schema_version(kStateSchemaVersion);
  record.set_disk(wish.disk);
  record.set_from(wish.from);
  record.set_from_inode(wish.from_inode);
  record.set_to(wish.to);
  record.set_keep(wish.keep);
  moving_ = std::move(record);
  move_is_called_off_ = false;
  absl::Status moved = co_await Persist();
  Reached("DISK_MOVE.recorded");
  const bool had_vmm = system_ != nullptr;
  if (moved.ok()) {
    // What is about to change over comes to its end, so that the guest goes on.
    const std::function<bool()> stays = [this, had_vmm] {
      return switches_ || (!move_is_called_off_ && !(had_vmm && called_off()));
    };
    auto first = co_await (CopyAndChangeOver(&wish) || AwaitWhile(stays, kAsLongAsItTakes));
    switches_ = false;
    Pulse();
    CO_RETURN_IF_ERROR(CheckHere());
    moved = first.index() == 0 ? std::get<0>(first) : absl::CancelledError("it was called off");
  }
  if (!moved.ok() && had_vmm && !co_await HasEnded(moved)) co_await GoOnAfterMerge();
  // Its files may be on storage that hangs.
  const bool in_haste = had_vmm && called_off();
  absl::Status settled = in_haste ? CalledOff("given another file for a disk") : absl::OkStatus();
  if (!in_haste) settled = co_await SettleMoveNow();
  if (moving_.has_value()) SettleDiskMove();
  if (moved.ok()) co_return settled;
  if (!settled.ok()) spdlog::warn("vm {}: {}", row_.name, settled.ToString());
  co_return absl::Status(
      moved.code(), absl::StrCat("disk ", wish.disk, " of VM ", row_.name, " stays in ", wish.from,
                                 ", and the VM ", WhatItDoes(), ": ", moved.message()));
}

absl::Status UtilityVm::CallOffDiskMove() {
  if (switches_) return absl::FailedPreconditionError("the disk is just changing over");
  move_is_called_off_ = true;
  Pulse();
  return absl::OkStatus();
}

Task<absl::Status> UtilityVm::CopyAndChangeOver(const DiskMoveWish* wish) {
  const DiskImage& image = wish->image;
  CO_ASSIGN_OR_RETURN(const uint64_t inode, co_await deps_.overlays->Reserve(wish->to, wish->from));
  moving_->set_to_inode(inode);
  CO_RETURN_IF_ERROR(co_await Persist());
  Reached("DISK_MOVE.reserved");
  PlaceDiskFile place = [this, self = shared_from_this(), disk = wish->disk, from = wish->from,
                         to = wish->to](bool there) -> Task<absl::Status> {
    switches_ = true;
    std::string name = disk;
    std::string file = there ? to : from;
    const absl::Status placed = co_await PlaceOwnDisk(std::move(name), std::move(file));
    Reached(there ? "DISK_MOVE.placed" : "DISK_MOVE.put_back");
    co_return placed;
  };
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) {
    DiskCopy copy{.from = wish->from, .format = image.format, .to = wish->to, .inode = inode};
    copy.to_format = image.format;
    copy.below = image.below;
    copy.below_format = image.below_format;
    copy.progress = [progress = wish->progress, bytes = image.used_bytes](double done) {
      if (progress) progress(static_cast<uint64_t>(done * static_cast<double>(bytes)), bytes);
    };
    CO_RETURN_IF_ERROR(co_await deps_.overlays->Copy(std::move(copy)));
    co_return co_await place(true);
  }
  DiskShape shape{.file = wish->to,
                  .inode = inode,
                  .format = image.format,
                  .bytes = image.bytes,
                  .below = image.below,
                  .below_format = image.below_format};
  CO_RETURN_IF_ERROR(co_await deps_.overlays->Shape(std::move(shape)));
  const auto index = OwnDiskNamed(spec_, wish->disk);
  if (!index) co_return absl::AbortedError("the disk is gone");
  DiskPlace at{kDiskController, absl::StrCat(LunOf(spec_, *index))};
  DiskTarget target{wish->to, image.format};
  MergeProgress progress = wish->progress;
  co_return co_await system->MoveDisk(std::move(at), std::move(target), std::move(place),
                                      std::move(progress));
}

Task<absl::Status> UtilityVm::PlaceOwnDisk(std::string name, std::string file) {
  const auto index = OwnDiskNamed(spec_, name);
  if (!index) co_return absl::AbortedError(absl::StrCat("disk ", name, " is gone"));
  const std::string lun = absl::StrCat(LunOf(spec_, *index));
  const auto put = [this, index = *index, lun](const std::string& path) {
    spec_.mutable_disks(index)->set_file(path);
    document_.virtual_machine.devices.scsi[kDiskController].attachments[lun].path = path;
  };
  // Also of whoever is cut off while it waits, for instance because the VMM died.
  absl::Cleanup unchanged = [this, self = shared_from_this(), put,
                             before = spec_.disks(*index).file()] {
    put(before);
    row_.document_json = schema::ToJson(document_);
    const absl::Status encoded = WriteSpec(spec_, &row_.spec_json);
    if (!encoded.ok()) spdlog::error("vm {}: {}", row_.name, encoded.ToString());
  };
  // A write that failed may have been done all the same.
  move_is_unwritten_ = true;
  put(file);
  CO_RETURN_IF_ERROR(co_await WriteOwnDisks());
  std::move(unchanged).Cancel();
  move_is_unwritten_ = false;
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::BelieveMovedDisk() {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<ComputeSystem> system = system_;
  if (!moving_.has_value()) co_return absl::OkStatus();
  const DiskMoveRecord record = *moving_;
  const auto index = OwnDiskNamed(spec_, record.disk());
  if (!index) co_return absl::OkStatus();
  std::string file = spec_.disks(*index).file();
  if (system != nullptr) {
    const std::function<bool()> stays = [this] { return !called_off(); };
    auto first = co_await (system->ListDiskFiles() || AwaitWhile(stays, kAsLongAsItTakes));
    if (first.index() != 0) co_return CalledOff("asked for its disks");
    CO_RETURN_IF_ERROR(std::get<0>(first).status());
    const auto now =
        std::get<0>(first)->find({kDiskController, absl::StrCat(LunOf(spec_, *index))});
    if (now == std::get<0>(first)->end()) co_return absl::OkStatus();
    const bool known = now->second == record.from() || now->second == record.to();
    if (known) file = now->second;
  }
  if (file == spec_.disks(*index).file() && !move_is_unwritten_) co_return absl::OkStatus();
  std::string name = record.disk();
  co_return co_await PlaceOwnDisk(std::move(name), std::move(file));
}

Task<absl::Status> UtilityVm::SettleMoveNow() {
  if (!moving_.has_value()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await BelieveMovedDisk());
  const DiskMoveRecord record = *moving_;
  const auto index = OwnDiskNamed(spec_, record.disk());
  const bool moved = index.has_value() && spec_.disks(*index).file() == record.to();
  absl::Status removed;
  if (!moved) {
    OverlayWish draft{.file = record.to(), .inode = record.to_inode()};
    CO_RETURN_IF_ERROR(co_await deps_.overlays->RemoveDraft(std::move(draft)));
  } else if (!record.keep()) {
    OverlayWish former{.file = record.from(), .inode = record.from_inode()};
    removed = co_await deps_.overlays->RemoveDraft(std::move(former));
  }
  Reached("DISK_MOVE.tidied");
  moving_.reset();
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) {
    moving_ = record;
    co_return stored;
  }
  if (!moved) co_return absl::OkStatus();
  deps_.events.Publish(
      "vm.disk_moved", row_.id,
      {{"name", row_.name}, {"disk", record.disk()}, {"from", record.from()}, {"to", record.to()}});
  if (removed.ok()) co_return absl::OkStatus();
  co_return absl::Status(removed.code(),
                         absl::StrCat("disk ", record.disk(), " of VM ", row_.name, " is in ",
                                      record.to(), " now, but its former file ", record.from(),
                                      " could not be removed: ", removed.message()));
}

void UtilityVm::SettleDiskMove() {
  if (!moving_.has_value() || std::exchange(settles_move_, true)) return;
  Spawn(deps_.executor, SettleMoveLater(shared_from_this()));
}

Task<void> UtilityVm::SettleMoveLater(std::shared_ptr<UtilityVm> self) {
  const std::function<bool()> stays = [self] { return self->CheckHere().ok(); };
  while (stays() && self->moving_.has_value()) {
    {
      const AsyncMutex::Guard lock = co_await self->operation_.Lock();
      absl::Status settled;
      if (stays()) settled = co_await self->SettleMoveNow();
      if (!settled.ok()) spdlog::warn("vm {}: {}", self->row_.name, settled.ToString());
    }
    if (!self->moving_.has_value()) break;
    (void)co_await self->AwaitWhile(stays, self->deps_.settings.retry_pause);
  }
  self->settles_move_ = false;
}

}  // namespace ferry::vm
