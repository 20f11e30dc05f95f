#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace ferry::vm {

// Leaves to what can be limited, which is disks that are not the same yet and then the VM's memory,
// what other disks leave of a limit for all: QEMU 7.2 limits no mirror that has been the same once
// (mirror_run()), so what the guest writes goes as fast as it is written. Bytes per second. No I/O.
class BandwidthShare {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPeriod{1000};  // that rates are measured over
  static constexpr uint64_t kLeastPart = 8;  // of the limit, that it leaves in any case

  explicit BandwidthShare(uint64_t limit) : limit_(limit), given_(limit) {}

  uint64_t given() const { return given_; }
  // What counts now is other disks than before.
  void Restart() { since_.reset(); }

  // So many bytes of those disks have gone until now. What may be had from now on; nullopt: what
  // was.
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
