#include <algorithm>
#include <utility>

#include "migration/connection/session_core.h"

namespace ferry::migration {

OutputFrame SessionCore::MakeOutput(FrameType type, uint8_t flags, uint16_t channel,
                                    std::string_view payload) {
  FrameHeader header;
  header.length = static_cast<uint32_t>(payload.size());
  header.type = type;
  header.flags = flags;
  header.channel = channel;
  header.sequence = next_sent_sequence_++;
  ++statistics_.frames_sent;
  statistics_.bytes_sent += kFrameHeaderSize + payload.size();
  current_type_ = type;
  OutputFrame frame;
  frame.header = EncodeHeader(header);
  frame.payload = payload;
  frame.bulk_channel = type == FrameType::kData ? channel : 0;
  return frame;
}

std::optional<OutputFrame> SessionCore::NextOutput(TimePoint now) {
  if (current_) return current_;
  if (goodbye_written_) return std::nullopt;
  const bool failing = goodbye_wanted_ && !goodbye_wanted_->ok();
  current_ = ControlOutput(now);
  if (!current_ && !failing && !bulk_turn_) current_ = MessageOutput();
  if (!current_ && !goodbye_wanted_) current_ = BulkOutput(now);
  if (!current_ && !failing) current_ = MessageOutput();
  if (!current_ && goodbye_wanted_ && !goodbye_queued_) {
    goodbye_queued_ = true;
    std::string payload;
    AppendInt(&payload, static_cast<uint8_t>(goodbye_wanted_->code()), 1);
    payload.append(std::string(goodbye_wanted_->message().substr(0, kMaxSmallPayload - 1)));
    PushControl(FrameType::kGoodbye, 0, std::move(payload));
    current_ = ControlOutput(now);
  }
  return current_;
}

std::optional<OutputFrame> SessionCore::ControlOutput(TimePoint now) {
  if (control_.empty()) return std::nullopt;
  current_control_ = std::move(control_.front());
  control_.pop_front();
  if (current_control_.type == FrameType::kPing) {
    constexpr size_t kMaxPings = 64;
    if (pings_.size() >= kMaxPings) pings_.erase(pings_.begin());
    pings_[FieldReader(current_control_.payload).Int(8)] = now;
  }
  return MakeOutput(current_control_.type, current_control_.flags, current_control_.channel,
                    current_control_.payload);
}

std::optional<OutputFrame> SessionCore::MessageOutput() {
  if (messages_.empty()) return std::nullopt;
  const SessionMessage& message = messages_.front();
  const std::string_view fragment =
      std::string_view(message.bytes).substr(message_offset_, kMaxFragment);
  uint8_t flags = message_offset_ == 0 ? kFlagFirst : 0;
  message_offset_ += fragment.size();
  if (message_offset_ == message.bytes.size()) flags |= kFlagLast;
  bulk_turn_ = BulkWaiting();
  statistics_.message_bytes_sent += fragment.size();
  return MakeOutput(FrameType::kMessage, flags, static_cast<uint16_t>(message.kind), fragment);
}

bool SessionCore::BulkReady(const Channel& channel) const {
  if (channel.close_sent) return false;
  if (channel.queue.empty()) return channel.close_wanted;
  return channel.sent < channel.send_limit;
}

bool SessionCore::BulkWaiting() const {
  return std::any_of(channels_.begin(), channels_.end(),
                     [this](const auto& entry) { return BulkReady(entry.second); });
}

SessionCore::Channel* SessionCore::NextReadyChannel(uint16_t* id) {
  auto it = channels_.upper_bound(last_bulk_);
  for (size_t i = 0; i < channels_.size(); ++i, ++it) {
    if (it == channels_.end()) it = channels_.begin();
    if (BulkReady(it->second)) {
      *id = last_bulk_ = it->first;
      return &it->second;
    }
  }
  return nullptr;
}

std::optional<OutputFrame> SessionCore::BulkOutput(TimePoint now) {
  bulk_turn_ = false;
  if (!bucket_.MayGo(now)) return std::nullopt;
  uint16_t id = 0;
  Channel* channel = NextReadyChannel(&id);
  if (channel == nullptr) return std::nullopt;
  if (channel->queue.empty()) {
    const StreamDigest digest = channel->sent_hash.Digest();
    current_control_ = ControlFrame{FrameType::kClose, 0, id, ""};
    AppendInt(&current_control_.payload, digest.bytes, 8);
    AppendInt(&current_control_.payload, digest.low, 8);
    AppendInt(&current_control_.payload, digest.high, 8);
    channel->close_sent = true;
    RemoveIfDone(id);
    return MakeOutput(FrameType::kClose, 0, id, current_control_.payload);
  }
  const uint64_t credit = channel->send_limit - channel->sent;
  std::string_view data = channel->queue.front().substr(channel->front_offset);
  data = data.substr(0, std::min<uint64_t>(credit, kMaxBulkPayload));
  channel->front_offset += data.size();
  channel->sent += data.size();
  channel->sent_hash.Update(data);
  bucket_.Pay(kFrameHeaderSize + data.size());
  statistics_.bulk_bytes_sent += data.size();
  return MakeOutput(FrameType::kData, 0, id, data);
}

std::optional<uint16_t> SessionCore::OutputDone() {
  if (!current_) return std::nullopt;
  const uint16_t id = current_->bulk_channel;
  current_.reset();
  if (current_type_ == FrameType::kGoodbye) goodbye_written_ = true;
  if (current_type_ == FrameType::kMessage && message_offset_ == messages_.front().bytes.size()) {
    messages_.pop_front();
    message_offset_ = 0;
    ++statistics_.messages_sent;
  }
  const auto it = channels_.find(id);
  if (id == 0 || it == channels_.end() || it->second.queue.empty()) return std::nullopt;
  Channel& channel = it->second;
  if (channel.front_offset < channel.queue.front().size()) return std::nullopt;
  channel.queue.pop_front();
  channel.front_offset = 0;
  return id;
}

std::optional<SessionCore::TimePoint> SessionCore::NextBulkTime() const {
  if (bucket_.rate() == 0 || goodbye_wanted_ || !BulkWaiting()) return std::nullopt;
  return bucket_.NextTime();
}

}  // namespace ferry::migration
