#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace ferry::vm {

// What saved files are encrypted with. Each copy is wiped when it goes.
struct SaveKey {
  std::array<uint8_t, 32> bytes{};
  ~SaveKey();
};

// Reads a key file: 32 bytes as they are, or 64 hex digits with or without a newline. NOT_FOUND,
// INVALID_ARGUMENT if it holds no key, FAILED_PRECONDITION if anyone but its owner may use it.
absl::StatusOr<SaveKey> ReadSaveKey(const std::string& path);

}  // namespace ferry::vm
