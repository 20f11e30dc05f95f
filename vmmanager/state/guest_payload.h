#pragma once

#include "absl/status/statusor.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "guestmanager/guest.h"

namespace ferry::vm {

// Checks `state` (ids, ports, bounds) and converts it.
absl::StatusOr<state::v1::GuestPayload> ToPayload(const guest::GuestState& state);
absl::StatusOr<guest::GuestState> FromPayload(const state::v1::GuestPayload& payload);

}  // namespace ferry::vm
