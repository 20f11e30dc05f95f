#pragma once

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "ferry/v1/migration.pb.h"

// How a running migration looks.
namespace ferry::ctl {

// Two lines for a terminal: what moves and how fast; whether it will end and when.
std::vector<std::string> ProgressLines(const v1::Progress& progress);
// The same in one line, for a pipe.
std::string ProgressLine(const v1::Progress& progress);
// A step of the migration in words, e.g. "source: memory is moving"; empty for plain progress.
std::string PhaseText(const v1::Notification& notification);

enum class ProgressMode {
  kTerminal,  // redraws its two lines
  kPipe,      // a plain line per second at most
  kJson,      // every notification as a JSON line
};

// Shows notifications as they come.
class ProgressView {
 public:
  ProgressView(ProgressMode mode, std::FILE* out) : mode_(mode), out_(out) {}

  void Show(const v1::NotificationsResponse& response);
  // A remark of ferryctl's own; dropped in JSON.
  void Say(const std::string& text);
  // A remark that a person has to see in every mode; on stderr.
  void Warn(const std::string& text);
  // Takes the redrawn lines away, before something else is printed.
  void Clear();

 private:
  const ProgressMode mode_;
  std::FILE* const out_;
  int drawn_ = 0;
  std::chrono::steady_clock::time_point last_line_;
};

}  // namespace ferry::ctl
