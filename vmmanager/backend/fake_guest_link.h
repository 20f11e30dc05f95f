#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "bridge/runtime/async.h"
#include "bridge/transport/queue_listener.h"
#include "bridge/transport/stream_connection.h"
#include "bridge/transport/transport.h"

namespace ferry::vm {

// A guest link inside one process, over socket pairs. The guest's end comes from MakeGuestEnd() and
// must not outlive the link.
class FakeGuestLink final : public bridge::HostTransport {
 public:
  explicit FakeGuestLink(Executor executor);
  ~FakeGuestLink() override { Close(); }

  absl::StatusOr<std::unique_ptr<bridge::Listener>> Listen(uint32_t port) override;
  void PauseReading() override { gate_->Pause(); }
  void ResumeReading() override { gate_->Resume(); }
  void Close() override;

  std::unique_ptr<bridge::GuestTransport> MakeGuestEnd();

  // Dials as the guest does; refused once the link is gone.
  using Dialer = std::function<absl::StatusOr<std::unique_ptr<bridge::Connection>>(uint32_t)>;
  Dialer MakeDialer();

  // Resets every connection, as a migration does; the guest may dial again at once.
  void Reset();

 private:
  class GuestEnd;
  absl::StatusOr<std::unique_ptr<bridge::Connection>> Dial(uint32_t port);

  Executor executor_;
  std::shared_ptr<bridge::ReadGate> gate_;
  std::shared_ptr<std::map<uint32_t, std::shared_ptr<bridge::AcceptQueue>>> ports_;
  std::vector<std::weak_ptr<bridge::StreamSocket>> sockets_;
  std::shared_ptr<AsyncEvent> link_changed_;
  uint64_t links_ = 1;
  bool closed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace ferry::vm
