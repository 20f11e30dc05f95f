#pragma once

#include <chrono>
#include <cstdio>
#include <string>

#include "ferry/v1/job.pb.h"

// How jobs look.
namespace ferry::ctl {

// "running", "done" and so on.
std::string JobStateName(v1::JobState state);
// "save", "migration" and so on.
std::string JobKindName(v1::JobKind kind);

std::string JobTable(const v1::ListJobsResponse& response);
std::string JobDetails(const v1::Job& job);
// "save of VM web", "import of image web:1".
std::string JobTitle(const v1::Job& job);
// "writing memory: 64.0 MiB of 256.0 MiB (25%)"; empty if nothing is known.
std::string JobProgressLine(const v1::Job& job);

// How a job that has ended ends `job watch`.
int ExitCodeFor(const v1::Job& job);
// Its last words: of one that did not succeed with the cause and what to do. `host` is the daemon
// that was asked.
std::string JobEndText(const v1::Job& job, const std::string& host);

enum class JobViewMode {
  kTerminal,  // rewrites its line
  kPipe,      // a plain line per second at most, and for each new phase
  kJson,      // each state as a JSON line
};

// Shows a job as it goes.
class JobProgressView {
 public:
  JobProgressView(JobViewMode mode, std::FILE* out) : mode_(mode), out_(out) {}

  void Show(const v1::Job& job);
  // Takes the rewritten line away, before something else is printed.
  void Clear();

 private:
  const JobViewMode mode_;
  std::FILE* const out_;
  bool drawn_ = false;
  std::string phase_;  // of the last plain line
  std::chrono::steady_clock::time_point last_line_;
};

}  // namespace ferry::ctl
