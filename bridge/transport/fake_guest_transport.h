#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "bridge/runtime/async.h"
#include "bridge/transport/stream_connection.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// A guest's link for tests, over socket pairs: the test plays the host, and breaks the link.
class FakeGuestTransport : public GuestTransport {
 public:
  explicit FakeGuestTransport(Executor executor);
  ~FakeGuestTransport() override;

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Dial(uint32_t port) override;
  Task<uint64_t> WaitForLink(uint64_t seen) override;
  uint64_t links() const override { return up_ ? link_count_ : 0; }

  // The host's end of the next connection that the guest dials to `port`.
  Task<std::unique_ptr<Connection>> Accept(uint32_t port);

  // Dials to `port` fail with UNAVAILABLE from here on, or no more.
  void Refuse(uint32_t port) { refused_.insert(port); }
  void Allow(uint32_t port) { refused_.erase(port); }

  // Resets every connection; what is in flight is lost. Dials fail until Restore().
  void Break();
  void Restore();

  int dials() const { return dials_; }

 private:
  struct Port {
    explicit Port(Executor executor) : arrived(executor) {}
    std::deque<std::unique_ptr<Connection>> waiting;
    AsyncEvent arrived;
  };
  Port& At(uint32_t port);

  Executor executor_;
  std::map<uint32_t, std::unique_ptr<Port>> ports_;
  std::vector<std::weak_ptr<StreamSocket>> sockets_;
  std::set<uint32_t> refused_;
  uint64_t link_count_ = 1;
  bool up_ = true;
  AsyncEvent link_changed_;
  int dials_ = 0;
};

}  // namespace ferry::bridge
