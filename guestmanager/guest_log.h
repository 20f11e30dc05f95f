#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "bridge/protocol/log_record.h"
#include "guestmanager/link_gate.h"

namespace ferry::guest {

// Told one line of the guest's log. The text is the guest's, and may hold anything.
using GuestLogSink = std::function<void(bridge::LogLevel level, const std::string& text)>;

// How many lines are passed on: the log is the host's, and guests must not fill it.
class LogAllowance {
 public:
  static constexpr int kLines = 50;        // of one guest, in each period
  static constexpr int kTotalLines = 500;  // of all guests of a daemon together
  static constexpr milliseconds kPeriod{10'000};

  explicit LogAllowance(int lines = kLines) : lines_(lines) {}

  // How long to wait until one more line may pass; 0: it may.
  milliseconds Wait(std::chrono::steady_clock::time_point now);
  // Takes one, which may pass.
  void Take() { ++taken_; }

 private:
  const int lines_;
  std::chrono::steady_clock::time_point began_;
  int taken_ = 0;
};

// The host's end of one guest's log stream: takes its records, passes each on once and acknowledges
// it. The agent dials again after a lost link, to whichever host the guest is on then; what another
// daemon has passed on without being able to say so comes again. A guest that logs more than it may
// is read more slowly; its kernel's buffer then counts what it loses.
class GuestLog : public std::enable_shared_from_this<GuestLog> {
 public:
  // `shared` is what all guests take from beside their own; nullptr: this one is alone.
  GuestLog(std::shared_ptr<LinkGate> gate, GuestLogSink sink,
           std::shared_ptr<LogAllowance> shared = nullptr);

  absl::Status Listen();
  // Nothing is passed on any more.
  void Close();

 private:
  static Task<void> AcceptLoop(std::shared_ptr<GuestLog> self);
  static Task<void> ReadLoop(std::shared_ptr<GuestLog> self,
                             std::shared_ptr<bridge::Connection> connection);
  // Waits until one more line may pass. False: closed.
  Task<bool> Allowed();
  // True if it is numbered, so that it has to be acknowledged.
  bool Pass(const bridge::LogRecord& record);

  const std::shared_ptr<LinkGate> gate_;
  GuestLogSink sink_;
  AsyncEvent closed_;
  LogAllowance allowance_;
  const std::shared_ptr<LogAllowance> shared_;
  std::shared_ptr<bridge::Listener> listener_;
  std::shared_ptr<bridge::Connection> connection_;  // the newest
  uint64_t last_ = 0;                               // record that was passed on
};

}  // namespace ferry::guest
