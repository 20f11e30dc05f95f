#include "bridge/guest/bridge_outbox.h"

#include <utility>

namespace ferry::bridge {

void BridgeOutbox::OnConnect() {
  direct_.clear();
  negotiated_ = false;
}

void BridgeOutbox::OnDisconnect() { OnConnect(); }

void BridgeOutbox::OnNegotiated() {
  negotiated_ = true;
  work_.Set();
}

void BridgeOutbox::PostDirect(std::string frame) {
  direct_.push_back(std::move(frame));
  work_.Set();
}

void BridgeOutbox::Post(std::string frame) {
  held_bytes_ += frame.size();
  held_.push_back(std::move(frame));
  while (held_.size() > kMaxMessages || held_bytes_ > kMaxBytes) {
    held_bytes_ -= held_.front().size();
    held_.pop_front();
  }
  work_.Set();
}

std::optional<std::string> BridgeOutbox::Take() {
  if (!direct_.empty()) {
    std::string frame = std::move(direct_.front());
    direct_.pop_front();
    return frame;
  }
  if (!negotiated_ || held_.empty()) return std::nullopt;
  std::string frame = std::move(held_.front());
  held_.pop_front();
  held_bytes_ -= frame.size();
  writing_held_ = true;
  return frame;
}

void BridgeOutbox::PutBack(std::string frame) {
  if (!std::exchange(writing_held_, false)) return;
  held_bytes_ += frame.size();
  held_.push_front(std::move(frame));
}

}  // namespace ferry::bridge
