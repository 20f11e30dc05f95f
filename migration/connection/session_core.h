#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/connection/frame.h"
#include "migration/connection/handshake.h"
#include "migration/connection/stream_digest.h"
#include "migration/connection/token_bucket.h"

namespace ferry::migration {

// What a control message is about; its content is the business of the migration controller.
enum class MessageKind : uint16_t {
  kCut = 1,    // the saved state's second part
  kProof = 3,  // a proof of the commit protocol
};

struct SessionMessage {
  MessageKind kind = MessageKind::kCut;
  std::string bytes;
};

struct SessionLimits {
  uint32_t window = 4 * 1024 * 1024;  // bytes of a channel that wait for its local socket
  size_t max_channels = 64;           // open at the same time
  size_t max_message = kMaxMessage;
  size_t max_unread_messages = 2 * kMaxMessage;  // bytes
  std::chrono::milliseconds ping_interval{1000};
  std::chrono::milliseconds silence_limit{5000};
  VersionRange versions;
};

struct SessionStatistics {
  uint64_t bytes_sent = 0;  // on the wire, headers included
  uint64_t bytes_received = 0;
  uint64_t bulk_bytes_sent = 0;  // payload of channels
  uint64_t bulk_bytes_received = 0;
  uint64_t message_bytes_sent = 0;
  uint64_t message_bytes_received = 0;
  uint64_t messages_sent = 0;
  uint64_t messages_received = 0;
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
};

// Something that the peer did.
struct SessionEvent {
  enum class Kind {
    kHello,        // hello is set; answer with Accept() or Refuse()
    kEstablished,  // the destination said yes
    kOpened,       // channel
    kData,         // channel, data (valid until the next call)
    kPeerClosed,   // channel: the peer's half has ended, and its digest is right
    kReset,        // channel, text
    kCredit,       // channel
    kMessage,      // message
    kPong,         // id, rtt
    kGoodbye,      // status: OK, or why the peer gave up
  };
  Kind kind = Kind::kHello;
  uint16_t channel = 0;
  std::string_view data;
  std::string text;
  Hello hello;
  SessionMessage message;
  uint64_t id = 0;
  std::chrono::nanoseconds rtt{0};
  absl::Status status;
};

// One frame to write: header, then payload. Valid until OutputDone().
struct OutputFrame {
  std::array<char, kFrameHeaderSize> header;
  std::string_view payload;
  uint16_t bulk_channel = 0;  // set for bulk
};

// One end of the session connection as a state machine without I/O. The driver reads into
// decoder().Space(), calls Received() and then NextEvent() until it is empty; and it writes what
// NextOutput() gives, one frame at a time.
//
// Order of output: acknowledgements and other small frames; then fragments of control messages,
// with one bulk frame between two of them; then bulk, in turn over the channels. So a control frame
// waits for at most one bulk frame, and bulk for at most one fragment.
class SessionCore {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  SessionCore(Role role, const SessionLimits& limits, TimePoint now);

  // Handshake. The source says hello; the destination answers the kHello event.
  void SendHello(const HandshakeParams& params);
  void Accept(const Hello& hello, const std::string& journal_id);
  void Refuse(const Refusal& refusal);
  bool established() const { return established_; }
  const std::string& peer_journal_id() const { return peer_journal_id_; }
  uint16_t version() const { return version_; }

  // Input. An error is final; the driver then writes the remaining output (a goodbye) and closes.
  FrameDecoder& decoder() { return decoder_; }
  void Received(size_t size, TimePoint now);
  absl::StatusOr<std::optional<SessionEvent>> NextEvent(TimePoint now);

  // Output.
  std::optional<OutputFrame> NextOutput(TimePoint now);
  // The frame is written. Returns its bulk channel if one of the channel's buffers became free.
  std::optional<uint16_t> OutputDone();
  // When the rate limit lets bulk go on; nullopt if it holds nothing back.
  std::optional<TimePoint> NextBulkTime() const;

  // Channels.
  absl::StatusOr<uint16_t> Open();
  bool IsOpen(uint16_t channel) const { return channels_.contains(channel); }
  // Queues bytes that stay valid until OutputDone() has reported them free, or the channel ends.
  void QueueData(uint16_t channel, std::string_view data);
  size_t queued_buffers(uint16_t channel) const;
  // Ends our half, after what is queued.
  void CloseHalf(uint16_t channel);
  void Reset(uint16_t channel, std::string_view why);
  // The local reader has taken `size` more bytes; grants credit.
  void Consumed(uint16_t channel, size_t size);
  // Of an open channel or of one that has ended lately.
  std::optional<StreamDigest> SentDigest(uint16_t channel) const;
  std::optional<StreamDigest> ReceivedDigest(uint16_t channel) const;

