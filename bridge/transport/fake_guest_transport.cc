#include "bridge/transport/fake_guest_transport.h"

#include <errno.h>
#include <sys/socket.h>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

FakeGuestTransport::FakeGuestTransport(Executor executor)
    : executor_(executor), link_changed_(executor) {}

FakeGuestTransport::~FakeGuestTransport() { Break(); }

Task<absl::StatusOr<std::unique_ptr<Connection>>> FakeGuestTransport::Dial(uint32_t port) {
  ++dials_;
  if (!up_ || refused_.contains(port)) {
    co_return absl::UnavailableError(absl::StrCat("nobody listens on port ", port));
  }
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    co_return absl::ErrnoToStatus(errno, "cannot make a socket pair");
  }
  auto guest = std::make_unique<StreamSocketConnection>(executor_, UniqueFd(fds[0]));
  auto host = std::make_unique<StreamSocketConnection>(executor_, UniqueFd(fds[1]));
  sockets_.push_back(guest->socket());
  sockets_.push_back(host->socket());
  At(port).waiting.push_back(std::move(host));
  At(port).arrived.Set();
  co_return guest;
}

Task<uint64_t> FakeGuestTransport::WaitForLink(uint64_t seen) {
  while (!up_ || link_count_ <= seen) {
    link_changed_.Reset();
    co_await link_changed_.Wait();
  }
  co_return link_count_;
}

Task<std::unique_ptr<Connection>> FakeGuestTransport::Accept(uint32_t port) {
  Port& at = At(port);
  while (at.waiting.empty()) {
    at.arrived.Reset();
    co_await at.arrived.Wait();
  }
  std::unique_ptr<Connection> connection = std::move(at.waiting.front());
  at.waiting.pop_front();
  co_return connection;
}

void FakeGuestTransport::Break() {
  up_ = false;
  for (const auto& [number, port] : ports_) port->waiting.clear();
  for (const std::weak_ptr<StreamSocket>& weak : std::exchange(sockets_, {})) {
    if (std::shared_ptr<StreamSocket> socket = weak.lock()) CloseStreamSocket(*socket);
  }
}

void FakeGuestTransport::Restore() {
  up_ = true;
  ++link_count_;
  link_changed_.Set();
}

FakeGuestTransport::Port& FakeGuestTransport::At(uint32_t port) {
  std::unique_ptr<Port>& at = ports_[port];
  if (at == nullptr) at = std::make_unique<Port>(executor_);
  return *at;
}

}  // namespace ferry::bridge
