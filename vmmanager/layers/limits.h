#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace ferry::layers {

// What one import may hold, whatever its headers say.
struct Limits {
  uint64_t bytes = uint64_t{64} << 30;  // of everything, unpacked, and of all files, holes and all
  uint64_t entries = 1'000'000;         // files, folders, links of all layers
  size_t layers = 127;
  size_t document_bytes = size_t{1} << 20;  // of one index, manifest or configuration
  uint64_t reserve = 0;                     // bytes that stay free on the disk, for others
};

// Names, as the guest's kernel takes them.
inline constexpr size_t kMaxName = 255;
inline constexpr size_t kMaxPath = 4095;
inline constexpr size_t kMaxDepth = 255;
// Of one file, encoded: they have to fit beside it into one block.
inline constexpr size_t kMaxXattrBytes = 2048;

// What is left of the limits while the parts of an import are unpacked one after the other.
class Budget {
 public:
  // `disk` is a descriptor, the caller's, on the file system that is written to.
  Budget(const Limits& limits, int disk) : limits_(limits), disk_(disk) {}

  const Limits& limits() const { return limits_; }

  // RESOURCE_EXHAUSTED if there is more than the limits allow. Bytes are those that are read;
  // files count once more with the size that they have, which holes may make larger.
  absl::Status SpendBytes(uint64_t bytes);
  absl::Status SpendFile(uint64_t size);
  absl::Status SpendEntry();
  // Of what is about to be written. UNAVAILABLE if that leaves less than the reserve.
  absl::Status SpendDisk(uint64_t bytes);

 private:
  absl::Status TooMuch() const;

  const Limits limits_;
  const int disk_;
  uint64_t bytes_ = 0;
  uint64_t file_bytes_ = 0;
  uint64_t entries_ = 0;
  uint64_t disk_bytes_ = 0;  // that may be written before it is asked again
};

}  // namespace ferry::layers
