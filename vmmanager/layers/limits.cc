#include "vmmanager/layers/limits.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/disk_space.h"

namespace ferry::layers {
namespace {

// So much is written between two looks at how full the disk is.
constexpr uint64_t kDiskStep = uint64_t{16} << 20;

}  // namespace

absl::Status Budget::TooMuch() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("it unpacks to more than the ", limits_.bytes, " bytes that are allowed"));
}

absl::Status Budget::SpendBytes(uint64_t bytes) {
  if (bytes > limits_.bytes - bytes_) return TooMuch();
  bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status Budget::SpendFile(uint64_t size) {
  if (size > limits_.bytes - file_bytes_) return TooMuch();
  file_bytes_ += size;
  return absl::OkStatus();
}

absl::Status Budget::SpendDisk(uint64_t bytes) {
  if (bytes > disk_bytes_) {
    ASSIGN_OR_RETURN(const uint64_t free, FreeBytes(disk_));
    const uint64_t step = bytes + kDiskStep;
    if (free < step || free - step < limits_.reserve) return TooFull(free);
    disk_bytes_ = step;
  }
  disk_bytes_ -= bytes;
  return absl::OkStatus();
}

absl::Status Budget::SpendEntry() {
  if (entries_ == limits_.entries) {
    return absl::ResourceExhaustedError(
        absl::StrCat("it holds more than the ", limits_.entries, " files that are allowed"));
  }
  ++entries_;
  return absl::OkStatus();
}

}  // namespace ferry::layers
