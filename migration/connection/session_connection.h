#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "bridge/runtime/unique_fd.h"
#include "migration/connection/byte_stream.h"
#include "migration/connection/session_core.h"

namespace ferry::migration {

class SessionDriver;

inline constexpr std::chrono::milliseconds kHandshakeDeadline{10000};

// The one connection between the source's and the destination's daemon during a migration. It
// carries the VMM's migration channels, and control messages that bulk never holds up.
//
// Use it on its executor's thread only. Destroying it closes it.
class SessionConnection {
 public:
  // Speaks (source) or answers (destination) the handshake on a connected stream.
  static Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Handshake(
      std::unique_ptr<ByteStream> stream, HandshakeParams params, SessionLimits limits = {},
      std::chrono::milliseconds deadline = kHandshakeDeadline);
  // The same on a socket that was handed over.
  static Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Handshake(
      UniqueFd socket, HandshakeParams params, SessionLimits limits = {},
      std::chrono::milliseconds deadline = kHandshakeDeadline);

  explicit SessionConnection(std::shared_ptr<SessionDriver> driver);
  ~SessionConnection();
  SessionConnection(const SessionConnection&) = delete;
  SessionConnection& operator=(const SessionConnection&) = delete;

  // Queues a message; they arrive whole and in order. UNAVAILABLE if the connection has ended.
  absl::Status SendMessage(MessageKind kind, std::string bytes);
  // The next message of the peer; nullopt once the connection has ended and all are read.
  Task<std::optional<SessionMessage>> NextMessage();

  // Returns when the connection has ended: OK if either side closed it in order, else why.
  // DATA_LOSS means that a channel's bytes were damaged.
  Task<absl::Status> WaitClosed();
  // Returns when all that the peer sends over channels has arrived: there was at least one, and
  // each has ended with the right digest. An error if that cannot happen any more.
  Task<absl::Status> WaitReceived();
  bool closed() const;
  // Whether the peer's end of a channel was the first to go.
  bool stream_ended_by_peer() const;

  // Measures a round trip now; fails if the connection ends before.
  Task<absl::StatusOr<std::chrono::nanoseconds>> Ping();
  // Smoothed over the pings so far; nullopt before the first answer.
  std::optional<std::chrono::nanoseconds> rtt() const;

  const std::string& peer_journal_id() const;
  std::string peer() const;
  // The host that the peer's certificate names; empty without TLS.
  std::string peer_name() const;
  SessionStatistics statistics() const;
  // Bytes per second of the channels together; 0: unlimited. Messages are not held back.
  void set_rate_limit(uint64_t bytes_per_second);

  // Source: listens at `unix_path` (in a folder that only the VMM and we can enter); each
  // connection made there becomes a channel. The path vanishes with the connection.
  absl::Status RelayFromListener(const std::string& unix_path);
  // Destination: connects each channel that the source opens, or has opened, to `unix_path`.
  absl::Status RelayToPath(const std::string& unix_path);
  // Ends all channels here and there; the connection and its messages live on.
  void ResetChannels(std::string_view why);

  // The ids of all channels so far, in order of opening, and what passed through them.
  std::vector<uint16_t> channels() const;
  std::optional<StreamDigest> SentDigest(uint16_t channel) const;
  std::optional<StreamDigest> ReceivedDigest(uint16_t channel) const;

  // Ends the connection in order: queued messages still go out, channels are cut. Idempotent.
  void Close();

 private:
  std::shared_ptr<SessionDriver> driver_;
};

}  // namespace ferry::migration
