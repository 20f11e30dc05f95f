#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// One direction of a connection in memory. It grants `capacity` bytes of credit.
struct FakePipe {
  FakePipe(Executor executor, size_t limit) : capacity(limit), readable(executor), room(executor) {}
  std::string bytes;
  size_t capacity;
  bool ended = false;   // the writer closed its side in order
  bool broken = false;  // reset
  uint64_t total = 0;   // bytes ever written
  AsyncEvent readable;
  AsyncEvent room;
  void Wake() {
    readable.Set();
    room.Set();
  }
};

// A host transport in memory. The test is the guest: it dials, and breaks the link at will.
class FakeHostTransport : public HostTransport {
 public:
  explicit FakeHostTransport(Executor executor, size_t credit = 64 * 1024);
  ~FakeHostTransport() override;

  absl::StatusOr<std::unique_ptr<Listener>> Listen(uint32_t port) override;
  void PauseReading() override;
  void ResumeReading() override;
  void Close() override;

  // UNAVAILABLE if the port is not being listened on.
  absl::StatusOr<std::unique_ptr<Connection>> Dial(uint32_t port);
  // Resets all connections; listeners stay.
  void Break();
  bool listening(uint32_t port) const;
  bool paused() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace ferry::bridge
