// The fake's files on top of its disks, and its saving while the guest runs.
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/backend/fake_backend.h"
#include "vmmanager/schema/attachments.h"

namespace ferry::vm {

namespace {

constexpr uint64_t kMergedBytes = 1 << 20;

bool IsThere(schema::SystemState state) {
  return state == schema::SystemState::kRunning || state == schema::SystemState::kPaused;
}

}  // namespace

schema::Attachment* FakeComputeSystem::DiskAt(const DiskPlace& place) {
  if (auto* disk = schema::FindAttachment(&machine_->document, place.controller, place.lun)) {
    return disk;
  }
  const auto added = machine_->disks.find(
      StrCat("VirtualMachine/Devices/Scsi/", place.controller, "/Attachments/", place.lun));
  return added == machine_->disks.end() ? nullptr : &added->second;
}

// The scripts "SaveBehind" and "SaveBehindRunning" make it fail before and after the guest runs.
Task<absl::Status> FakeComputeSystem::SaveBehind(const schema::SaveOptions&, UniqueFd stream,
                                                 std::function<void()> on_running) {
  if (machine_->state != schema::SystemState::kPaused) {
    co_return AsNothingChanged(WrongState("be saved while it runs; pause it first"));
  }
  auto let_go = std::make_shared<AsyncEvent>(executor_);
  let_go_ = let_go;
  const absl::Cleanup over = [this, let_go] {
    let_go_.reset();
    let_go->Set();
  };
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await script_->Pass("SaveBehind")));
  if (exited_) co_return WrongState("be saved while it runs");
  const uint64_t then = machine_->counter;
  SetRunning(true);
  let_go->Set();
  if (on_running) on_running();
  CO_RETURN_IF_ERROR(co_await script_->Pass("SaveBehindRunning"));
  if (exited_) co_return absl::UnavailableError("the VM ended while it was saved");
  co_return WriteState(stream, then);
}

