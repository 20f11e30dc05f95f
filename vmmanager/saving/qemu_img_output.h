#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmmanager/sandbox/overlay_files.h"

// What qemu-img prints, and what a qcow2 file says without it. Without I/O.
namespace ferry::vm {

// Of `qemu-img info --output=json` of a file; without whether it is empty. FAILED_PRECONDITION if
// it is encrypted, damaged, or has its data in yet another place.
absl::StatusOr<DiskImage> ParseImageInfo(const std::string& json);

// Of `qemu-img measure --output=json`: the bytes that the file would have.
absl::StatusOr<uint64_t> ParseMeasured(const std::string& json);

// How much is done, 0 to 1, as `qemu-img convert -p` says in a piece of what it prints; the last of
// them counts.
std::optional<double> ParseConvertProgress(absl::string_view printed);
// Without what it printed of its progress.
std::string WithoutProgress(absl::string_view printed);

// Where a qcow2 file's first-level table is.
struct Qcow2Table {
  uint64_t offset = 0;
  uint64_t entries = 0;
  bool has_snapshots = false;
};
inline constexpr size_t kQcow2TableHead = 72;  // how much of the file's start that takes
// FAILED_PRECONDITION if it is no qcow2 file.
absl::StatusOr<Qcow2Table> ParseQcow2Table(absl::string_view start);

}  // namespace ferry::vm
