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

// How many lines of one guest are passed on: the log is the host's, and a guest must not fill it.
class LogAllowance {
 public:
  static constexpr int kLines = 200;  // in each period
  static constexpr milliseconds kPeriod{10'000};

  // Whether one more may pass now.
  bool Take(std::chrono::steady_clock::time_point now);
  // How many were refused before the present period; told once.
  uint64_t TakeRefused();

 private:
  std::chrono::steady_clock::time_point began_;
  int taken_ = 0;
  uint64_t refused_ = 0;
  uint64_t earlier_ = 0;
};

// The host's end of one guest's log stream: takes its records, passes on each once and acknowledges
// it. The agent dials again after a lost link, to whichever host the guest is on then.
class GuestLog : public std::enable_shared_from_this<GuestLog> {
 public:
  GuestLog(std::shared_ptr<LinkGate> gate, GuestLogSink sink);

  absl::Status Listen();
  // Nothing is passed on any more.
  void Close();

 private:
  static Task<void> AcceptLoop(std::shared_ptr<GuestLog> self);
  static Task<void> ReadLoop(std::shared_ptr<GuestLog> self,
                             std::shared_ptr<bridge::Connection> connection);
  // True if it is numbered, so that it has to be acknowledged.
  bool Pass(const bridge::LogRecord& record);

  const std::shared_ptr<LinkGate> gate_;
  GuestLogSink sink_;  // null: closed
  LogAllowance allowance_;
  std::shared_ptr<bridge::Listener> listener_;
  std::shared_ptr<bridge::Connection> connection_;  // the newest
  uint64_t last_ = 0;                               // record that was passed on
};

}  // namespace ferry::guest
