#include "bridge/mux/mux_core.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

// Data is taken for sending only below this; control frames go beyond it.
constexpr size_t kOutputHighWater = 1024 * 1024;
constexpr size_t kOutputLowWater = kOutputHighWater / 2;

// Beyond this the peer makes us answer without reading the answers. Honest peers stay far below:
// control frames are bounded by the connections and by the data that was consumed.
constexpr size_t kOutputLimit = 4 * kOutputHighWater;

std::optional<uint32_t> ParseNumber(std::string_view payload) {
  if (payload.size() != 4) return std::nullopt;
  uint32_t number = 0;
  for (int i = 3; i >= 0; --i) number = number << 8 | static_cast<unsigned char>(payload[i]);
  return number;
}

// The version in a hello or its answer, 0 if there is none. Later versions may append to it.
uint16_t ParseVersion(std::string_view payload) {
  if (payload.size() < 2) return 0;
  return static_cast<uint16_t>(static_cast<unsigned char>(payload[0]) |
                               static_cast<unsigned char>(payload[1]) << 8);
}

// The memory that a buffer takes beyond the object itself.
size_t HeldBy(const std::string& buffer) { return buffer.capacity() - std::string().capacity(); }

absl::Status GoneError(uint32_t connection) {
  return absl::NotFoundError(absl::StrCat("connection ", connection, " is gone"));
}

}  // namespace

MuxCore::MuxCore(MuxRole role, std::function<uint32_t()> next_epoch, uint16_t newest)
    : role_(role), next_epoch_(std::move(next_epoch)), newest_(newest) {}

// ---- the link ----

void MuxCore::StartEpoch() {
  DropConnections();
  ClearOutput();
  uint32_t former = epoch_;
  do {
    epoch_ = next_epoch_();
  } while (epoch_ == 0 || epoch_ == former);
  phase_ = Phase::kOffered;
  version_ = 1;
  send_sequence_ = receive_sequence_ = 0;
  SendHandshake(MuxFrameType::kHello, epoch_, newest_);
}

void MuxCore::RequestEpoch() { SendHandshake(MuxFrameType::kHelloRequest, lost_epoch_, newest_); }

void MuxCore::Receive(std::string_view bytes) {
  decoder_.Feed(bytes, [this](const std::optional<MuxFrame>& frame) { OnFrame(frame); });
}

void MuxCore::LinkGone() {
  DropConnections();
  ClearOutput();
  decoder_.Reset();
  if (phase_ != Phase::kDown) lost_epoch_ = epoch_;
  phase_ = Phase::kDown;
}

void MuxCore::RetryHandshake() {
  if (!output().empty()) return;
  if (role_ == MuxRole::kHost && phase_ == Phase::kOffered) {
    SendHandshake(MuxFrameType::kHello, epoch_, newest_);
  } else if (role_ == MuxRole::kGuest && phase_ == Phase::kDown) {
    RequestEpoch();
  }
}

bool MuxCore::WantsInput() const { return output().size() < kOutputLimit; }

void MuxCore::ConsumeOutput(size_t size) {
  bool was_high = output().size() > kOutputLowWater;
  output_head_ += size;
  if (output_head_ == output_.size()) {
    ClearOutput();
  } else if (output_head_ > kOutputHighWater) {
    output_.erase(0, output_head_);
    output_head_ = 0;
  }
  if (!was_high || output().size() > kOutputLowWater) return;
  for (auto& [connection, stream] : streams_) {
    if (!stream.wants_write || stream.send_credit == 0) continue;
    stream.wants_write = false;
    Emit(MuxEvent::Kind::kWritable, connection);
  }
}

void MuxCore::GoUp() {
  phase_ = Phase::kUp;
  Emit(MuxEvent::Kind::kLinkUp);
}

void MuxCore::LoseEpoch() {
  if (role_ == MuxRole::kHost) {
    StartEpoch();
    return;
  }
  DropConnections();
  ClearOutput();
  lost_epoch_ = epoch_;
  phase_ = Phase::kDown;
  RequestEpoch();
}

