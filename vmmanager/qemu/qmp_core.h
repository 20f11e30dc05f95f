#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The QEMU machine protocol as a pure state machine: bytes in, replies and events out.
namespace ferry::vm {

// Longest message that QEMU may send; query-machines and the like stay far below it.
inline constexpr size_t kMaxQmpMessageBytes = 8u << 20;

struct QmpEvent {
  std::string name;
  boost::json::object data;
  std::chrono::microseconds wall_time{0};  // QEMU's own timestamp, since the epoch; 0: none
};

struct QmpReply {
  uint64_t id = 0;
  absl::StatusOr<boost::json::value> result;
};

// Whether a command waits its turn in QEMU's main loop or is answered by its monitor thread.
enum class QmpLane { kInBand, kOutOfBand };

// Converts QEMU's wall-clock timestamp into the steady clock, given both clocks' present readings.
// A stamp from the future (a clock that was set) counts as now, and so does none.
std::chrono::steady_clock::time_point SteadyTimeOf(
    std::chrono::microseconds wall_time, std::chrono::system_clock::time_point wall_now,
    std::chrono::steady_clock::time_point steady_now);

class QmpCore {
 public:
  explicit QmpCore(size_t max_message_bytes = kMaxQmpMessageBytes);

  // Takes bytes as they arrive, in any cut. An error means that the peer does not speak QMP: every
  // pending command has failed and the connection must be closed.
  absl::Status Feed(std::string_view bytes);

  // Queues a command and returns its id. Refuses what would let QEMU start a program (`exec:`).
  // Legal once ready().
  absl::StatusOr<uint64_t> Submit(std::string_view command, boost::json::object arguments,
                                  QmpLane lane = QmpLane::kInBand);

  // Sends a command without its last byte: QEMU reads its monitor byte by byte and takes more than
  // 10 us for each, which is too long in a switchover. Submit of the same command sends that byte;
  // before any other one QEMU is made to refuse it. What Submit would refuse is not sent.
  void Anticipate(std::string_view command, boost::json::object arguments);

  // The caller does not wait any longer; a late answer is dropped.
  void Abandon(uint64_t id) { pending_.erase(id); }

  // The connection is lost: every pending command fails with `reason`, and so do later ones.
  void Fail(absl::Status reason);

  bool ready() const { return state_ == State::kReady; }
  bool failed() const { return state_ == State::kFailed; }
  bool out_of_band() const { return out_of_band_; }
  size_t pending() const { return pending_.size(); }

  std::string TakeOutput() { return std::exchange(output_, {}); }
  std::vector<QmpReply> TakeReplies() { return std::exchange(replies_, {}); }
  std::vector<QmpEvent> TakeEvents() { return std::exchange(events_, {}); }

 private:
  enum class State { kGreeting, kNegotiating, kReady, kFailed };

  absl::Status HandleLine(std::string_view line);
  absl::Status HandleGreeting(const boost::json::object& message);
  absl::Status HandleReply(const boost::json::object& message);
  absl::Status HandleEvent(const boost::json::object& message);
  absl::Status Check(std::string_view command, const boost::json::object& arguments) const;
  // All but the end of a command's text, and the end.
  void Begin(std::string_view verb, std::string_view command, boost::json::object arguments,
             uint64_t id);
  void End() { output_ += "}\n"; }

  // Sent but for its end.
  struct Anticipated {
    uint64_t id;
    std::string command;
    boost::json::object arguments;
  };

  const size_t max_message_bytes_;
  State state_ = State::kGreeting;
  absl::Status failure_;
  bool out_of_band_ = false;
  uint64_t next_id_ = 1;
  std::string partial_;
  std::string output_;
  std::map<uint64_t, std::string> pending_;  // id to command name
  std::optional<Anticipated> anticipated_;
  std::vector<QmpReply> replies_;
  std::vector<QmpEvent> events_;
};

}  // namespace ferry::vm
