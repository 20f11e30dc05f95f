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

namespace {

constexpr char kMoving[] = "given another file for a disk";

}  // namespace

absl::Status UtilityVm::CheckMayMove(const DiskMoveWish& wish) const {
  RETURN_IF_ERROR(CheckOwnDisksMayChange(kMoving));
  if (wish.control->called_off) return absl::CancelledError("it was called off");
  ASSIGN_OR_RETURN(const int index, FindOwnDisk(wish.disk));
  const v1::DiskSpec& disk = spec_.disks(index);
  if (disk.file() != wish.from) {
    return absl::AbortedError(
        absl::StrCat("disk ", wish.disk, " of VM ", row_.name, " changed meanwhile; try again"));
  }
  RETURN_IF_ERROR(CheckFileIsNew(wish.to));
  if (!disk.read_only() || system_ == nullptr) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("disk ", wish.disk, " of VM ", row_.name,
                   " is only read, and such a disk cannot change over while the VM runs"),
      "disk_is_read_only", absl::StrCat("Stop the VM first: ferryctl stop ", row_.name));
}

Task<absl::Status> UtilityVm::MoveOwnDisk(DiskMoveWish wish) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(co_await SettleMoveNow());
  CO_RETURN_IF_ERROR(CheckMayMove(wish));
  DiskMoveRecord record;
  record.set_schema_version(kStateSchemaVersion);
  record.set_disk(wish.disk);
  record.set_from(wish.from);
  record.set_to(wish.to);
  move_.record = std::move(record);
  absl::Status moved = co_await Persist();
  Reached("DISK_MOVE.recorded");
  const bool had_vmm = system_ != nullptr;
  if (moved.ok()) moved = co_await CopyUnlessCalledOff(&wish);
  CO_RETURN_IF_ERROR(CheckHere());
  if (!moved.ok() && had_vmm && !co_await HasEnded(moved)) co_await GoOnAfterMerge();
  co_return co_await EndMove(&wish, std::move(moved));
}

Task<absl::Status> UtilityVm::CopyUnlessCalledOff(DiskMoveWish* wish) {
  using asio::experimental::awaitable_operators::operator||;
  const bool had_vmm = system_ != nullptr;
  // What is about to change over comes to its end, so that the guest goes on.
  const std::function<bool()> stays = [this, had_vmm, control = wish->control] {
    const bool ends = control->called_off || (had_vmm && called_off()) || !session().empty();
    return control->changes_over || !ends;
  };
  auto ended = [](UtilityVm* vm, const std::function<bool()>* pending) -> Task<absl::Status> {
    while ((*pending)() && !vm->detached_) {
      (void)co_await vm->AwaitWhile(*pending, kAsLongAsItTakes);
    }
    co_return absl::OkStatus();
  };
  auto first = co_await (CopyAndChangeOver(wish) || ended(this, &stays));
  wish->control->changes_over = false;
  switches_ = false;
  Pulse();
  co_return first.index() == 0 ? std::get<0>(first) : absl::CancelledError("it was called off");
}

void UtilityVm::CallOffDiskMove(DiskMoveControl* control) {
  control->called_off = true;
  Pulse();
}

