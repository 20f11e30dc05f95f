#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"
#include "guestmanager/bridge_client_core.h"
#include "guestmanager/link_gate.h"

namespace ferry::guest {

// Drives BridgeClientCore: listens on the bridge port for as long as the guest lives, serves the
// newest connection, negotiates on each.
class GuestConnection : public std::enable_shared_from_this<GuestConnection> {
 public:
  GuestConnection(std::shared_ptr<LinkGate> gate, milliseconds rpc_timeout);

  absl::Status Listen();
  Task<absl::Status> WaitReady();
  bool ready() const { return core_.negotiated(); }

  // `on_ready` is called after each negotiation. Set both before Listen(), and null before their
  // owner goes away.
  void set_on_ready(std::function<void()> on_ready) { on_ready_ = std::move(on_ready); }
  BridgeClientCore& core() { return core_; }
  const BridgeClientCore& core() const { return core_; }

  // One call; the answer's JSON text. Waits until the guest's clock is set, unless it ends all or
  // thaws filesystems. A call that expires takes the connection down (the agent is stuck or gone;
  // it dials again). A cancelled caller may leave earlier.
  Task<absl::StatusOr<std::string>> Call(uint32_t type, std::string payload, milliseconds limit);
  milliseconds rpc_timeout() const { return rpc_timeout_; }
  const Executor& executor() const { return gate_->executor; }
  // Processes are told nothing before the guest's clock is set. Returns at once without an agent,
  // or when it is closed.
  Task<absl::Status> AwaitClock(milliseconds limit);
  // The same, for as long as the guest may stand still.
  Task<void> AwaitClock();

  // Starts a call that survives a lost link; its id, or 0 if it can't be sent now.
  int64_t StartLasting(uint32_t type, const std::string& payload,
                       BridgeClientCore::Completion completion);
  int64_t StartWait(const std::string& payload, BridgeClientCore::Completion completion) {
    return StartLasting(bridge::kWaitForProcess, payload, std::move(completion));
  }
  // Sends a lasting call's request again. False if it can't be sent now, or has been answered.
  bool Repeat(int64_t id, const std::string& payload);
  // Sends; the completion tells the answer, or that there is none. False if it can't be sent now.
  bool Send(uint32_t type, const std::string& payload, BridgeClientCore::Completion completion);
  // Sends and does not care for the answer. False if it can't be sent now.
  bool Post(uint32_t type, const std::string& payload);

  // The guest stands still from here on, and its clock with it: until RunsAgain() and until the
  // clock has been set then, its processes are told nothing.
  void StandsStill();
  void RunsAgain();
  // It stood still for a moment and runs, unless somebody else keeps it from that.
  void StoodStill();

  void Close(const absl::Status& reason);

 private:
  struct Link;
  static Task<void> AcceptLoop(std::shared_ptr<GuestConnection> self);
  static Task<void> ReadLoop(std::shared_ptr<GuestConnection> self, std::shared_ptr<Link> link);
  static Task<void> WriteLoop(std::shared_ptr<GuestConnection> self, std::shared_ptr<Link> link);
  void Negotiated(const std::shared_ptr<Link>& link);
  // Sets the guest's clock, again if it stands still meanwhile, and opens the gate for what
  // processes are told.
  static Task<void> SetClock(std::shared_ptr<GuestConnection> self, std::shared_ptr<Link> link);
  Task<absl::StatusOr<std::string>> Ask(uint32_t type, std::string payload, milliseconds limit,
                                        std::shared_ptr<Link> on);
  void Take(std::unique_ptr<bridge::Connection> connection);
  void Break(const std::shared_ptr<Link>& link, const absl::Status& reason);
  void Kick();

  std::shared_ptr<LinkGate> gate_;
  milliseconds rpc_timeout_;
  BridgeClientCore core_;
  std::function<void()> on_ready_;
  std::shared_ptr<bridge::Listener> listener_;
  std::shared_ptr<Link> link_;
  AsyncEvent ready_;
  bool still_ = false;       // the guest is paused
  uint64_t clock_turn_ = 0;  // how often the guest's clock became doubtful
  AsyncMutex clock_mutex_;   // one at a time sets it, or it would be set twice as far
  absl::Status closed_;
};

}  // namespace ferry::guest
