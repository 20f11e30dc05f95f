#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Snapshots inside disks, as the backend port knows them: a state of one or more disks under a tag,
// and in one of them the machine's memory as of that instant.
namespace ferry::vm {

// Type of an error's payload, of no content: the call was refused, and the system is as it was.
inline constexpr char kNothingChanged[] = "ferry.vm/nothing_changed";

// Where a disk is in its machine; both are numbers as text, as in the machine's document.
struct DiskPlace {
  std::string controller;
  std::string lun;
  auto operator<=>(const DiskPlace&) const = default;
};

// For people, e.g. "Scsi/0/1".
std::string ToText(const DiskPlace& place);

struct SnapshotOptions {
  std::string tag;
  std::vector<DiskPlace> disks;  // each is named; nothing is guessed
  DiskPlace vm_state;            // the one of them that takes the memory
};

// One state of one disk.
struct DiskSnapshot {
  std::string tag;
  uint64_t vm_state_bytes = 0;  // of the machine's memory and devices; 0: of the disk alone
  uint64_t taken_unix_ms = 0;
};

struct DiskSnapshots {
  DiskPlace disk;
  std::vector<DiskSnapshot> snapshots;
};

// What every backend refuses, before anything is done. `present` is what ListSnapshots() said.
// ALREADY_EXISTS if any disk, whether it is to be saved or not, has that tag.
absl::Status CheckTagIsNew(const std::vector<DiskSnapshots>& present, const std::string& tag);
// NOT_FOUND, naming the disks, unless each has the tag; FAILED_PRECONDITION if one has it twice, or
// if there is no memory where that should be.
absl::Status CheckCanBeLoaded(const std::vector<DiskSnapshots>& present,
                              const SnapshotOptions& options);
// Those of `disks` that have the tag, as often as they have it; NOT_FOUND if none does.
absl::StatusOr<std::vector<DiskPlace>> DisksWithTag(const std::vector<DiskSnapshots>& present,
                                                    const std::vector<DiskPlace>& disks,
                                                    const std::string& tag);

// `status` marked with kNothingChanged.
absl::Status AsNothingChanged(absl::Status status);
// Whether a VMM gave no answer: what it was told may have happened, or happen later.
bool GotNoAnswer(const absl::Status& status);

}  // namespace ferry::vm