Task<absl::Status> UtilityVm::CopyAndChangeOver(DiskMoveWish* wish) {
  const DiskImage& image = wish->image;
  CO_ASSIGN_OR_RETURN(wish->to_inode, co_await wish->files->Reserve(wish->to, wish->from));
  move_.record->set_to_inode(wish->to_inode);
  CO_RETURN_IF_ERROR(co_await Persist());
  Reached("DISK_MOVE.reserved");
  // Its user may have put another file under the name meanwhile.
  std::function<Task<absl::Status>()> bring = [files = wish->files, to = wish->to,
                                               inode = wish->to_inode]() -> Task<absl::Status> {
    std::string file = to;
    co_return co_await files->BringToDisk(std::move(file), inode);
  };
  PlaceDiskFile place = [this, self = shared_from_this(), control = wish->control,
                         disk = wish->disk, from = wish->from, to = wish->to,
                         bring](bool there) -> Task<absl::Status> {
    // Until something is written down it can be called off, also by a file that hangs.
    if (there) CO_RETURN_IF_ERROR(co_await bring());
    control->changes_over = switches_ = true;
    std::string name = disk;
    std::string file = there ? to : from;
    const absl::Status placed = co_await PlaceOwnDisk(std::move(name), std::move(file));
    Reached(there ? "DISK_MOVE.placed" : "DISK_MOVE.put_back");
    co_return placed;
  };
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) {
    DiskCopy copy{
        .from = wish->from, .format = image.format, .to = wish->to, .inode = wish->to_inode};
    copy.to_format = image.format;
    copy.below = image.below;
    copy.below_format = image.below_format;
    copy.progress = [progress = wish->progress, bytes = image.used_bytes](double done) {
      if (progress) progress(static_cast<uint64_t>(done * static_cast<double>(bytes)), bytes);
    };
    CO_RETURN_IF_ERROR(co_await wish->files->Copy(std::move(copy)));
    co_return co_await place(true);
  }
  DiskShape shape{.file = wish->to,
                  .inode = wish->to_inode,
                  .format = image.format,
                  .bytes = image.bytes,
                  .below = image.below,
                  .below_format = image.below_format};
  CO_RETURN_IF_ERROR(co_await wish->files->Shape(std::move(shape)));
  const auto index = OwnDiskNamed(spec_, wish->disk);
  if (!index) co_return absl::AbortedError("the disk is gone");
  DiskPlace at{kDiskController, absl::StrCat(LunOf(spec_, *index))};
  DiskTarget target{wish->to, image.format, std::move(bring)};
  MergeProgress progress = wish->progress;
  co_return co_await system->MoveDisk(std::move(at), std::move(target), std::move(place),
                                      std::move(progress));
}

// However far it came.
Task<absl::Status> UtilityVm::EndMove(DiskMoveWish* wish, absl::Status moved) {
  using asio::experimental::awaitable_operators::operator||;
  const std::string disk = absl::StrCat("disk ", wish->disk, " of VM ", row_.name);
  const absl::Status settled = co_await SettleMoveNow();
  if (!settled.ok()) {
    SettleDiskMove();
    co_return absl::Status(
        settled.code(),
        absl::StrCat("it is not settled yet whether ", disk, " is in ", wish->from, " or in ",
                     wish->to, ", and both files stay: ", settled.message()));
  }
  const auto index = OwnDiskNamed(spec_, wish->disk);
  if (!index || spec_.disks(*index).file() != wish->to) {
    co_return absl::Status(moved.code(), absl::StrCat(disk, " stays in ", wish->from, ", and the ",
                                                      "VM ", WhatItDoes(), ": ", moved.message()));
  }
  deps_.events.Publish(
      "vm.disk_moved", row_.id,
      {{"name", row_.name}, {"disk", wish->disk}, {"from", wish->from}, {"to", wish->to}});
  if (wish->keep) co_return absl::OkStatus();
  const std::function<bool()> stays = [this, control = wish->control] {
    return !called_off() && !control->called_off;
  };
  auto first = co_await (RemoveFormer(wish) || AwaitWhile(stays, kAsLongAsItTakes));
  const bool ended = first.index() == 0;
  const absl::Status removed = ended ? std::get<0>(first) : absl::CancelledError("called off");
  if (removed.ok()) co_return removed;
  co_return absl::Status(
      removed.code(),
      absl::StrCat(disk, " is in ", wish->to, " now, and its former file ", wish->from,
                   ended ? " stays: " : " may still be there: ", removed.message()));
}

