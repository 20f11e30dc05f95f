#include "bridge/runtime/peer_user.h"

#include <sys/socket.h>
#include <unistd.h>

namespace ferry {

std::optional<uid_t> PeerUser(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return std::nullopt;
  return peer.uid;
}

bool IsRootOrOurs(uid_t user) { return user == 0 || user == ::geteuid(); }

}  // namespace ferry
