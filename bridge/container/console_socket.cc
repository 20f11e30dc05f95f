#include "bridge/container/console_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

absl::StatusOr<ConsoleSocket> ConsoleSocket::Listen(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path '", path, "' is too long"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unlink(path.c_str());
  if (bind(listener.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), 1) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot listen on ", path));
  }
  return ConsoleSocket(path, std::move(listener));
}

ConsoleSocket::~ConsoleSocket() {
  if (listener_.valid()) unlink(path_.c_str());
}

absl::StatusOr<UniqueFd> ConsoleSocket::TakeMaster() {
  const UniqueFd peer(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!peer.valid()) return absl::ErrnoToStatus(errno, "no terminal was handed over");
  char text[4096];
  struct iovec part = {text, sizeof(text)};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(peer.get(), &message, MSG_CMSG_CLOEXEC) < 0) {
    return absl::ErrnoToStatus(errno, "no terminal was handed over");
  }
  const struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return absl::InternalError("what was handed over is no terminal");
  }
  int master = -1;
  memcpy(&master, CMSG_DATA(header), sizeof(master));
  return UniqueFd(master);
}

}  // namespace ferry::bridge