void MuxCore::DropConnections() {
  streams_.clear();
  buffered_ = 0;
  // News of them must not be taken for news of the next epoch's connections of the same numbers.
  std::erase_if(events_, [](const MuxEvent& event) {
    return event.kind != MuxEvent::Kind::kLinkUp && event.kind != MuxEvent::Kind::kLinkDown;
  });
  if (phase_ == Phase::kUp) Emit(MuxEvent::Kind::kLinkDown);
}

void MuxCore::ClearOutput() {
  output_.clear();
  output_head_ = 0;
}

// ---- frames ----

void MuxCore::OnFrame(const std::optional<MuxFrame>& frame) {
  if (!frame.has_value()) {
    // Before an epoch is up this is what was left of a former one.
    if (phase_ == Phase::kUp) LoseEpoch();
    return;
  }
  switch (frame->type) {
    case MuxFrameType::kHello:
      return OnHello(*frame);
    case MuxFrameType::kHelloAck:
      return OnHelloAck(*frame);
    case MuxFrameType::kHelloRequest:
      return OnHelloRequest(*frame);
    default:
      break;
  }
  if (phase_ == Phase::kDown || frame->epoch != epoch_) return;
  if (frame->sequence != receive_sequence_) return LoseEpoch();
  ++receive_sequence_;
  if (phase_ == Phase::kOffered) {
    // The answer to the hello was damaged. The first frame after it tells the same, unless there
    // is more than one version to choose from.
    if (newest_ > 1) return LoseEpoch();
    GoUp();
  }
  if (frame->type == MuxFrameType::kConnect) {
    OnConnect(*frame);
  } else {
    OnStreamFrame(*frame);
  }
}

void MuxCore::OnHello(const MuxFrame& frame) {
  const uint16_t offered = ParseVersion(frame.payload);
  if (role_ != MuxRole::kGuest || frame.epoch == 0 || offered == 0) return;
  if (frame.epoch == lost_epoch_) return;  // sent before the host learnt that we gave it up
  if (phase_ == Phase::kUp && frame.epoch == epoch_) {
    SendHandshake(MuxFrameType::kHelloAck, epoch_, version_);
    return;
  }
  DropConnections();
  ClearOutput();
  epoch_ = frame.epoch;
  lost_epoch_ = 0;
  version_ = std::min(offered, newest_);
  send_sequence_ = receive_sequence_ = 0;
  SendHandshake(MuxFrameType::kHelloAck, epoch_, version_);
  GoUp();
}

void MuxCore::OnHelloAck(const MuxFrame& frame) {
  if (role_ != MuxRole::kHost || phase_ != Phase::kOffered || frame.epoch != epoch_) return;
  const uint16_t version = ParseVersion(frame.payload);
  if (version == 0 || version > newest_) return;
  version_ = version;
  GoUp();
}

void MuxCore::OnHelloRequest(const MuxFrame& frame) {
  if (role_ != MuxRole::kHost || phase_ == Phase::kDown) return;
  // A guest that merely came up late, or gave up a former epoch, gets the offer that stands.
  if (phase_ == Phase::kOffered && frame.epoch != epoch_) {
    if (output().empty()) SendHandshake(MuxFrameType::kHello, epoch_, newest_);
    return;
  }
  StartEpoch();
}

void MuxCore::OnConnect(const MuxFrame& frame) {
  std::optional<uint32_t> port = ParseNumber(frame.payload);
  if (role_ != MuxRole::kHost || !port.has_value() || Find(frame.connection) != nullptr) {
    return LoseEpoch();
  }
  if (streams_.size() >= kMaxMuxConnections) {
    return Send(MuxFrameType::kReset, frame.connection, {});
  }
  streams_.try_emplace(frame.connection);
  Emit(MuxEvent::Kind::kIncoming, frame.connection, *port);
}

