#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "bridge/runtime/async.h"
#include "vmmanager/qemu/rest_watch.h"

namespace ferry::vm {

// Judges how much a guest may write to disks that are copied, so that their copies become the same:
// half of what is copied meanwhile, once it has written more than can be followed. No I/O.
class WriteLimit {
 public:
  using Clock = std::chrono::steady_clock;
  // That is measured over; what a guest writes in a shorter time may be a burst.
  static constexpr milliseconds kPeriod{10'000};
  // Bytes per second. Less would not be of use to a guest, nor to a migration.
  static constexpr uint64_t kLeast = uint64_t{1} << 20;

  // Bytes per second; 0: as much as it will.
  uint64_t given() const { return given_; }
  // What went before says nothing of what comes.
  void Restart() { since_.reset(); }

  // So many bytes of so many are copied; what the guest writes meanwhile is among both. What it may
  // write from now on; nullopt: as much as before.
  std::optional<uint64_t> Look(uint64_t done, uint64_t total, Clock::time_point now) {
    if (total - std::min(done, total) <= RestWatch::kLittleLeft) {
      Restart();
      return std::nullopt;
    }
    if (since_ && now - *since_ < kPeriod) return std::nullopt;
    const std::optional<Clock::time_point> before = std::exchange(since_, now);
    const uint64_t copied = done - std::min(std::exchange(done_, done), done);
    const uint64_t written = total - std::min(std::exchange(total_, total), total);
    if (!before || written <= copied / 4 * 3) return std::nullopt;
    const double seconds = std::chrono::duration<double>(now - *before).count();
    uint64_t wanted = static_cast<uint64_t>(static_cast<double>(copied) / seconds) / 2;
    if (given_ > 0) wanted = std::min(wanted, given_ / 2);
    wanted = std::max(wanted, kLeast);
    if (wanted == given_) return std::nullopt;
    return given_ = wanted;
  }

 private:
  uint64_t given_ = 0;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  std::optional<Clock::time_point> since_;
};

}  // namespace ferry::vm
