#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace ferry::vm {

// Leaves the memory of a VM what its disks leave of a limit for both: QEMU 7.2 limits no mirror
// that has been the same once (mirror_run()), so what the guest writes to its disks goes as fast as
// it is written. Bytes per second. No I/O.
class BandwidthShare {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPeriod{1000};  // that rates are measured over
  static constexpr uint64_t kLeastPart = 8;  // of the limit, that the memory has in any case

  explicit BandwidthShare(uint64_t limit) : limit_(limit), given_(limit) {}

  // So many bytes of the disks have gone until now. What the memory may have from now on; nullopt:
  // what it had.
  std::optional<uint64_t> Look(uint64_t disk_bytes, Clock::time_point now) {
    if (!since_) {
      since_ = now;
      before_ = disk_bytes;
      return std::nullopt;
    }
    if (now - *since_ < kPeriod) return std::nullopt;
    const double seconds = std::chrono::duration<double>(now - *since_).count();
    const double rate = static_cast<double>(disk_bytes - std::min(before_, disk_bytes)) / seconds;
    since_ = now;
    before_ = disk_bytes;
    const uint64_t least = std::max<uint64_t>(1, limit_ / kLeastPart);
    const uint64_t left =
        rate < static_cast<double>(limit_ - least) ? limit_ - static_cast<uint64_t>(rate) : least;
    if (left == given_) return std::nullopt;
    given_ = left;
    return left;
  }

 private:
  uint64_t limit_;
  uint64_t given_;
  uint64_t before_ = 0;
  std::optional<Clock::time_point> since_;
};

}  // namespace ferry::vm