void MuxCore::OnStreamFrame(const MuxFrame& frame) {
  // What is under way to a connection that this side has closed says nothing any more.
  Stream* stream = Find(frame.connection);
  const bool known = stream != nullptr && !stream->reset;
  switch (frame.type) {
    case MuxFrameType::kAccept:
      if (role_ != MuxRole::kGuest || (known && stream->open)) return LoseEpoch();
      if (!known) return;
      stream->open = true;
      return Emit(MuxEvent::Kind::kAccepted, frame.connection);
    case MuxFrameType::kReset:
      if (known) OnReset(frame.connection, *stream);
      return;
    case MuxFrameType::kData:
      if (known) OnData(frame.connection, *stream, frame.payload);
      return;
    case MuxFrameType::kCredit:
      if (known) OnCredit(frame.connection, *stream, frame.payload);
      return;
    case MuxFrameType::kFin:
      if (known) OnFin(frame.connection, *stream);
      return;
    default:
      return LoseEpoch();
  }
}

void MuxCore::OnData(uint32_t connection, Stream& stream, std::string_view payload) {
  if (!stream.open || stream.fin_received || payload.empty() ||
      payload.size() > stream.receive_window) {
    return LoseEpoch();
  }
  stream.receive_window -= payload.size();
  if (stream.received_head == stream.received.size()) {
    stream.received.clear();
    stream.received_head = 0;
    Emit(MuxEvent::Kind::kReadable, connection);
  } else if (stream.received_head > kMuxWindow / 2) {
    stream.received.erase(0, stream.received_head);
    stream.received_head = 0;
  }
  const size_t before = stream.received.capacity();
  stream.received.append(payload);
  buffered_ += stream.received.capacity() - before;
  if (buffered_ > kMaxMuxBuffered) BoundBuffers();
}

void MuxCore::ReleaseBuffer(Stream& stream) {
  buffered_ -= HeldBy(stream.received);
  std::string().swap(stream.received);
  stream.received_head = 0;
}

void MuxCore::BoundBuffers() {
  for (auto& [connection, stream] : streams_) {
    if (stream.received_head == stream.received.size()) ReleaseBuffer(stream);
  }
  while (buffered_ > kMaxMuxBuffered) {
    auto& [connection, stream] =
        *std::max_element(streams_.begin(), streams_.end(), [](const auto& a, const auto& b) {
          return HeldBy(a.second.received) < HeldBy(b.second.received);
        });
    ReleaseBuffer(stream);
    // What was dropped must not pass for the end.
    stream.fin_received = false;
    if (stream.reset) continue;
    Send(MuxFrameType::kReset, connection, {});
    OnReset(connection, stream);
  }
}

void MuxCore::OnCredit(uint32_t connection, Stream& stream, std::string_view payload) {
  std::optional<uint32_t> credit = ParseNumber(payload);
  if (!stream.open || !credit.has_value() || *credit > kMuxWindow - stream.send_credit) {
    return LoseEpoch();
  }
  stream.send_credit += *credit;
  if (!stream.wants_write) return;
  stream.wants_write = false;
  Emit(MuxEvent::Kind::kWritable, connection);
}

void MuxCore::OnFin(uint32_t connection, Stream& stream) {
  if (!stream.open || stream.fin_received) return LoseEpoch();
  stream.fin_received = true;
  Emit(MuxEvent::Kind::kReadable, connection);
}

void MuxCore::OnReset(uint32_t connection, Stream& stream) {
  stream.reset = true;
  Emit(MuxEvent::Kind::kReset, connection);
}

// ---- connections ----

absl::StatusOr<uint32_t> MuxCore::Connect(uint32_t port) {
  if (role_ != MuxRole::kGuest) return absl::FailedPreconditionError("only the guest dials");
  if (phase_ != Phase::kUp) {
    return absl::UnavailableError(
        absl::StrCat("cannot dial port ", port, ": the host is not there"));
  }
  if (streams_.size() >= kMaxMuxConnections) {
    return absl::UnavailableError(absl::StrCat("cannot dial port ", port, ": ", streams_.size(),
                                               " connections are open already"));
  }
  while (Find(next_connection_) != nullptr) ++next_connection_;
  uint32_t connection = next_connection_++;
  streams_.try_emplace(connection);
  SendNumber(MuxFrameType::kConnect, connection, port);
  return connection;
}

