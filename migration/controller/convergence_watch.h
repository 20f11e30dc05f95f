#pragma once

#include <cstdint>
#include <limits>

#include "vmmanager/backend/compute_system.h"

namespace ferry::migration {

// Says when a transfer will not come to its end by itself: the guest is slowed down as far as it
// goes, and pass after pass no less is left to send than before. No I/O.
class ConvergenceWatch {
 public:
  static constexpr uint32_t kMostThrottle = 99;  // percent
  static constexpr int kPassesInVain = 10;

  // Where the switchover is forced after a maximum of passes, there is always hope.
  explicit ConvergenceWatch(bool has_maximum = false) : has_maximum_(has_maximum) {}

  // Takes the numbers as they come; the first of a pass count. True once, when that is so.
  bool Hopeless(const vm::TransferProgress& now);

 private:
  bool has_maximum_;
  uint64_t pass_ = 0;
  uint64_t least_ = std::numeric_limits<uint64_t>::max();  // remaining bytes
  int in_vain_ = 0;
};

}  // namespace ferry::migration
