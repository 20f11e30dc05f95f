#include "vmmanager/backend/snapshots.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::vm {
namespace {

// How many states of that tag a disk has; a tool beside us may have made a second one.
size_t CountOf(const DiskSnapshots& disk, const std::string& tag) {
  return static_cast<size_t>(
      std::count_if(disk.snapshots.begin(), disk.snapshots.end(),
                    [&tag](const DiskSnapshot& snapshot) { return snapshot.tag == tag; }));
}

const DiskSnapshots* DiskAt(const std::vector<DiskSnapshots>& present, const DiskPlace& place) {
  const auto found =
      std::find_if(present.begin(), present.end(),
                   [&place](const DiskSnapshots& disk) { return disk.disk == place; });
  return found == present.end() ? nullptr : &*found;
}

absl::Status NoSuchDisk(const DiskPlace& place) {
  return absl::NotFoundError(StrCat("there is no disk at ", ToText(place)));
}

}  // namespace

std::string ToText(const DiskPlace& place) {
  return StrCat("Scsi/", place.controller, "/", place.lun);
}

absl::Status CheckTagIsNew(const std::vector<DiskSnapshots>& present, const std::string& tag) {
  for (const DiskSnapshots& disk : present) {
    if (CountOf(disk, tag) == 0) continue;
    return absl::AlreadyExistsError(
        StrCat("the disk at ", ToText(disk.disk), " has a snapshot '", tag, "' already"));
  }
  return absl::OkStatus();
}

absl::Status CheckCanBeLoaded(const std::vector<DiskSnapshots>& present,
                              const SnapshotOptions& options) {
  std::string lacking;
  for (const DiskPlace& place : options.disks) {
    const DiskSnapshots* disk = DiskAt(present, place);
    if (disk == nullptr) return NoSuchDisk(place);
    const size_t count = CountOf(*disk, options.tag);
    if (count > 1) {
      return absl::FailedPreconditionError(
          StrCat("the disk at ", ToText(place), " has ", count, " snapshots '", options.tag, "'"));
    }
    if (count == 0) lacking += StrCat(lacking.empty() ? "" : ", ", ToText(place));
  }
  if (!lacking.empty()) {
    return absl::NotFoundError(
        StrCat("there is no snapshot '", options.tag, "' in the disk at ", lacking));
  }
  const DiskSnapshots* memory = DiskAt(present, options.vm_state);
  if (memory == nullptr) return NoSuchDisk(options.vm_state);
  for (const DiskSnapshot& snapshot : memory->snapshots) {
    if (snapshot.tag == options.tag && snapshot.vm_state_bytes != 0) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(StrCat("the snapshot '", options.tag, "' in the disk at ",
                                              ToText(options.vm_state),
                                              " is of the disk alone: there is no memory in it"));
}

absl::StatusOr<std::vector<DiskPlace>> DisksWithTag(const std::vector<DiskSnapshots>& present,
                                                    const std::vector<DiskPlace>& disks,
                                                    const std::string& tag) {
  std::vector<DiskPlace> with;
  for (const DiskPlace& place : disks) {
    const DiskSnapshots* disk = DiskAt(present, place);
    if (disk == nullptr) return NoSuchDisk(place);
    with.insert(with.end(), CountOf(*disk, tag), place);
  }
  if (!with.empty()) return with;
  return absl::NotFoundError(StrCat("no disk has a snapshot '", tag, "'"));
}

absl::Status AsNothingChanged(absl::Status status) {
  if (!status.ok()) status.SetPayload(kNothingChanged, absl::Cord());
  return status;
}

bool GotNoAnswer(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

}  // namespace ferry::vm
