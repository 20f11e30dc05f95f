#include <fcntl.h>
#include <sys/socket.h>
// After sys/socket.h, whose types it needs.
#include <linux/vm_sockets.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bridge/transport/vsock.h"

namespace ferry::bridge {
namespace {

sockaddr_vm Address(uint32_t cid, uint32_t port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

absl::StatusOr<UniqueFd> NewSocket() {
  UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) {
    return absl::UnavailableError(
        absl::StrCat("making a vsock socket failed: ", std::strerror(errno),
                     "; is the kernel's vsock module loaded?"));
  }
  return socket;
}

class KernelVsockSockets final : public VsockSockets {
 public:
  absl::StatusOr<UniqueFd> Listen(uint32_t port) override {
    absl::StatusOr<UniqueFd> socket = NewSocket();
    if (!socket.ok()) return socket;
    sockaddr_vm address = Address(VMADDR_CID_ANY, port);
    if (::bind(socket->get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      if (errno == EADDRINUSE) {
        return absl::AlreadyExistsError(
            absl::StrCat("vsock port ", port, " is taken by another process of this kernel; ",
                         "only one daemon per kernel can serve vsock guests"));
      }
      return absl::UnavailableError(
          absl::StrCat("binding vsock port ", port, " failed: ", std::strerror(errno)));
    }
    if (::listen(socket->get(), SOMAXCONN) != 0) {
      return absl::UnavailableError(
          absl::StrCat("listening on vsock port ", port, " failed: ", std::strerror(errno)));
    }
    return socket;
  }

  absl::StatusOr<std::optional<Accepted>> Accept(int listener) override {
    for (;;) {
      sockaddr_vm peer{};
      socklen_t size = sizeof(peer);
      UniqueFd socket(::accept4(listener, reinterpret_cast<sockaddr*>(&peer), &size,
                                SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.valid()) {
        std::optional<Accepted> accepted(std::in_place);
        accepted->socket = std::move(socket);
        accepted->peer_cid = peer.svm_cid;
        return accepted;
      }
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return std::optional<Accepted>();
      absl::string_view reason = std::strerror(errno);
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        return absl::ResourceExhaustedError(absl::StrCat("accepting on vsock: ", reason));
      }
      return absl::UnavailableError(absl::StrCat("accepting on vsock: ", reason));
    }
  }

  absl::StatusOr<UniqueFd> StartConnect(uint32_t cid, uint32_t port) override {
    absl::StatusOr<UniqueFd> socket = NewSocket();
    if (!socket.ok()) return socket;
    sockaddr_vm address = Address(cid, port);
    if (::connect(socket->get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 &&
        errno != EINPROGRESS) {
      return absl::UnavailableError(
          absl::StrCat("connecting to vsock ", cid, ":", port, " failed: ", std::strerror(errno)));
    }
    return socket;
  }
};

}  // namespace

std::shared_ptr<VsockSockets> MakeVsockSockets() { return std::make_shared<KernelVsockSockets>(); }

bool VsockAvailable() {
  return UniqueFd(::open(kVhostVsock, O_RDWR | O_CLOEXEC)).valid() && NewSocket().ok();
}

}  // namespace ferry::bridge
