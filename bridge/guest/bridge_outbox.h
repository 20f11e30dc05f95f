#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "bridge/runtime/async.h"

namespace ferry::bridge {

// What the agent has to say to the host: answers that outlived their connection and notifications
// wait here until a connection has negotiated the protocol. No I/O.
class BridgeOutbox {
 public:
  // Beyond either bound the oldest message is dropped: a host that stays away so long asks anew.
  static constexpr size_t kMaxMessages = 4096;
  static constexpr size_t kMaxBytes = 8 * 1024 * 1024;

  explicit BridgeOutbox(Executor executor) : work_(executor) {}

  // A new connection; nothing may be sent on it but answers to what it asks itself.
  void OnConnect();

  // The connection is gone. What it did not get to write waits for the next.
  void OnDisconnect();

  // From here on everything that waits may be sent.
  void OnNegotiated();

  // For the current connection only, ahead of the rest: an answer before or to the negotiation.
  void PostDirect(std::string frame);

  // For whichever connection has negotiated.
  void Post(std::string frame);

  // The next frame to write, nullopt if there is none that may be sent now.
  std::optional<std::string> Take();

  // The frame last taken: written, or lost with its connection. A lost one is sent again, except
  // for direct ones; the host may then see an answer twice, but never not at all.
  void Written() { writing_held_ = false; }
  void PutBack(std::string frame);

  // Set when Take() may have something.
  AsyncEvent& work() { return work_; }
  bool negotiated() const { return negotiated_; }
  size_t waiting() const { return held_.size(); }

 private:
  std::deque<std::string> direct_;
  std::deque<std::string> held_;
  size_t held_bytes_ = 0;
  bool negotiated_ = false;
  bool writing_held_ = false;
  AsyncEvent work_;
};

}  // namespace ferry::bridge
