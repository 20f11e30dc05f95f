#include "guestmanager/bridge_client_core.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace ferry::guest {

using bridge::Frame;

void BridgeClientCore::Connected() {
  Disconnected(absl::UnavailableError("the guest's agent has connected anew"));
  if (!closed_.ok()) return;
  decoder_ = bridge::FrameDecoder();
  negotiating_ = true;
  absl::StatusOr<std::string> frame =
      bridge::EncodeFrame(bridge::kNegotiateProtocol, 0, Encode(bridge::NegotiateRequest{}));
  if (frame.ok()) outgoing_.push_back(*std::move(frame));
}

void BridgeClientCore::Disconnected(const absl::Status& reason) {
  negotiating_ = false;
  negotiated_ = false;
  outgoing_.clear();
  Fail(/*waits_too=*/false, reason);
}

void BridgeClientCore::Close(const absl::Status& reason) {
  if (!closed_.ok()) return;
  closed_ = reason.ok() ? absl::UnavailableError("the guest's connection was closed") : reason;
  negotiating_ = false;
  negotiated_ = false;
  outgoing_.clear();
  Fail(/*waits_too=*/true, closed_);
}

void BridgeClientCore::Fail(bool waits_too, const absl::Status& reason) {
  // Completions may start new calls, so the map is settled before any of them runs.
  std::vector<Completion> failed;
  for (auto it = pending_.begin(); it != pending_.end();) {
    if (!waits_too && it->second.kind == Kind::kWait) {
      ++it;
      continue;
    }
    std::move(it->second.completions.begin(), it->second.completions.end(),
              std::back_inserter(failed));
    it = pending_.erase(it);
  }
  for (Completion& completion : failed) completion(reason);
}

absl::StatusOr<int64_t> BridgeClientCore::Call(uint32_t type, const std::string& payload, Kind kind,
                                               Completion completion) {
  if (!closed_.ok()) return closed_;
  if (!negotiated_) {
    return absl::UnavailableError("the guest's agent is not connected; try again when it is");
  }
  if (next_id_ == std::numeric_limits<int64_t>::max()) {
    return absl::ResourceExhaustedError("the guest's message ids are used up; restart the VM");
  }
  absl::StatusOr<std::string> frame = bridge::EncodeFrame(type, next_id_, payload);
  if (!frame.ok()) return frame.status();
  const int64_t id = next_id_++;
  PendingCall& call = pending_[id];
  call.type = type;
  call.kind = kind;
  call.completions.push_back(std::move(completion));
  outgoing_.push_back(*std::move(frame));
  return id;
}

bool BridgeClientCore::Repeat(int64_t id, const std::string& payload) {
  const auto found = pending_.find(id);
  if (!negotiated_ || found == pending_.end()) return false;
  absl::StatusOr<std::string> frame = bridge::EncodeFrame(found->second.type, id, payload);
  if (!frame.ok()) return false;
  outgoing_.push_back(*std::move(frame));
  return true;
}

void BridgeClientCore::Preregister(int64_t id, uint32_t type, Completion completion) {
  if (!closed_.ok()) return completion(closed_);
  PendingCall& call = pending_[id];
  if (call.completions.empty()) {
    call.type = type;
    call.kind = Kind::kWait;
  }
  call.completions.push_back(std::move(completion));
}

void BridgeClientCore::SeedNextId(int64_t next) { next_id_ = std::max(next_id_, next); }

absl::Status BridgeClientCore::Receive(std::string_view bytes) {
  decoder_.Append(bytes);
  while (true) {
    absl::StatusOr<std::optional<Frame>> frame = decoder_.Next();
    if (!frame.ok()) return frame.status();
    if (!frame->has_value()) return absl::OkStatus();
    absl::Status status = HandleFrame(**frame);
    if (!status.ok()) return status;
  }
}

absl::Status BridgeClientCore::HandleFrame(const Frame& frame) {
  if (frame.type == bridge::kContainerNotification) {
    absl::StatusOr<bridge::ContainerNotification> notification =
        bridge::Decode<bridge::ContainerNotification>(frame.payload);
    if (!notification.ok()) return notification.status();
    if (on_notification_) on_notification_(*notification);
    return absl::OkStatus();
  }
  if (!bridge::IsResponse(frame.type)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the agent sent a message of unknown type 0x%08x", frame.type));
  }
  if (frame.id == 0 && negotiating_) {
    if (frame.type != bridge::ResponseType(bridge::kNegotiateProtocol)) {
      return absl::InvalidArgumentError("the agent answered something else than the negotiation");
    }
    return HandleNegotiated(frame.payload);
  }
  return HandleResponse(frame);
}

absl::Status BridgeClientCore::HandleNegotiated(const std::string& payload) {
  absl::StatusOr<bridge::NegotiateResponse> response =
      bridge::Decode<bridge::NegotiateResponse>(payload);
  if (!response.ok()) return response.status();
  if (response->result != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the agent refused to negotiate (0x%08x): %s",
                        bridge::HResult(response->result), response->error_message));
  }
  if (response->version != bridge::kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the agent wants protocol version ",
                                                      response->version, ", this host speaks ",
                                                      bridge::kProtocolVersion));
  }
  capabilities_ = response->capabilities;
  negotiating_ = false;
  negotiated_ = true;
  return absl::OkStatus();
}

absl::Status BridgeClientCore::HandleResponse(const Frame& frame) {
  auto found = pending_.find(frame.id);
  if (found == pending_.end()) {
    // An answer to a call of an earlier connection, or to a wait that was answered twice.
    ++dropped_responses_;
    return absl::OkStatus();
  }
  if (frame.type != bridge::ResponseType(found->second.type)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the agent answered call %d of type 0x%08x with type 0x%08x", frame.id,
                        found->second.type, frame.type));
  }
  std::vector<Completion> completions = std::move(found->second.completions);
  pending_.erase(found);
  for (Completion& completion : completions) completion(frame.payload);
  return absl::OkStatus();
}

std::optional<std::string> BridgeClientCore::TakeFrame() {
  if (outgoing_.empty()) return std::nullopt;
  std::string frame = std::move(outgoing_.front());
  outgoing_.pop_front();
  return frame;
}

}  // namespace ferry::guest