  // Messages are delivered in order. INVALID_ARGUMENT if too large.
  absl::Status SendMessage(SessionMessage message);
  // The reader took a message of that size from the driver's queue.
  void MessageTaken(size_t size) { unread_messages_ -= size + kFrameHeaderSize; }

  // Measures the round trip; the answer comes as kPong with the same id.
  uint64_t SendPing();
  // Sends due pings; UNAVAILABLE once the peer has been silent for too long. Call about four times
  // per ping interval.
  absl::Status Tick(TimePoint now);

  // Says that nothing follows: after the queued messages if `reason` is OK, else at once.
  void SayGoodbye(const absl::Status& reason);
  bool goodbye_written() const { return goodbye_written_; }

  void SetRateLimit(uint64_t bytes_per_second, TimePoint now);
  const SessionStatistics& statistics() const { return statistics_; }
  bool HasControlOutput() const { return !control_.empty() || !messages_.empty(); }

 private:
  struct Channel {
    uint64_t sent = 0;
    uint64_t send_limit = 0;
    uint64_t received = 0;
    uint64_t receive_limit = 0;
    uint64_t consumed = 0;
    std::deque<std::string_view> queue;
    size_t front_offset = 0;
    bool close_wanted = false;
    bool close_sent = false;
    bool close_received = false;
    StreamHasher sent_hash;
    StreamHasher received_hash;
  };
  struct ControlFrame {
    FrameType type;
    uint8_t flags;
    uint16_t channel;
    std::string payload;
  };
  struct FinishedChannel {
    StreamDigest sent;
    StreamDigest received;
  };
  using Event = std::optional<SessionEvent>;

  absl::Status Fail(absl::Status status);
  void PushControl(FrameType type, uint16_t channel, std::string payload);
  Channel& AddChannel(uint16_t id);
  void RemoveChannel(uint16_t id);
  void RemoveIfDone(uint16_t id);
  bool IsOwnId(uint16_t id) const;
  bool WasOpened(uint16_t id) const;

  absl::StatusOr<Event> Handle(const FramePiece& piece, TimePoint now);
  absl::StatusOr<Event> HandleHandshake(const FramePiece& piece);
  absl::StatusOr<Event> HandleChannel(const FramePiece& piece);
  absl::StatusOr<Event> HandleOpen(const FramePiece& piece);
  absl::StatusOr<Event> HandleData(uint16_t id, Channel* channel, const FramePiece& piece);
  absl::StatusOr<Event> HandleCredit(uint16_t id, Channel* channel, const FramePiece& piece);
  absl::StatusOr<Event> HandleClose(uint16_t id, Channel* channel, const FramePiece& piece);
  absl::StatusOr<Event> HandleMessage(const FramePiece& piece);
  absl::StatusOr<Event> HandlePong(const FramePiece& piece, TimePoint now);
  absl::StatusOr<Event> HandleGoodbye(const FramePiece& piece);

  std::optional<OutputFrame> ControlOutput(TimePoint now);
  std::optional<OutputFrame> MessageOutput();
  std::optional<OutputFrame> BulkOutput(TimePoint now);
  OutputFrame MakeOutput(FrameType type, uint8_t flags, uint16_t channel, std::string_view payload);
  Channel* NextReadyChannel(uint16_t* id);
  bool BulkReady(const Channel& channel) const;
  bool BulkWaiting() const;

  const Role role_;
  const SessionLimits limits_;
  FrameDecoder decoder_;
  absl::Status failure_;

  bool hello_seen_ = false;
  bool established_ = false;
  uint16_t version_ = kConnectionVersion;
  uint32_t peer_window_ = 0;
  std::string peer_journal_id_;

  std::map<uint16_t, Channel> channels_;
  std::map<uint16_t, FinishedChannel> finished_;
  uint16_t next_own_id_;
  uint16_t last_peer_id_ = 0;
  uint16_t last_bulk_ = 0;

  std::deque<ControlFrame> control_;
  std::deque<SessionMessage> messages_;
  size_t message_offset_ = 0;
  bool bulk_turn_ = false;
  std::optional<SessionMessage> incoming_;
  size_t unread_messages_ = 0;

  std::optional<OutputFrame> current_;  // between NextOutput() and OutputDone()
  ControlFrame current_control_{};      // keeps its payload alive
  FrameType current_type_ = FrameType::kData;
  uint64_t next_sent_sequence_ = 0;
  uint64_t next_received_sequence_ = 0;

  TokenBucket bucket_;
  uint64_t next_ping_ = 1;
  std::map<uint64_t, TimePoint> pings_;
  TimePoint last_ping_;
  TimePoint last_received_;
  TimePoint last_tick_;
  std::optional<absl::Status> goodbye_wanted_;
  bool goodbye_queued_ = false;
  bool goodbye_written_ = false;
  SessionStatistics statistics_;
};

}  // namespace ferry::migration