// Only by who has just moved it: whose the file is later nobody knows.
Task<absl::Status> UtilityVm::RemoveFormer(const DiskMoveWish* wish) {
  CO_RETURN_IF_ERROR(co_await wish->files->CheckReserved(wish->to, wish->to_inode));
  if (wish->may_remove) CO_RETURN_IF_ERROR(co_await wish->may_remove());
  OverlayWish former{.file = wish->from, .inode = wish->from_inode};
  co_return co_await wish->files->RemoveDraft(std::move(former));
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
  move_.is_unwritten = true;
  put(file);
  CO_RETURN_IF_ERROR(co_await WriteOwnDisks());
  std::move(unchanged).Cancel();
  move_.is_unwritten = false;
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::BelieveMovedDisk() {
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<ComputeSystem> system = system_;
  if (!move_.record.has_value()) co_return absl::OkStatus();
  const DiskMoveRecord record = *move_.record;
  const auto index = OwnDiskNamed(spec_, record.disk());
  if (!index) co_return absl::OkStatus();
  std::string file = spec_.disks(*index).file();
  if (system != nullptr) {
    const std::function<bool()> stays = [this] { return !called_off(); };
    auto first = co_await (system->ListDiskFiles() || AwaitWhile(stays, kAsLongAsItTakes));
    if (first.index() != 0) co_return CalledOff("asked for its disks");
    CO_RETURN_IF_ERROR(std::get<0>(first).status());
    const DiskFiles files = *std::get<0>(first);
    const auto now = files.find({kDiskController, absl::StrCat(LunOf(spec_, *index))});
    file = now == files.end() ? "" : now->second;
    if (file != record.from() && file != record.to()) {
      co_return absl::FailedPreconditionError(
          absl::StrCat("the VMM has disk ", record.disk(), " of VM ", row_.name, " neither in ",
                       record.from(), " nor in ", record.to(), ", but in \"", file, "\""));
    }
  }
  if (file == spec_.disks(*index).file() && !move_.is_unwritten) co_return absl::OkStatus();
  std::string name = record.disk();
  co_return co_await PlaceOwnDisk(std::move(name), std::move(file));
}

Task<absl::Status> UtilityVm::SettleMoveNow() {
  using asio::experimental::awaitable_operators::operator||;
  if (!move_.record.has_value()) co_return absl::OkStatus();
  if (move_.is_unreadable) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("VM ", row_.name, " has a disk on its way to another file, of which there is ",
                     "a record that this ferryd cannot read; use the one that wrote it"));
  }
  // Another host's copy may have the files.
  CO_RETURN_IF_ERROR(RefuseIfMigrating(kMoving));
  CO_RETURN_IF_ERROR(CheckArrived(kMoving));
  CO_RETURN_IF_ERROR(co_await BelieveMovedDisk());
  const DiskMoveRecord record = *move_.record;
  const auto index = OwnDiskNamed(spec_, record.disk());
  const std::string now = index ? spec_.disks(*index).file() : "";
  // First: nothing is removed twice, when another file may have the name, and the number.
  move_.record.reset();
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) {
    move_.record = record;
    co_return stored;
  }
  Reached("DISK_MOVE.settled");
  if (now != record.from() || record.to_inode() == 0 || deps_.overlays == nullptr) {
    co_return absl::OkStatus();
  }
  // Its storage may hang; then there is a file too many, which says so.
  OverlayWish draft{.file = record.to(), .inode = record.to_inode()};
  const std::function<bool()> stays = [this] { return !called_off(); };
  auto first = co_await (deps_.overlays->RemoveDraft(std::move(draft)) ||
                         AwaitWhile(stays, kAsLongAsItTakes));
  const absl::Status removed =
      first.index() == 0 ? std::get<0>(first) : absl::CancelledError("it was called off");
  if (!removed.ok()) {
    spdlog::warn("vm {}: {} is of no use, and stays: {}", row_.name, record.to(),
                 removed.ToString());
  }
  co_return absl::OkStatus();
}

void UtilityVm::SettleDiskMove() {
  if (!move_.record.has_value() || std::exchange(move_.settles, true)) return;
  Spawn(deps_.executor, SettleMoveLater(shared_from_this()));
}

Task<void> UtilityVm::SettleMoveLater(std::shared_ptr<UtilityVm> self) {
  const std::function<bool()> stays = [self] { return self->CheckHere().ok(); };
  while (stays() && self->move_.record.has_value()) {
    {
      const AsyncMutex::Guard lock = co_await self->operation_.Lock();
      absl::Status settled;
      if (stays()) settled = co_await self->SettleMoveNow();
      if (!settled.ok()) spdlog::warn("vm {}: {}", self->row_.name, settled.ToString());
    }
    if (!self->move_.record.has_value() || self->move_.is_unreadable) break;
    (void)co_await self->AwaitWhile(stays, self->deps_.settings.retry_pause);
  }
  self->move_.settles = false;
}

}  // namespace ferry::vm
