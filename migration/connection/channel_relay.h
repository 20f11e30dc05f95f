#pragma once

#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bridge/runtime/async.h"
#include "migration/connection/session_core.h"

namespace ferry::migration {

// Carries bytes between one channel of the session connection and one local Unix socket, QEMU's
// end. Half-closes pass through; an error resets both.
class ChannelRelay : public std::enable_shared_from_this<ChannelRelay> {
 public:
  using Socket = asio::local::stream_protocol::socket;

  // `output` is set whenever the core may have something new to send.
  ChannelRelay(Executor executor, uint16_t channel, std::shared_ptr<SessionCore> core,
               std::shared_ptr<AsyncEvent> output);

  // Starts on a connected socket, or on one that listens at `path`.
  void Start(Socket socket);
  void StartByConnecting(const std::string& path);
  bool started() const { return started_; }

  // From the peer.
  void OnData(std::string_view data);
  void OnPeerClosed();

  // The core is done with one of our buffers.
  void OnBufferFree() { buffer_free_.Set(); }

  // Closes the local socket. Nothing is sent to the peer.
  void Abort();

  // Our own socket's end has come before the peer's.
  bool ended_here() const { return aborted_ || outbound_done_; }

  // Both directions have ended.
  bool finished() const { return aborted_ || (inbound_done_ && !core_->IsOpen(channel_)); }

 private:
  static constexpr size_t kBuffers = 2;
  using Self = std::shared_ptr<ChannelRelay>;

  static Task<void> Connect(Self self, std::string path);
  static Task<void> PumpOut(Self self);
  static Task<void> PumpIn(Self self);
  void StartPumps();
  void FinishInbound();
  void Fail(const std::string& what);

  Executor executor_;
  const uint16_t channel_;
  std::shared_ptr<SessionCore> core_;
  std::shared_ptr<AsyncEvent> output_;
  Socket socket_;
  AsyncEvent buffer_free_;
  AsyncEvent inbound_;
  std::array<std::vector<char>, kBuffers> buffers_;
  // What the local socket did not take at once: `writing_` is on its way, `pending_` follows.
  std::string pending_;
  std::string writing_;
  bool started_ = false;
  bool connected_ = false;
  bool peer_closed_ = false;
  bool inbound_done_ = false;
  bool outbound_done_ = false;
  bool aborted_ = false;
};

// Fails with INVALID_ARGUMENT if `path` does not fit into a Unix socket address.
absl::Status CheckUnixPath(const std::string& path);

}  // namespace ferry::migration
