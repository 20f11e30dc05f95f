#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/stream_connection.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// The context id under which a guest reaches its host.
inline constexpr uint32_t kVsockHostCid = 2;

// The socket calls that the vsock transports need; tests put Unix sockets in their place.
class VsockSockets {
 public:
  struct Accepted {
    UniqueFd socket;
    uint32_t peer_cid = 0;
  };

  virtual ~VsockSockets() = default;

  // A non-blocking listener on `port`, for peers of all context ids.
  virtual absl::StatusOr<UniqueFd> Listen(uint32_t port) = 0;

  // The next connection that waits on `listener`, nullopt if none does. RESOURCE_EXHAUSTED while
  // there are no descriptors for it.
  virtual absl::StatusOr<std::optional<Accepted>> Accept(int listener) = 0;

  // A non-blocking socket that connects; writable once that is decided (see SO_ERROR).
  virtual absl::StatusOr<UniqueFd> StartConnect(uint32_t cid, uint32_t port) = 0;
};

std::shared_ptr<VsockSockets> MakeVsockSockets();

// Whoever may open it can give virtual machines a vsock device.
inline constexpr char kVhostVsock[] = "/dev/vhost-vsock";

// Whether this process may, and may make the sockets that such machines are spoken to by;
// containers are often denied one of the two.
bool VsockAvailable();

class VsockHostTransport;

// Shares AF_VSOCK ports, of which a kernel has one set, between the virtual machines of a daemon:
// one listener for each port number, whose connections go to the machine that the peer's context
// id names. Connections of unknown machines, or to ports that the machine's owner does not listen
// on, are closed. Make it shared; transports keep it alive.
class VsockPortRegistry : public std::enable_shared_from_this<VsockPortRegistry> {
 public:
  VsockPortRegistry(Executor executor, std::shared_ptr<VsockSockets> sockets);

  // The host's end for the machine with context id `cid`; ALREADY_EXISTS if there is one.
  absl::StatusOr<std::unique_ptr<VsockHostTransport>> MakeTransport(uint32_t cid);

  // Called with each connection of its machine; false refuses it.
  using Receiver = std::function<bool(UniqueFd socket)>;

 private:
  friend class VsockHostTransport;
  struct Port;

  absl::Status Register(uint32_t cid, uint32_t port, Receiver receiver);
  void Unregister(uint32_t cid, uint32_t port);
  void ForgetTransport(uint32_t cid) { transports_.erase(cid); }
  static Task<void> AcceptLoop(std::shared_ptr<Port> port, std::shared_ptr<VsockSockets> sockets);

  Executor executor_;
  std::shared_ptr<VsockSockets> sockets_;
  std::set<uint32_t> transports_;
  std::map<uint32_t, std::shared_ptr<Port>> ports_;
};

// The host's end of the link to the machine with one context id.
class VsockHostTransport final : public HostTransport {
 public:
  VsockHostTransport(Executor executor, std::shared_ptr<VsockPortRegistry> registry, uint32_t cid);
  ~VsockHostTransport() override;

  absl::StatusOr<std::unique_ptr<Listener>> Listen(uint32_t port) override;
  void PauseReading() override;
  void ResumeReading() override;
  void Close() override;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// The guest's end: dials the host.
class VsockGuestTransport final : public GuestTransport {
 public:
  explicit VsockGuestTransport(Executor executor,
                               std::shared_ptr<VsockSockets> sockets = MakeVsockSockets());

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Dial(uint32_t port) override;

  // Vsock does not say when the host is back, so this returns after a few milliseconds.
  Task<uint64_t> WaitForLink(uint64_t seen) override;

 private:
  Executor executor_;
  std::shared_ptr<VsockSockets> sockets_;
};

}  // namespace ferry::bridge
