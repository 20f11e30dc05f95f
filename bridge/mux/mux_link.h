#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "bridge/mux/link_io.h"
#include "bridge/mux/mux_core.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/queue_listener.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// One connection as its Connection object and the link share it.
struct MuxStream {
  MuxStream(Executor executor, uint32_t id_in, uint32_t port_in)
      : id(id_in), port(port_in), readable(executor), writable(executor) {}

  // UNAVAILABLE or CANCELLED once the stream can carry nothing more.
  absl::Status state() const;

  const uint32_t id;
  const uint32_t port;
  bool accepted = false;
  bool refused = false;
  bool gone = false;    // the link was reset; the core may use the number for another
  bool closed = false;  // by its own side
  AsyncEvent readable;  // also: accepted, refused, gone, closed
  AsyncEvent writable;
};

// Drives one MuxCore over one stream and turns its events into Connections. Both ends' transports
// are thin wrappers of it. Make it shared.
class MuxLink final : public LinkIoHandler, public std::enable_shared_from_this<MuxLink> {
 public:
  MuxLink(Executor executor, MuxRole role);
  ~MuxLink() override;

  // Takes a stream in place of the present one. If it cannot be used, that is a lost link.
  void Attach(UniqueFd stream);
  void Detach();
  void Shutdown();

  void Pause();
  void Resume();

  absl::StatusOr<std::unique_ptr<Listener>> Listen(uint32_t port);
  Task<absl::StatusOr<std::unique_ptr<Connection>>> Dial(uint32_t port);
  Task<uint64_t> WaitForLink(uint64_t seen);

  // How often the link has come up; 0 while it is down.
  uint64_t links() const { return core_.established() ? times_up_ : 0; }

  bool established() const { return core_.established(); }
  void set_on_link_lost(std::function<void()> callback) { on_link_lost_ = std::move(callback); }

  // For the connections.
  MuxCore& core() { return core_; }
  void CloseStream(MuxStream& stream);
  // After every call to the core.
  void Settle();

  void OnBytes(std::string_view bytes) override;
  bool WantsInput() const override { return core_.WantsInput(); }
  std::string_view Output() const override { return core_.output(); }
  void OnWritten(size_t size) override;
  void OnEnd() override;

 private:
  void Handle(const MuxEvent& event);
  void OnIncoming(uint32_t id, uint32_t port);
  void OnLinkDown();
  std::shared_ptr<MuxStream> AddStream(uint32_t id, uint32_t port);
  void Dispatch();
  void DropIo();
  // Repeats an unanswered handshake, slowly.
  void ArmRetry();

  Executor executor_;
  const MuxRole role_;
  MuxCore core_;
  std::shared_ptr<LinkIo> io_;
  std::map<uint32_t, std::shared_ptr<MuxStream>> streams_;
  std::map<uint32_t, std::shared_ptr<AcceptQueue>> listeners_;
  std::function<void()> on_link_lost_;
  AsyncEvent link_changed_;
  uint64_t times_up_ = 0;
  bool paused_ = false;
  bool shut_down_ = false;
  bool retrying_ = false;
  asio::steady_timer retry_timer_;
};

}  // namespace ferry::bridge
