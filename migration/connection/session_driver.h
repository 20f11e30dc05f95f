#pragma once

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bridge/runtime/async.h"
#include "migration/connection/byte_stream.h"
#include "migration/connection/channel_relay.h"
#include "migration/connection/session_core.h"

namespace ferry::migration {

// Runs a SessionCore on a stream. Its tasks keep it alive until the stream is closed, which
// Finish() makes sure of; SessionConnection is its owner's handle.
class SessionDriver : public std::enable_shared_from_this<SessionDriver> {
 public:
  SessionDriver(Executor executor, std::unique_ptr<ByteStream> stream, Role role,
                const SessionLimits& limits);

  // Starts reading, writing and the keepalive.
  void Start();

  // Source: the whole handshake.
  Task<absl::Status> Greet(HandshakeParams params, milliseconds deadline);
  // Destination: the peer's hello, to be answered with Accept() or Refuse().
  Task<absl::StatusOr<Hello>> ReceiveHello(milliseconds deadline);
  void Accept(const Hello& hello, const std::string& journal_id);
  void Refuse(const Refusal& refusal);

  absl::Status SendMessage(SessionMessage message);
  Task<std::optional<SessionMessage>> NextMessage();
  Task<absl::StatusOr<std::chrono::nanoseconds>> Ping();
  absl::Status RelayFromListener(const std::string& path);
  absl::Status RelayToPath(const std::string& path);
  void ResetChannels(std::string_view why);
  void SetRateLimit(uint64_t bytes_per_second);

  // Ends the connection; OK is an orderly end. The peer is told, within a bounded time.
  void Finish(const absl::Status& status);
  Task<absl::Status> WaitClosed();
  Task<absl::Status> WaitReceived();
  bool finished() const { return finished_; }

  const SessionCore& core() const { return *core_; }
  const std::vector<uint16_t>& channels() const { return channel_ids_; }
  std::optional<std::chrono::nanoseconds> rtt() const { return rtt_; }
  bool stream_ended_by_peer() const { return stream_ended_by_peer_; }
  std::string peer() const { return stream_->peer(); }
  std::string peer_name() const { return stream_->peer_name(); }

 private:
  using Self = std::shared_ptr<SessionDriver>;
  using Acceptor = asio::local::stream_protocol::acceptor;
  struct PingWaiter {
    explicit PingWaiter(Executor executor) : done(executor) {}
    AsyncEvent done;
    std::optional<std::chrono::nanoseconds> rtt;
  };

  static Task<void> ReadLoop(Self self);
  static Task<void> WriteLoop(Self self);
  static Task<void> TickLoop(Self self);
  static Task<void> AcceptLoop(Self self);
  static Task<void> Linger(Self self);
  static Task<absl::Status> WaitHandshake(Self self);

  bool HandleEvents();
  void HandleEvent(SessionEvent event);
  void HandlePong(const SessionEvent& event);
  void NotePeerEnd(const ChannelRelay* relay);
  Task<void> WaitForOutput();
  void AddRelay(uint16_t channel, std::optional<ChannelRelay::Socket> socket);
  std::shared_ptr<ChannelRelay> FindRelay(uint16_t channel) const;
  void SweepRelays();
  void CloseLocal();

  Executor executor_;
  std::unique_ptr<ByteStream> stream_;
  const milliseconds tick_interval_;
  std::shared_ptr<SessionCore> core_;
  std::shared_ptr<AsyncEvent> output_;
  AsyncQueue<SessionMessage> messages_;
  AsyncEvent received_;  // what WaitReceived() looks at changed
  AsyncEvent handshake_;
  AsyncEvent closed_;
  asio::steady_timer tick_timer_;
  asio::steady_timer rate_timer_;
  asio::steady_timer linger_timer_;
  std::optional<Acceptor> acceptor_;
  std::string listen_path_;
  std::string relay_path_;
  std::map<uint16_t, std::shared_ptr<ChannelRelay>> relays_;
  std::vector<uint16_t> channel_ids_;
  std::set<uint16_t> unverified_;  // opened by the peer, and neither ended nor checked yet
  bool verified_any_ = false;
  bool cut_off_ = false;  // a channel of the peer's was reset before its end
  std::map<uint64_t, std::shared_ptr<PingWaiter>> pings_;
  std::optional<std::chrono::nanoseconds> rtt_;
  bool stream_ended_by_peer_ = false;
  std::optional<Hello> hello_;
  bool finished_ = false;
  bool stream_closed_ = false;
  absl::Status closed_status_;
};

}  // namespace ferry::migration
