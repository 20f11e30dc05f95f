#include "bridge/guest/wall_clock.h"

#include <errno.h>
#include <time.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

}  // namespace

absl::StatusOr<int64_t> Adjusted(int64_t now_ns, int64_t offset_ns) {
  int64_t then = 0;
  if (__builtin_add_overflow(now_ns, offset_ns, &then) || then < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no clock can be set by ", offset_ns, " ns from ", now_ns, " ns"));
  }
  return then;
}

int64_t KernelWallClock::Now() const {
  struct timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

absl::Status KernelWallClock::Adjust(int64_t offset_ns) {
  ASSIGN_OR_RETURN(const int64_t then, Adjusted(Now(), offset_ns));
  struct timespec time = {};
  time.tv_sec = then / kSecond;
  time.tv_nsec = then % kSecond;
  if (clock_settime(CLOCK_REALTIME, &time) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "cannot set the clock");
}

}  // namespace ferry::bridge
