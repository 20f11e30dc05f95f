#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "migration/connection/session_core.h"

namespace ferry::migration {
namespace {

absl::Status Violation(const char* what, uint64_t value) {
  return absl::InvalidArgumentError(
      absl::StrCat("the peer broke the session connection's protocol: ", what, " (", value, ")"));
}

SessionEvent ChannelEvent(SessionEvent::Kind kind, uint16_t channel) {
  SessionEvent event;
  event.kind = kind;
  event.channel = channel;
  return event;
}

}  // namespace

void SessionCore::Received(size_t size, TimePoint now) {
  decoder_.Commit(size);
  statistics_.bytes_received += size;
  last_received_ = now;
}

absl::StatusOr<std::optional<SessionEvent>> SessionCore::NextEvent(TimePoint now) {
  while (failure_.ok()) {
    absl::StatusOr<std::optional<FramePiece>> piece = decoder_.Next();
    if (!piece.ok()) return Fail(piece.status());
    if (!piece->has_value()) {
      // Fail() may have been called by an answer that did not fit.
      if (!failure_.ok()) break;
      return Event();
    }
    absl::StatusOr<Event> event = Handle(**piece, now);
    if (!event.ok()) return Fail(event.status());
    if (event->has_value()) return event;
  }
  return failure_;
}

absl::StatusOr<SessionCore::Event> SessionCore::Handle(const FramePiece& piece, TimePoint now) {
  if (piece.first) {
    ++statistics_.frames_received;
    if (piece.header.sequence != next_received_sequence_++) {
      return absl::DataLossError(
          absl::StrCat("a frame of the session connection was lost: expected ",
                       next_received_sequence_ - 1, ", received ", piece.header.sequence));
    }
  }
  if (!IsKnownType(piece.header.type)) return Event();
  if (piece.header.type <= FrameType::kRefused) return HandleHandshake(piece);
  if (piece.header.type == FrameType::kGoodbye) return HandleGoodbye(piece);
  if (!established_) {
    return Violation("a frame before the handshake", static_cast<int>(piece.header.type));
  }
  switch (piece.header.type) {
    case FrameType::kMessage:
      return HandleMessage(piece);
    case FrameType::kPing:
      if (piece.payload.size() != 8) return Violation("size of a ping", piece.payload.size());
      PushControl(FrameType::kPong, 0, std::string(piece.payload));
      return Event();
    case FrameType::kPong:
      return HandlePong(piece, now);
    default:
      return HandleChannel(piece);
  }
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleHandshake(const FramePiece& piece) {
  const bool from_source = piece.header.type == FrameType::kHello;
  if (hello_seen_ || from_source == (role_ == Role::kSource)) {
    return Violation("an unexpected handshake", static_cast<int>(piece.header.type));
  }
  hello_seen_ = true;
  SessionEvent event;
  if (from_source) {
    ASSIGN_OR_RETURN(event.hello, DecodeHello(piece.payload));
    event.kind = SessionEvent::Kind::kHello;
    return event;
  }
  if (piece.header.type == FrameType::kRefused) {
    ASSIGN_OR_RETURN(const Refusal refusal, DecodeRefusal(piece.payload));
    return RefusalToStatus(refusal);
  }
  ASSIGN_OR_RETURN(const HelloAck ack, DecodeHelloAck(piece.payload));
  if (ack.version < limits_.versions.min || ack.version > limits_.versions.max) {
    return absl::FailedPreconditionError(
        absl::StrCat("the destination chose version ", ack.version,
                     " of the session connection, which was not offered; bring both hosts to "
                     "neighbouring releases"));
  }
  if (ack.role == role_) return Violation("role of the peer", static_cast<int>(ack.role));
  version_ = ack.version;
  peer_window_ = ack.window;
  peer_journal_id_ = ack.journal_id;
  established_ = true;
  event.kind = SessionEvent::Kind::kEstablished;
  return event;
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleChannel(const FramePiece& piece) {
  const uint16_t id = piece.header.channel;
  if (piece.header.type == FrameType::kOpen) return HandleOpen(piece);
  const auto it = channels_.find(id);
  if (it == channels_.end()) {
    // What was on its way when we reset the channel is of no interest any more.
    if (!WasOpened(id)) return Violation("a channel that was never opened", id);
    return Event();
  }
  switch (piece.header.type) {
    case FrameType::kData:
      return HandleData(id, &it->second, piece);
    case FrameType::kCredit:
      return HandleCredit(id, &it->second, piece);
    case FrameType::kClose:
      return HandleClose(id, &it->second, piece);
    default: {
      SessionEvent event = ChannelEvent(SessionEvent::Kind::kReset, id);
      event.text = std::string(piece.payload);
      RemoveChannel(id);
      return event;
    }
  }
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleOpen(const FramePiece& piece) {
  const uint16_t id = piece.header.channel;
  if (id == 0 || IsOwnId(id) || id <= last_peer_id_) return Violation("opened channel", id);
  last_peer_id_ = id;
  if (channels_.size() >= limits_.max_channels) {
    PushControl(FrameType::kReset, id, "too many channels are open");
    return Event();
  }
  AddChannel(id);
  return ChannelEvent(SessionEvent::Kind::kOpened, id);
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleData(uint16_t id, Channel* channel,
                                                           const FramePiece& piece) {
  if (channel->close_received) return Violation("data after the end of channel", id);
  if (piece.payload.size() > channel->receive_limit - channel->received) {
    return Violation("more data than granted on channel", id);
  }
  channel->received += piece.payload.size();
  channel->received_hash.Update(piece.payload);
  statistics_.bulk_bytes_received += piece.payload.size();
  if (piece.payload.empty()) return Event();
  SessionEvent event = ChannelEvent(SessionEvent::Kind::kData, id);
  event.data = piece.payload;
  return event;
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleCredit(uint16_t id, Channel* channel,
                                                             const FramePiece& piece) {
  const uint64_t limit = FieldReader(piece.payload).Int(8);
  if (piece.payload.size() != 8 || limit < channel->send_limit) {
    return Violation("credit of channel", id);
  }
  channel->send_limit = limit;
  return ChannelEvent(SessionEvent::Kind::kCredit, id);
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleClose(uint16_t id, Channel* channel,
                                                            const FramePiece& piece) {
  FieldReader reader(piece.payload);
  StreamDigest claimed;
  claimed.bytes = reader.Int(8);
  claimed.low = reader.Int(8);
  claimed.high = reader.Int(8);
  if (!reader.ok() || channel->close_received) return Violation("end of channel", id);
  const StreamDigest actual = channel->received_hash.Digest();
  if (claimed != actual) {
    return absl::DataLossError(absl::StrCat("the migration stream was damaged on its way: channel ",
                                            id, " carried ", actual.bytes, " bytes with digest ",
                                            actual.ToHex(), ", its sender says ", claimed.bytes,
                                            " bytes with ", claimed.ToHex()));
  }
  channel->close_received = true;
  RemoveIfDone(id);
  return ChannelEvent(SessionEvent::Kind::kPeerClosed, id);
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleMessage(const FramePiece& piece) {
  const auto kind = static_cast<MessageKind>(piece.header.channel);
  if (piece.first) {
    const bool starts = (piece.header.flags & kFlagFirst) != 0;
    if (starts == incoming_.has_value()) return Violation("a fragment out of order", 0);
    if (starts) incoming_ = SessionMessage{kind, ""};
    if (incoming_->kind != kind) return Violation("a fragment of another message", 0);
  }
  if (incoming_->bytes.size() + piece.payload.size() > limits_.max_message) {
    return Violation("a message larger than", limits_.max_message);
  }
  incoming_->bytes.append(piece.payload);
  if (!piece.last || (piece.header.flags & kFlagLast) == 0) return Event();
  unread_messages_ += incoming_->bytes.size() + kFrameHeaderSize;
  if (unread_messages_ > limits_.max_unread_messages) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the peer sent more than ", limits_.max_unread_messages,
                     " bytes of control messages that nobody read"));
  }
  SessionEvent event;
  event.kind = SessionEvent::Kind::kMessage;
  event.message = std::move(*incoming_);
  incoming_.reset();
  ++statistics_.messages_received;
  statistics_.message_bytes_received += event.message.bytes.size();
  return event;
}

absl::StatusOr<SessionCore::Event> SessionCore::HandlePong(const FramePiece& piece, TimePoint now) {
  if (piece.payload.size() != 8) return Violation("size of a pong", piece.payload.size());
  const uint64_t id = FieldReader(piece.payload).Int(8);
  const auto sent = pings_.find(id);
  if (sent == pings_.end()) return Event();
  SessionEvent event;
  event.kind = SessionEvent::Kind::kPong;
  event.id = id;
  event.rtt = now - sent->second;
  pings_.erase(sent);
  return event;
}

absl::StatusOr<SessionCore::Event> SessionCore::HandleGoodbye(const FramePiece& piece) {
  FieldReader reader(piece.payload);
  const auto code = static_cast<int>(reader.Int(1));
  if (!reader.ok()) return Violation("size of a goodbye", piece.payload.size());
  SessionEvent event;
  event.kind = SessionEvent::Kind::kGoodbye;
  if (code != 0) {
    const bool known = code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
    event.status = absl::Status(
        known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
        absl::StrCat("the other host gave up: ", std::string(piece.payload.substr(1))));
  }
  return event;
}

}  // namespace ferry::migration
