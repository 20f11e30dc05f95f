#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "bridge/runtime/async.h"

namespace ferry::vm {

// Judges a copy of a disk that its guest writes to. QEMU calls the two the same at an instant at
// which nothing is left, and to that the copy of a guest that writes all the time may never come.
// No I/O.
class RestWatch {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Verdict {
    kGoesOn,
    kLittle,    // no more than goes when the guest has been stopped
    kHopeless,  // what is left does not become less
  };
  static constexpr uint64_t kLittleLeft = uint64_t{16} << 20;
  static constexpr milliseconds kLittleFor{5'000};
  static constexpr milliseconds kHopelessFor{60'000};

  // So many bytes are left.
  Verdict Look(uint64_t rest, Clock::time_point now) {
    if (!least_ || rest < *least_) {
      least_ = rest;
      lessened_ = now;
    }
    if (rest <= kLittleLeft) {
      if (!little_) little_ = now;
      return now - *little_ < kLittleFor ? Verdict::kGoesOn : Verdict::kLittle;
    }
    little_.reset();
    return now - lessened_ < kHopelessFor ? Verdict::kGoesOn : Verdict::kHopeless;
  }

 private:
  std::optional<uint64_t> least_;
  Clock::time_point lessened_;
  std::optional<Clock::time_point> little_;  // since when
};

}  // namespace ferry::vm
