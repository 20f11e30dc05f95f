#include "guestmanager/kept_output.h"

#include <algorithm>

namespace ferry::guest {

KeptOutput ReadKept(const Spool& spool, uint64_t since, size_t limit) {
  KeptOutput kept;
  kept.start.offset = std::clamp(since, spool.start(), spool.end());
  kept.bytes = spool.Read(kept.start.offset, limit);
  kept.end = spool.end();
  return kept;
}

absl::Status NothingKept() {
  return absl::FailedPreconditionError(
      "it is not detached, so its output goes to whoever is attached to it, and none is kept");
}

}  // namespace ferry::guest
