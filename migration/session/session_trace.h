#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ferry::migration {

// What happened in one side of a session and when, in Trace Event Format, which the usual trace
// viewers open. Times are the host's wall clock, so that both sides' traces fit into one timeline
// as well as the hosts' clocks agree. Bounded: after kMaxEvents more are only counted.
class SessionTrace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kMaxEvents = 16'384;

  // The rows of the timeline.
  enum class Row { kSession = 1, kMemory = 2, kJournal = 3, kBlackout = 4, kNotifications = 5 };

  // `side` names the process of the timeline, e.g. "source 10.0.0.1:7700"; `is_source` tells the
  // two sides' rows apart.
  SessionTrace(std::string side, bool is_source);

  void Span(Row row, std::string_view name, Clock::time_point begin, Clock::time_point end,
            boost::json::object args = {});
  void Instant(Row row, std::string_view name, Clock::time_point when,
               boost::json::object args = {});
  // Numbers that a viewer draws as curves.
  void Counters(std::string_view name, Clock::time_point when, boost::json::object values);

  // Ends what a row is in and begins the next; an empty name only ends it.
  void Enter(Row row, std::string_view name, Clock::time_point when);

  // The whole document. Spans that have not ended reach until now.
  std::string ToJson() const;

 private:
  struct Open {
    std::string name;
    Clock::time_point since;
  };
  void Add(boost::json::object event);
  boost::json::object Event(Row row, std::string_view name, std::string_view kind,
                            Clock::time_point when, boost::json::object args) const;
  double Microseconds(Clock::time_point when) const;

  const std::string side_;
  const int process_;
  const Clock::time_point start_ = Clock::now();
  const std::chrono::system_clock::time_point wall_start_ = std::chrono::system_clock::now();
  boost::json::array events_;
  uint64_t left_out_ = 0;
  std::optional<Open> open_[6];  // by row
};

}  // namespace ferry::migration
