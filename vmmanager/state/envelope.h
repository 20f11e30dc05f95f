#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

// What the saved state's parts travel and rest in. It is opened whole or not at all.
//
// All numbers are little-endian: magic (8 bytes), format version u32, kind u32, total length u64,
// then sections of {id u32, flags u32, length u64, bytes}, and SHA-256 over everything before.
namespace ferry::vm {

enum class StateKind : uint32_t { kPlan = 1, kCut = 2 };

struct StateSection {
  uint32_t id = 0;
  bool critical = true;
  std::string bytes;
  bool operator==(const StateSection&) const = default;
};

struct OpenedState {
  std::string message;
  std::vector<StateSection> unknown_optional;  // kept as they came
};

inline constexpr size_t kMaxStateBytes = 1024ull * 1024 * 1024;

// `extra` sections follow the message.
std::string Seal(StateKind kind, std::string_view message,
                 const std::vector<StateSection>& extra = {});

// INVALID_ARGUMENT if it is no envelope, FAILED_PRECONDITION if it is of another version or kind or
// holds something critical that is unknown here, DATA_LOSS if it was cut or altered.
absl::StatusOr<OpenedState> Open(StateKind kind, std::string_view bytes);

std::string Sha256(std::string_view bytes);
std::string ToHex(std::string_view bytes);

// SHA-256 of a file, read piece by piece; blocks until it is read. FAILED_PRECONDITION if it is no
// regular file (a FIFO or a device may never end) or has more than `max_bytes`.
absl::StatusOr<std::string> FileSha256(const std::string& path, uint64_t max_bytes);

}  // namespace ferry::vm
