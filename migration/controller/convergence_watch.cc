#include "migration/controller/convergence_watch.h"

namespace ferry::migration {

bool ConvergenceWatch::Hopeless(const vm::TransferProgress& now) {
  if (has_maximum_ || now.pass <= pass_) return false;
  pass_ = now.pass;
  if (now.remaining_bytes < least_) {
    least_ = now.remaining_bytes;
    in_vain_ = 0;
    return false;
  }
  const bool in_vain = now.throttle_percent >= kMostThrottle && !now.forced;
  return in_vain && ++in_vain_ == kPassesInVain;
}

}  // namespace ferry::migration
