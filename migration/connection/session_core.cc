#include "migration/connection/session_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

// This file: handshake, channels, messages and keepalive. session_core_input.cc handles what the
// peer sends; session_core_output.cc chooses what is sent next.
namespace ferry::migration {
namespace {

constexpr size_t kMaxQueuedControl = 8192;
constexpr size_t kMaxFinished = 256;
constexpr uint16_t kLastId = 0xfffd;

std::string EncodeU64(uint64_t value) {
  std::string out;
  AppendInt(&out, value, 8);
  return out;
}

}  // namespace

SessionCore::SessionCore(Role role, const SessionLimits& limits, TimePoint now)
    : role_(role),
      limits_(limits),
      next_own_id_(role == Role::kSource ? 2 : 1),
      last_ping_(now),
      last_received_(now),
      last_tick_(now) {
  bucket_.SetRate(0, now);
}

absl::Status SessionCore::Fail(absl::Status status) {
  if (failure_.ok()) {
    failure_ = std::move(status);
    SayGoodbye(failure_);
  }
  return failure_;
}

void SessionCore::PushControl(FrameType type, uint16_t channel, std::string payload) {
  if (goodbye_wanted_ && type != FrameType::kGoodbye) return;
  if (control_.size() >= kMaxQueuedControl) {
    Fail(absl::ResourceExhaustedError(
             "the peer asks for more answers than it reads; the session connection is closed"))
        .IgnoreError();
    return;
  }
  control_.push_back(ControlFrame{type, 0, channel, std::move(payload)});
}

void SessionCore::SendHello(const HandshakeParams& params) {
  Hello hello;
  hello.min_version = limits_.versions.min;
  hello.max_version = limits_.versions.max;
  hello.role = params.role;
  hello.window = limits_.window;
  hello.session_id = params.session_id;
  hello.token = params.token;
  hello.journal_id = params.journal_id;
  PushControl(FrameType::kHello, 0, EncodeHello(hello));
}

void SessionCore::Accept(const Hello& hello, const std::string& journal_id) {
  HelloAck ack;
  ack.version = NegotiateVersion(hello, limits_.versions).value_or(limits_.versions.max);
  ack.role = role_;
  ack.window = limits_.window;
  ack.journal_id = journal_id;
  version_ = ack.version;
  peer_window_ = hello.window;
  peer_journal_id_ = hello.journal_id;
  established_ = true;
  PushControl(FrameType::kHelloAck, 0, EncodeHelloAck(ack));
}

void SessionCore::Refuse(const Refusal& refusal) {
  PushControl(FrameType::kRefused, 0, EncodeRefusal(refusal));
  SayGoodbye(absl::OkStatus());
}

bool SessionCore::IsOwnId(uint16_t id) const { return (id % 2 == 0) == (role_ == Role::kSource); }

bool SessionCore::WasOpened(uint16_t id) const {
  if (id == 0) return false;
  return IsOwnId(id) ? id < next_own_id_ : id <= last_peer_id_;
}

absl::StatusOr<uint16_t> SessionCore::Open() {
  if (!established_ || goodbye_wanted_) {
    return absl::UnavailableError("the session connection is not open");
  }
  if (channels_.size() >= limits_.max_channels || next_own_id_ > kLastId) {
    return absl::ResourceExhaustedError(absl::StrCat("the session connection has its most of ",
                                                     limits_.max_channels,
                                                     " channels open; use fewer multifd channels"));
  }
  const uint16_t id = next_own_id_;
  next_own_id_ += 2;
  AddChannel(id);
  PushControl(FrameType::kOpen, id, std::string(1, '\0'));
  return id;
}

SessionCore::Channel& SessionCore::AddChannel(uint16_t id) {
  Channel& channel = channels_[id];
  channel.send_limit = peer_window_;
  channel.receive_limit = limits_.window;
  return channel;
}

void SessionCore::RemoveChannel(uint16_t id) {
  const auto it = channels_.find(id);
  if (it == channels_.end()) return;
  if (finished_.size() >= kMaxFinished) finished_.erase(finished_.begin());
  finished_[id] = FinishedChannel{it->second.sent_hash.Digest(), it->second.received_hash.Digest()};
  channels_.erase(it);
}

void SessionCore::RemoveIfDone(uint16_t id) {
  const auto it = channels_.find(id);
  if (it != channels_.end() && it->second.close_sent && it->second.close_received) {
    RemoveChannel(id);
  }
}

void SessionCore::QueueData(uint16_t id, std::string_view data) {
  const auto it = channels_.find(id);
  if (it == channels_.end() || it->second.close_wanted || data.empty()) return;
  it->second.queue.push_back(data);
}

size_t SessionCore::queued_buffers(uint16_t id) const {
  const auto it = channels_.find(id);
  return it == channels_.end() ? 0 : it->second.queue.size();
}

void SessionCore::CloseHalf(uint16_t id) {
  const auto it = channels_.find(id);
  if (it != channels_.end()) it->second.close_wanted = true;
}

void SessionCore::Reset(uint16_t id, std::string_view why) {
  if (!channels_.contains(id)) return;
  RemoveChannel(id);
  PushControl(FrameType::kReset, id, std::string(why.substr(0, kMaxSmallPayload)));
}

void SessionCore::Consumed(uint16_t id, size_t size) {
  const auto it = channels_.find(id);
  if (it == channels_.end()) return;
  Channel& channel = it->second;
  channel.consumed += size;
  // A quarter of the window at a time: few frames, and the sender never runs dry.
  const uint64_t limit = channel.consumed + limits_.window;
  if (channel.close_received || limit - channel.receive_limit < limits_.window / 4) return;
  channel.receive_limit = limit;
  PushControl(FrameType::kCredit, id, EncodeU64(limit));
}

std::optional<StreamDigest> SessionCore::SentDigest(uint16_t id) const {
  if (const auto it = channels_.find(id); it != channels_.end()) {
    return it->second.sent_hash.Digest();
  }
  if (const auto it = finished_.find(id); it != finished_.end()) return it->second.sent;
  return std::nullopt;
}

std::optional<StreamDigest> SessionCore::ReceivedDigest(uint16_t id) const {
  if (const auto it = channels_.find(id); it != channels_.end()) {
    return it->second.received_hash.Digest();
  }
  if (const auto it = finished_.find(id); it != finished_.end()) return it->second.received;
  return std::nullopt;
}

absl::Status SessionCore::SendMessage(SessionMessage message) {
  if (message.bytes.size() > limits_.max_message) {
    return absl::InvalidArgumentError(
        absl::StrCat("a control message of ", message.bytes.size(),
                     " bytes exceeds the session connection's limit of ", limits_.max_message));
  }
  if (!established_ || goodbye_wanted_) {
    return absl::UnavailableError("the session connection is not open");
  }
  messages_.push_back(std::move(message));
  return absl::OkStatus();
}

uint64_t SessionCore::SendPing() {
  const uint64_t id = next_ping_++;
  PushControl(FrameType::kPing, 0, EncodeU64(id));
  return id;
}

absl::Status SessionCore::Tick(TimePoint now) {
  if (!failure_.ok()) return failure_;
  const bool late = now - last_tick_ > limits_.ping_interval;
  last_tick_ = now;
  if (!established_ || goodbye_wanted_) return absl::OkStatus();
  if (late) {
    // It was us who did not run: what the peer said meanwhile is still unread.
    last_received_ = std::max(last_received_, now - limits_.silence_limit + limits_.ping_interval);
  }
  if (now - last_received_ >= limits_.silence_limit) {
    return Fail(absl::UnavailableError(
        absl::StrCat("the other host has been silent for ", limits_.silence_limit.count(),
                     " ms; check it and the network between the hosts")));
  }
  if (now - last_ping_ >= limits_.ping_interval) {
    last_ping_ = now;
    SendPing();
  }
  return absl::OkStatus();
}

void SessionCore::SayGoodbye(const absl::Status& reason) {
  if (goodbye_wanted_) return;
  goodbye_wanted_ = reason;
  if (!reason.ok()) {
    // A fragment that is being written now still refers to the first message.
    if (messages_.size() > 1) messages_.erase(messages_.begin() + 1, messages_.end());
    control_.clear();
  }
}

void SessionCore::SetRateLimit(uint64_t bytes_per_second, TimePoint now) {
  bucket_.SetRate(bytes_per_second, now);
}

}  // namespace ferry::migration
