#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"

// The link between a host and a guest, with vsock's semantics whatever carries it: the guest dials
// a port, the host listens on it, and each connection is a reliable byte stream of its own. The
// link may break at any time (a migration breaks it always); then every connection fails with
// UNAVAILABLE and the guest dials again.
namespace ferry::bridge {

// Port numbers of the guest compute service protocol (hcsshim internal/guest/prot).
inline constexpr uint32_t kBridgePort = 0x40000000;
inline constexpr uint32_t kFirstStdioPort = 0x40000001;
inline constexpr uint32_t kGuestLogPort = 109;

// One byte stream. One read and one write may be pending at the same time. Destroying it closes it;
// no operation may be pending then.
class Connection {
 public:
  virtual ~Connection() = default;

  // Reads at least one byte. Returns 0 when the peer has closed its writing side in order, and
  // UNAVAILABLE when the link or the peer is gone.
  virtual Task<absl::StatusOr<size_t>> Read(std::span<char> buffer) = 0;

  // Writes all of `data`, waiting while the peer grants no credit.
  virtual Task<absl::Status> Write(std::string_view data) = 0;

  // Half-close: the peer reads what was written, and then 0.
  virtual Task<absl::Status> CloseWrite() = 0;

  // Aborts pending operations (they fail with CANCELLED) and resets the stream. Idempotent.
  virtual void Close() = 0;
};

// Accepts connections to one port. Destroying it closes it.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual Task<absl::StatusOr<std::unique_ptr<Connection>>> Accept() = 0;

  // Fails a pending Accept with CANCELLED; later dials are refused. Idempotent.
  virtual void Close() = 0;
};

// The host's end of the link to one guest.
class HostTransport {
 public:
  virtual ~HostTransport() = default;

  // ALREADY_EXISTS if this guest's port is being listened on.
  virtual absl::StatusOr<std::unique_ptr<Listener>> Listen(uint32_t port) = 0;

  // Stops or continues taking bytes from the guest, without breaking anything: what the guest
  // wrote stays where it is. Used from the cut of a migration until it is known who goes on.
  virtual void PauseReading() = 0;
  virtual void ResumeReading() = 0;

  // Resets all connections and releases the link. Idempotent.
  virtual void Close() = 0;
};

// The guest's end of the link.
class GuestTransport {
 public:
  virtual ~GuestTransport() = default;

  // UNAVAILABLE while the host is not there, or refuses the port.
  virtual Task<absl::StatusOr<std::unique_ptr<Connection>>> Dial(uint32_t port) = 0;

  // Returns when the link has been (re)established since the given count and sets the new count, so
  // that the guest dials within milliseconds after a migration instead of at its next try. A
  // transport that cannot know (vsock) returns after a short delay.
  virtual Task<uint64_t> WaitForLink(uint64_t seen) = 0;

  // The same count while the link is up; 0 while it is down, or where that cannot be known.
  virtual uint64_t links() const { return 0; }
};

}  // namespace ferry::bridge
