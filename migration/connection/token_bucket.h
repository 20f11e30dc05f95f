#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace ferry::migration {

// Rate limit in bytes per second. A sender may go when the balance is positive and pays afterwards,
// so the balance may fall below zero by one frame; what was not used is kept for 10 ms only.
class TokenBucket {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // 0: unlimited.
  void SetRate(uint64_t bytes_per_second, TimePoint now) {
    rate_ = bytes_per_second;
    balance_ = static_cast<double>(bytes_per_second) / 100;
    last_ = now;
  }

  uint64_t rate() const { return rate_; }

  bool MayGo(TimePoint now) {
    if (rate_ == 0) return true;
    const double elapsed = std::chrono::duration<double>(now - last_).count();
    const double rate = static_cast<double>(rate_);
    balance_ = std::min(balance_ + std::max(elapsed, 0.0) * rate, std::max(rate / 100, 1.0));
    last_ = std::max(last_, now);
    return balance_ > 0;
  }

  void Pay(uint64_t bytes) {
    if (rate_ != 0) balance_ -= static_cast<double>(bytes);
  }

  // When MayGo() becomes true, as of its last call.
  TimePoint NextTime() const {
    if (rate_ == 0 || balance_ > 0) return last_;
    const double seconds = (1 - balance_) / static_cast<double>(rate_);
    return last_ + std::chrono::ceil<TimePoint::duration>(std::chrono::duration<double>(seconds));
  }

 private:
  uint64_t rate_ = 0;
  double balance_ = 0;
  TimePoint last_;
};

}  // namespace ferry::migration
