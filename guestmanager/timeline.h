#pragma once

#include <cstdint>

#include "guestmanager/guest.h"

namespace ferry::guest {

// For a guest that is put back to this state: what its processes write from here on stands at
// offsets where there were other bytes. Gives its streams a generation later than all they had, of
// which the state knows nothing: `former` is the timeline that the guest was in last, as far as
// that is known. Notes where in each stream it begins.
void BeginTimeline(GuestState* state, uint32_t former, uint64_t now_unix_ms);

}  // namespace ferry::guest
