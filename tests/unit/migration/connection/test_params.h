#pragma once

#include <string>

#include "migration/connection/handshake.h"

namespace ferry::migration {

// What each side of the tests' one session says of itself.
inline HandshakeParams TestParams(Role role) {
  HandshakeParams params;
  params.role = role;
  params.session_id = "session-1";
  params.token = std::string(kSessionTokenSize, 't');
  params.journal_id = role == Role::kSource ? "source-journal" : "destination-journal";
  return params;
}

}  // namespace ferry::migration
