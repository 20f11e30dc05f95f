#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/frame.h"
#include "bridge/protocol/messages.h"

namespace ferry::guest {

// The host's half of the bridge protocol without I/O: bytes in, frames out, answers to callbacks.
// It outlives connections: waits stay pending over a lost link, all other calls fail with it.
class BridgeClientCore {
 public:
  // The answer's JSON text, or why there will be none.
  using Completion = std::function<void(absl::StatusOr<std::string>)>;
  using NotificationHandler = std::function<void(const bridge::ContainerNotification&)>;

  enum class Kind { kShort, kWait };

  void set_on_notification(NotificationHandler handler) { on_notification_ = std::move(handler); }

  // A new connection: negotiation is its first message. A previous one counts as lost.
  void Connected();
  // Fails the short calls with UNAVAILABLE and forgets what was not sent.
  void Disconnected(const absl::Status& reason);
  // Fails everything, now and later.
  void Close(const absl::Status& reason);

  // True between the answer to the negotiation and the loss of the connection.
  bool negotiated() const { return negotiated_; }
  const bridge::Capabilities& capabilities() const { return capabilities_; }

  // Sends a request. UNAVAILABLE unless negotiated.
  absl::StatusOr<int64_t> Call(uint32_t type, const std::string& payload, Kind kind,
                               Completion completion);

  // Sends the request of a call again, under the id that it has. False unless negotiated, and
  // unless its answer is still expected.
  bool Repeat(int64_t id, const std::string& payload);

  // Expects the answer to a wait that somebody else sent under this id. If the id is pending
  // already, the existing call is reused and completes both.
  void PreregisterWait(int64_t id, Completion completion) {
    Preregister(id, bridge::kWaitForProcess, std::move(completion));
  }
  // The same for another type of call that outlives its connection.
  void Preregister(int64_t id, uint32_t type, Completion completion);

  // No longer interested; a late answer is dropped.
  void Forget(int64_t id) { pending_.erase(id); }

  // The next unused id. Seeding only ever raises it; 0 says nothing.
  int64_t next_id() const { return next_id_; }
  void SeedNextId(int64_t next);

  // Bytes from the guest. An error means that this connection can't be trusted any longer.
  absl::Status Receive(std::string_view bytes);

  // The next whole frame for the guest.
  std::optional<std::string> TakeFrame();

  size_t pending() const { return pending_.size(); }
  uint64_t dropped_responses() const { return dropped_responses_; }

 private:
  struct PendingCall {
    uint32_t type = 0;
    Kind kind = Kind::kShort;
    std::vector<Completion> completions;
  };

  absl::Status HandleFrame(const bridge::Frame& frame);
  absl::Status HandleNegotiated(const std::string& payload);
  absl::Status HandleResponse(const bridge::Frame& frame);
  void Fail(bool waits_too, const absl::Status& reason);

  NotificationHandler on_notification_;
  bridge::FrameDecoder decoder_;
  std::deque<std::string> outgoing_;
  std::map<int64_t, PendingCall> pending_;
  // Every connection negotiates under id 0, which is why 0 can mean "no wait".
  int64_t next_id_ = 1;
  bool negotiating_ = false;
  bool negotiated_ = false;
  bridge::Capabilities capabilities_;
  absl::Status closed_;
  uint64_t dropped_responses_ = 0;
};

}  // namespace ferry::guest
