#pragma once

#include <sys/types.h>

#include <optional>

namespace ferry {

// The user at the other end of a connected Unix socket, when it was connected; nullopt if the
// kernel does not say.
std::optional<uid_t> PeerUser(int socket);

// Local sockets of a daemon serve root and the daemon's own user.
bool IsRootOrOurs(uid_t user);

}  // namespace ferry
