#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "migration/connection/session_connection.h"

namespace ferry::migration {

// checksum_verification: the destination's vote says what it took for the VM's state, and the
// source commits only if that is what it sent.
struct StateCheck {
  uint64_t bytes = 0;  // of all channels together
  std::string text;    // length and XXH3-128 of each channel, in order of opening
};

// What one end of a connection sent, or received.
StateCheck CheckOfSent(const SessionConnection& connection);
StateCheck CheckOfReceived(const SessionConnection& connection);

// DATA_LOSS unless `voted` is the text that the source has itself. An empty one is none.
absl::Status CompareChecks(const StateCheck& sent, std::string_view voted);

}  // namespace ferry::migration
