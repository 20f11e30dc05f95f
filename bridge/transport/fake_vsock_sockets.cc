#include "bridge/transport/fake_vsock_sockets.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace ferry::bridge {
namespace {

sockaddr_un Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

UniqueFd NewSocket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

bool Bind(int socket, const std::string& path) {
  sockaddr_un address = Address(path);
  return ::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

absl::Status SystemError(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
}

}  // namespace

FakeVsockSockets::~FakeVsockSockets() = default;

std::string FakeVsockSockets::Path(uint32_t port) const {
  return absl::StrCat(folder_, "/port.", port);
}

absl::StatusOr<UniqueFd> FakeVsockSockets::Listen(uint32_t port) {
  ++listen_calls_;
  const std::string path = Path(port);
  // A Unix socket's name outlives its listener, a vsock port does not.
  UniqueFd probe = NewSocket();
  sockaddr_un address = Address(path);
  if (::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    return absl::AlreadyExistsError(absl::StrCat("port ", port, " is taken"));
  }
  ::unlink(path.c_str());
  UniqueFd socket = NewSocket();
  if (!Bind(socket.get(), path) || ::listen(socket.get(), SOMAXCONN) != 0) {
    return SystemError(path);
  }
  return socket;
}

absl::StatusOr<std::optional<VsockSockets::Accepted>> FakeVsockSockets::Accept(int listener) {
  if (exhausted_) return absl::ResourceExhaustedError("no descriptors are free");
  sockaddr_un peer{};
  socklen_t size = sizeof(peer);
  UniqueFd socket(
      ::accept4(listener, reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.valid()) return std::optional<Accepted>();
  // The dialer's name is FOLDER/cid.CID.NUMBER.
  std::vector<std::string> parts = absl::StrSplit(peer.sun_path, '.');
  std::optional<Accepted> accepted(std::in_place);
  accepted->socket = std::move(socket);
  if (parts.size() < 3 || !absl::SimpleAtoi(parts[parts.size() - 2], &accepted->peer_cid)) {
    accepted->peer_cid = 0;
  }
  return accepted;
}

absl::StatusOr<UniqueFd> FakeVsockSockets::StartConnect(uint32_t cid, uint32_t port) {
  if (cid != kVsockHostCid) return absl::UnavailableError("only the host can be dialed");
  UniqueFd socket = NewSocket();
  const std::string own = absl::StrCat(folder_, "/cid.", own_cid_, ".", dials_++);
  if (!Bind(socket.get(), own)) return SystemError(own);
  sockaddr_un address = Address(Path(port));
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError(Path(port));
  }
  return socket;
}

}  // namespace ferry::bridge
