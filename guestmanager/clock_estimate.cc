#include "guestmanager/clock_estimate.h"

namespace ferry::guest {

void ClockEstimate::Add(const ClockReading& reading) {
  const bool quickest = readings_ == 0 || reading.round_trip < round_trip_;
  ++readings_;
  spent_ += reading.round_trip;
  if (!quickest) return;
  round_trip_ = reading.round_trip;
  // Both clocks are from 1970 on, so this fits.
  offset_ = reading.guest - (reading.asked + reading.round_trip / 2);
}

bool ClockEstimate::done() const {
  if (readings_ > 0 && round_trip_ <= kQuick) return true;
  return readings_ >= kFewReadings && (good() || spent_ >= kPatience);
}

int64_t ClockEstimate::correction() const {
  const bool close = offset_ >= -kTolerance && offset_ <= kTolerance;
  return readings_ == 0 || close ? 0 : -offset_;
}

}  // namespace ferry::guest
