#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferry::bridge {

// The time of day as the guest has it.
class WallClock {
 public:
  virtual ~WallClock() = default;

  // Nanoseconds since 1970.
  virtual int64_t Now() const = 0;

  // Sets it to what it says now, and so much more. INVALID_ARGUMENT if no clock can say that.
  virtual absl::Status Adjust(int64_t offset_ns) = 0;
};

// The kernel's CLOCK_REALTIME. Clocks that only go forward are not touched by it.
class KernelWallClock : public WallClock {
 public:
  int64_t Now() const override;
  absl::Status Adjust(int64_t offset_ns) override;
};

// What it would say. INVALID_ARGUMENT if that is before 1970 or beyond what 64 bits hold.
absl::StatusOr<int64_t> Adjusted(int64_t now_ns, int64_t offset_ns);

}  // namespace ferry::bridge
