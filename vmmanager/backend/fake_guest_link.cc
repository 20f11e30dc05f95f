#include "vmmanager/backend/fake_guest_link.h"

#include <sys/socket.h>

#include <utility>

#include "bridge/runtime/str_cat.h"

namespace ferry::vm {

class FakeGuestLink::GuestEnd final : public bridge::GuestTransport {
 public:
  explicit GuestEnd(FakeGuestLink& link) : link_(link) {}

  Task<absl::StatusOr<std::unique_ptr<bridge::Connection>>> Dial(uint32_t port) override {
    co_return link_.Dial(port);
  }

  Task<uint64_t> WaitForLink(uint64_t seen) override {
    while (link_.links_ <= seen) {
      std::shared_ptr<AsyncEvent> changed = link_.link_changed_;
      co_await changed->Wait();
    }
    co_return link_.links_;
  }

 private:
  FakeGuestLink& link_;
};

FakeGuestLink::FakeGuestLink(Executor executor)
    : executor_(executor),
      gate_(std::make_shared<bridge::ReadGate>(executor)),
      ports_(std::make_shared<std::map<uint32_t, std::shared_ptr<bridge::AcceptQueue>>>()),
      link_changed_(std::make_shared<AsyncEvent>(executor)) {}

absl::StatusOr<std::unique_ptr<bridge::Listener>> FakeGuestLink::Listen(uint32_t port) {
  if (closed_) return absl::UnavailableError("the guest link is closed");
  if (ports_->contains(port)) {
    return absl::AlreadyExistsError(StrCat("port ", port, " is being listened on"));
  }
  auto queue = std::make_shared<bridge::AcceptQueue>(executor_);
  ports_->emplace(port, queue);
  auto forget = [ports = ports_, port] { ports->erase(port); };
  return std::make_unique<bridge::QueueListener>(std::move(queue), std::move(forget));
}

absl::StatusOr<std::unique_ptr<bridge::Connection>> FakeGuestLink::Dial(uint32_t port) {
  auto found = ports_->find(port);
  if (closed_ || found == ports_->end()) {
    return absl::UnavailableError(StrCat("nobody listens on port ", port));
  }
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    return absl::ResourceExhaustedError("no socket pair left");
  }
  auto host = std::make_unique<bridge::StreamSocketConnection>(executor_, UniqueFd(pair[0]), gate_);
  auto guest = std::make_unique<bridge::StreamSocketConnection>(executor_, UniqueFd(pair[1]));
  sockets_.push_back(host->socket());
  sockets_.push_back(guest->socket());
  if (!found->second->Push(std::move(host))) {
    return absl::UnavailableError(StrCat("port ", port, " takes no more connections"));
  }
  return guest;
}

std::unique_ptr<bridge::GuestTransport> FakeGuestLink::MakeGuestEnd() {
  return std::make_unique<GuestEnd>(*this);
}

FakeGuestLink::Dialer FakeGuestLink::MakeDialer() {
  return [this, alive = std::weak_ptr<bool>(alive_)](
             uint32_t port) -> absl::StatusOr<std::unique_ptr<bridge::Connection>> {
    if (alive.expired()) return absl::UnavailableError("the guest link is gone");
    return Dial(port);
  };
}

void FakeGuestLink::Reset() {
  for (const std::weak_ptr<bridge::StreamSocket>& weak : std::exchange(sockets_, {})) {
    if (auto socket = weak.lock()) bridge::CloseStreamSocket(*socket);
  }
  for (auto& [port, queue] : *ports_) queue->Clear();
  ++links_;
  std::exchange(link_changed_, std::make_shared<AsyncEvent>(executor_))->Set();
}

void FakeGuestLink::Close() {
  if (std::exchange(closed_, true)) return;
  Reset();
  auto ports = *ports_;
  for (auto& [port, queue] : ports) queue->Close();
}

}  // namespace ferry::vm
