#pragma once

#include <cstdint>

#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// When to dial again: at once after the link came back, and otherwise (a port that is refused on a
// link that stands) after a delay that grows up to a second.
class Redial {
 public:
  explicit Redial(GuestTransport& transport) : transport_(transport) {}

  // Returns when it is time.
  Task<void> Wait();

  // A connection was made: the next loss is a new one.
  void Succeeded() { delay_ = kFirstDelay; }

 private:
  static constexpr milliseconds kFirstDelay{10};
  static constexpr milliseconds kLastDelay{1000};

  GuestTransport& transport_;
  uint64_t seen_ = 0;
  milliseconds delay_ = kFirstDelay;
};

}  // namespace ferry::bridge
