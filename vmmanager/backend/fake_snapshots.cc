// Snapshots in the fake's disks.
#include <algorithm>
#include <string_view>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/backend/fake_backend.h"

namespace ferry::vm {

namespace {

constexpr uint64_t kFakeStateBytes = 4096;

bool CanHoldSnapshots(const schema::Attachment& disk) {
  return disk.format == "qcow2" && !disk.read_only;
}

}  // namespace

std::map<DiskPlace, schema::Attachment> FakeComputeSystem::Disks() const {
  std::map<DiskPlace, schema::Attachment> disks;
  for (const auto& [controller, scsi] : machine_->document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) disks[{controller, lun}] = disk;
  }
  // VirtualMachine/Devices/Scsi/CONTROLLER/Attachments/LUN
  constexpr std::string_view kBefore = "VirtualMachine/Devices/Scsi/";
  constexpr std::string_view kBetween = "/Attachments/";
  for (const auto& [path, disk] : machine_->disks) {
    const size_t middle = path.find(kBetween);
    if (path.rfind(kBefore, 0) != 0 || middle == std::string::npos) continue;
    disks[{path.substr(kBefore.size(), middle - kBefore.size()),
           path.substr(middle + kBetween.size())}] = disk;
  }
  return disks;
}

std::vector<DiskSnapshots> FakeComputeSystem::Snapshots() const {
  std::vector<DiskSnapshots> all;
  for (const auto& [place, disk] : Disks()) {
    if (disk.format != "qcow2") continue;
    DiskSnapshots of{.disk = place, .snapshots = {}};
    for (const FakeDiskSnapshot& snapshot : script_->snapshots[disk.path]) {
      of.snapshots.push_back(snapshot.seen);
    }
    all.push_back(std::move(of));
  }
  return all;
}

absl::Status FakeComputeSystem::CheckSnapshotDisks(const SnapshotOptions& options) const {
  if (options.disks.empty()) {
    return absl::InvalidArgumentError("a snapshot needs at least one disk");
  }
  const auto disks = Disks();
  for (const DiskPlace& place : options.disks) {
    const auto found = disks.find(place);
    if (found == disks.end()) {
      return absl::NotFoundError(StrCat("there is no disk at ", ToText(place)));
    }
    if (CanHoldSnapshots(found->second)) continue;
    return absl::FailedPreconditionError(
        StrCat("the disk at ", ToText(place), " cannot hold snapshots"));
  }
  const auto& named = options.disks;
  if (std::find(named.begin(), named.end(), options.vm_state) != named.end()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat("the disk at ", ToText(options.vm_state),
                                           " is to take the memory, and is not in the snapshot"));
}

Task<absl::Status> FakeComputeSystem::SaveSnapshot(SnapshotOptions options) {
  if (machine_->state != schema::SystemState::kPaused) {
    co_return AsNothingChanged(WrongState("be saved in a snapshot"));
  }
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckSnapshotDisks(options)));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckTagIsNew(Snapshots(), options.tag)));
  CO_RETURN_IF_ERROR(co_await script_->Pass("SaveSnapshot"));
  if (exited_) co_return WrongState("be saved in a snapshot");
  const auto disks = Disks();
  for (const DiskPlace& place : options.disks) {
    FakeDiskSnapshot snapshot;
    snapshot.seen = {options.tag, place == options.vm_state ? kFakeStateBytes : 0, NowUnixMs()};
    snapshot.counter = machine_->counter;
    script_->snapshots[disks.at(place).path].push_back(std::move(snapshot));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::LoadSnapshot(SnapshotOptions options) {
  if (machine_->state != schema::SystemState::kPaused) {
    co_return AsNothingChanged(WrongState("go back to a snapshot"));
  }
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckSnapshotDisks(options)));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckCanBeLoaded(Snapshots(), options)));
  CO_RETURN_IF_ERROR(co_await script_->Pass("LoadSnapshot"));
  if (exited_) co_return WrongState("go back to a snapshot");
  const auto disks = Disks();
  for (const FakeDiskSnapshot& snapshot : script_->snapshots[disks.at(options.vm_state).path]) {
    if (snapshot.seen.tag == options.tag) machine_->counter = snapshot.counter;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> FakeComputeSystem::DeleteSnapshot(std::string tag,
                                                     std::vector<DiskPlace> disks) {
  if (machine_->state != schema::SystemState::kPaused && machine_->state != SystemState::kRunning) {
    co_return AsNothingChanged(WrongState("be rid of a snapshot"));
  }
  auto with = DisksWithTag(Snapshots(), disks, tag);
  CO_RETURN_IF_ERROR(AsNothingChanged(with.status()));
  CO_RETURN_IF_ERROR(co_await script_->Pass("DeleteSnapshot"));
  const auto all = Disks();
  for (const DiskPlace& place : *with) {
    std::erase_if(script_->snapshots[all.at(place).path],
                  [&tag](const FakeDiskSnapshot& snapshot) { return snapshot.seen.tag == tag; });
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<DiskSnapshots>>> FakeComputeSystem::ListSnapshots() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ListSnapshots"));
  if (machine_->state != schema::SystemState::kPaused && machine_->state != SystemState::kRunning) {
    co_return WrongState("be asked for snapshots");
  }
  co_return Snapshots();
}

}  // namespace ferry::vm