void MuxCore::Accept(uint32_t connection) {
  Stream* stream = Find(connection);
  if (stream == nullptr || stream->reset || stream->open) return;
  stream->open = true;
  Send(MuxFrameType::kAccept, connection, {});
}

MuxCore::ReadResult MuxCore::Read(uint32_t connection, std::span<char> buffer) {
  ReadResult result;
  Stream* stream = Find(connection);
  if (stream == nullptr) {
    result.reset = true;
    return result;
  }
  size_t available = stream->received.size() - stream->received_head;
  if (available == 0) {
    result.ended = stream->fin_received;
    result.reset = stream->reset && !result.ended;
    return result;
  }
  result.size = std::min(available, buffer.size());
  std::memcpy(buffer.data(), stream->received.data() + stream->received_head, result.size);
  stream->received_head += result.size;
  stream->taken += result.size;
  if (stream->taken >= kMuxWindow / 4 && !stream->reset && !stream->fin_received) {
    SendNumber(MuxFrameType::kCredit, connection, static_cast<uint32_t>(stream->taken));
    stream->receive_window += stream->taken;
    stream->taken = 0;
  }
  return result;
}

absl::StatusOr<size_t> MuxCore::Write(uint32_t connection, std::string_view data) {
  Stream* stream = Find(connection);
  if (stream == nullptr || stream->reset || !stream->open) return GoneError(connection);
  if (stream->fin_sent) return absl::FailedPreconditionError("the writing side is closed");
  size_t written = 0;
  while (written < data.size() && stream->send_credit > 0 && output().size() < kOutputHighWater) {
    size_t size = std::min({data.size() - written, stream->send_credit, kMaxMuxPayload});
    Send(MuxFrameType::kData, connection, data.substr(written, size));
    stream->send_credit -= size;
    written += size;
  }
  stream->wants_write = written < data.size();
  return written;
}

absl::Status MuxCore::CloseWrite(uint32_t connection) {
  Stream* stream = Find(connection);
  if (stream == nullptr || stream->reset || !stream->open) return GoneError(connection);
  if (stream->fin_sent) return absl::OkStatus();
  stream->fin_sent = true;
  Send(MuxFrameType::kFin, connection, {});
  return absl::OkStatus();
}

void MuxCore::Close(uint32_t connection) {
  Stream* stream = Find(connection);
  if (stream == nullptr) return;
  bool in_order = stream->fin_sent && stream->fin_received;
  if (!in_order && !stream->reset) Send(MuxFrameType::kReset, connection, {});
  ReleaseBuffer(*stream);
  streams_.erase(connection);
}

// ---- sending ----

void MuxCore::SendHandshake(MuxFrameType type, uint32_t epoch, uint16_t number) {
  // Ends what may be left of a frame that was cut off.
  output_.push_back('\0');
  const char version[2] = {static_cast<char>(number & 0xff), static_cast<char>(number >> 8)};
  MuxFrame frame{.type = type, .epoch = epoch, .payload = std::string_view(version, 2)};
  AppendMuxFrame(frame, output_);
}

void MuxCore::Send(MuxFrameType type, uint32_t connection, std::string_view payload) {
  MuxFrame frame{.type = type,
                 .epoch = epoch_,
                 .sequence = send_sequence_++,
                 .connection = connection,
                 .payload = payload};
  AppendMuxFrame(frame, output_);
}

void MuxCore::SendNumber(MuxFrameType type, uint32_t connection, uint32_t number) {
  char payload[4];
  for (int i = 0; i < 4; ++i) payload[i] = static_cast<char>(number >> (8 * i));
  Send(type, connection, std::string_view(payload, 4));
}

void MuxCore::Emit(MuxEvent::Kind kind, uint32_t connection, uint32_t port) {
  events_.push_back(MuxEvent{kind, connection, port});
}

MuxCore::Stream* MuxCore::Find(uint32_t connection) {
  auto it = streams_.find(connection);
  return it == streams_.end() ? nullptr : &it->second;
}

}  // namespace ferry::bridge
