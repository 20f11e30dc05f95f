#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "migration/connection/session_connection.h"
#include "migration/connection/tls_stream.h"

namespace ferry::migration {

struct DialOptions {
  std::string address;              // the destination's session address
  std::shared_ptr<TlsContext> tls;  // null: plain TCP
  HandshakeParams params;           // role kSource
  SessionLimits limits;
  std::chrono::milliseconds deadline = kHandshakeDeadline;  // for everything together
};

// Source: connects to the destination's listener and opens the session there.
Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Dial(DialOptions options);

}  // namespace ferry::migration
