#pragma once

#include <cstdint>

#include "guestmanager/guest.h"

namespace ferry::guest {

// For a guest that is put back to this state: what its processes write from here on stands at
// offsets where there were other bytes. Gives its streams a generation later than all they had, as
// long as the host's clock does not go back, and notes where in each of them it begins.
void BeginTimeline(GuestState* state, uint64_t now_unix_ms);

}  // namespace ferry::guest
