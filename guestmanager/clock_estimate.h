#pragma once

#include <cstdint>

namespace ferry::guest {

// One question for the guest's clock. All in nanoseconds.
struct ClockReading {
  int64_t asked = 0;       // the host's clock when it was asked
  int64_t round_trip = 0;  // until the answer was there
  int64_t guest = 0;       // the answer: at some moment in between
};

// How far the guest's clock is from the host's, by the quickest of a few answers. That the guest
// looked at its clock in the middle of the round trip is a guess, wrong by half of it at most.
class ClockEstimate {
 public:
  static constexpr int64_t kMillisecond = 1'000'000;
  // What a clock may be off by without being set; setting it disturbs whoever measures with it.
  static constexpr int64_t kTolerance = 5 * kMillisecond;
  // An answer this quick is as good as any.
  static constexpr int64_t kQuick = 4 * kMillisecond;
  static constexpr int kFewReadings = 5;
  // What the clock is to be known to; with the tolerance, within 20 ms.
  static constexpr int64_t kWanted = 15 * kMillisecond;
  // For how long it is asked on for that: processes wait for their input meanwhile.
  static constexpr int64_t kPatience = 2'000 * kMillisecond;

  void Add(const ClockReading& reading);

  // Whether to ask no more.
  bool done() const;
  // The guest's clock is ahead by this, give or take uncertainty(). With at least one reading.
  int64_t offset() const { return offset_; }
  int64_t uncertainty() const { return round_trip_ / 2; }
  // Whether it is known as well as it is to be.
  bool good() const { return readings_ > 0 && uncertainty() <= kWanted; }

  // What to set it by; 0: nothing.
  int64_t correction() const;

 private:
  int readings_ = 0;
  int64_t spent_ = 0;       // on asking
  int64_t round_trip_ = 0;  // the quickest
  int64_t offset_ = 0;
};

}  // namespace ferry::guest
