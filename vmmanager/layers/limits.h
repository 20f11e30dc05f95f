#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace ferry::layers {

// What one import may hold, whatever its headers say.
struct Limits {
  uint64_t bytes = uint64_t{64} << 30;  // of everything, unpacked
  uint64_t entries = 1'000'000;         // files, folders, links of all layers
  size_t layers = 127;
  size_t document_bytes = size_t{1} << 20;  // of one index, manifest or configuration
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
  explicit Budget(const Limits& limits) : limits_(limits) {}

  const Limits& limits() const { return limits_; }

  // RESOURCE_EXHAUSTED if there is more than the limits allow.
  absl::Status SpendBytes(uint64_t bytes);
  absl::Status SpendEntry();

 private:
  const Limits limits_;
  uint64_t bytes_ = 0;
  uint64_t entries_ = 0;
};

}  // namespace ferry::layers