Task<absl::Status> FakeComputeSystem::AddOverlays(std::vector<DiskOverlay> overlays) {
  if (!IsThere(machine_->state)) co_return WrongState("go on in new files");
  std::set<DiskPlace> named;
  for (const DiskOverlay& overlay : overlays) {
    const schema::Attachment* disk = DiskAt(overlay.disk);
    if (disk == nullptr) {
      co_return absl::NotFoundError(StrCat("there is no disk at ", ToText(overlay.disk)));
    }
    if (!named.insert(overlay.disk).second) {
      co_return absl::InvalidArgumentError(
          StrCat("the disk at ", ToText(overlay.disk), " is named twice"));
    }
    if (disk->read_only) {
      co_return absl::FailedPreconditionError(
          StrCat("the disk at ", ToText(overlay.disk), " is only read"));
    }
  }
  CO_RETURN_IF_ERROR(co_await script_->Pass("AddOverlays"));
  if (exited_) co_return WrongState("go on in new files");
  for (const DiskOverlay& overlay : overlays) {
    schema::Attachment& disk = *DiskAt(overlay.disk);
    script_->backing_files[overlay.file] = disk.path;
    disk.path = overlay.file;
    disk.format = "qcow2";
  }
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::MergeOverlay(DiskPlace place, std::string format,
                                                   PlaceDiskFile put, MergeProgress progress) {
  if (!IsThere(machine_->state)) co_return WrongState("merge its files");
  const schema::Attachment* before = DiskAt(place);
  if (before == nullptr) {
    co_return absl::NotFoundError(StrCat("there is no disk at ", ToText(place)));
  }
  const auto below = script_->backing_files.find(before->path);
  if (below == script_->backing_files.end()) {
    co_return absl::FailedPreconditionError(
        StrCat("the disk at ", ToText(place), " has no file below ", before->path));
  }
  const std::string file = below->second;
  if (progress) progress(0, kMergedBytes);
  CO_RETURN_IF_ERROR(co_await script_->Pass("MergeOverlay"));
  CO_RETURN_IF_ERROR(co_await ChangeOver("MergeOverlaySwitch", std::move(put)));
  schema::Attachment& disk = *DiskAt(place);
  disk.path = file;
  disk.format = std::move(format);
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::MoveDisk(DiskPlace place, DiskTarget target,
                                               PlaceDiskFile put, MergeProgress progress) {
  if (!IsThere(machine_->state)) co_return WrongState("move its disks");
  const schema::Attachment* before = DiskAt(place);
  if (before == nullptr) {
    co_return absl::NotFoundError(StrCat("there is no disk at ", ToText(place)));
  }
  if (before->read_only) {
    co_return absl::FailedPreconditionError(StrCat("the disk at ", ToText(place), " is only read"));
  }
  if (progress) progress(0, kMergedBytes);
  CO_RETURN_IF_ERROR(co_await script_->Pass("MoveDisk"));
  if (target.ready) CO_RETURN_IF_ERROR(co_await target.ready());
  CO_RETURN_IF_ERROR(co_await ChangeOver("MoveDiskSwitch", std::move(put)));
  schema::Attachment& disk = *DiskAt(place);
  disk.path = target.file;
  disk.format = target.format;
  co_return absl::OkStatus();
}

// The moment in which a disk changes over to another file.
Task<absl::Status> FakeComputeSystem::ChangeOver(std::string verb, PlaceDiskFile put) {
  if (exited_) co_return WrongState("let a disk change over");
  const bool ran = machine_->state == schema::SystemState::kRunning;
  if (ran) SetRunning(false);
  absl::Status may;
  // Whoever waits for a VMM's answer hears of its end at once.
  using asio::experimental::awaitable_operators::operator||;
  if (put) {
    auto first = co_await (put(true) || ended_.Wait());
    if (first.index() != 0) co_return absl::UnavailableError("the VMM ended while it merged");
    may = std::get<0>(std::move(first));
  }
  if (may.ok()) may = co_await script_->Pass(std::move(verb));
  if (exited_) co_return WrongState("let a disk change over");
  if (!may.ok() && put) {
    const absl::Status back = co_await put(false);
    if (!back.ok()) co_return absl::UnavailableError(back.message());
  }
  if (ran) SetRunning(true);
  co_return may;
}

Task<absl::Status> FakeComputeSystem::MergeLowerOverlay(LowerOverlay lower,
                                                        MergeProgress progress) {
  if (!IsThere(machine_->state)) co_return WrongState("merge its files");
  const schema::Attachment* disk = DiskAt(lower.disk);
  if (disk == nullptr) {
    co_return absl::NotFoundError(StrCat("there is no disk at ", ToText(lower.disk)));
  }
  if (progress) progress(0, kMergedBytes);
  CO_RETURN_IF_ERROR(co_await script_->Pass("MergeLowerOverlay"));
  if (exited_) co_return WrongState("merge its files");
  std::map<std::string, std::string>& backing = script_->backing_files;
  std::string above = disk->path;
  while (backing.contains(above) && backing[above] != lower.file && backing[above] != lower.below) {
    above = backing[above];
  }
  const bool merged = backing.contains(above) && backing[above] == lower.below;
  if (merged && above != lower.file) co_return absl::OkStatus();
  const auto under = backing.find(lower.file);
  if (merged || !backing.contains(above) || under == backing.end() ||
      under->second != lower.below) {
    co_return absl::FailedPreconditionError(StrCat("the disk at ", ToText(lower.disk),
                                                   " has not got ", lower.file, " over ",
                                                   lower.below, " below what it is written to"));
  }
  backing.erase(under);
  backing[above] = lower.below;
  co_return absl::OkStatus();
}

Task<absl::StatusOr<DiskFiles>> FakeComputeSystem::ListDiskFiles() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ListDiskFiles"));
  if (!IsThere(machine_->state)) co_return WrongState("be asked for its files");
  DiskFiles files;
  for (const auto& [place, disk] : Disks()) {
    if (!disk.read_only) files[place] = disk.path;
  }
  co_return files;
}

}  // namespace ferry::vm
