#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

// Starting one process in the guest. Plain POSIX, synchronous, no coroutines.
namespace ferry::bridge {

// Where programs are looked for if their environment does not say.
inline constexpr char kDefaultPath[] =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct SpawnSpec {
  std::vector<std::string> command;
  std::map<std::string, std::string> environment;
  std::string working_directory = "/";
  bool terminal = false;
  uint32_t rows = 0;
  uint32_t columns = 0;
  bool want_stdin = false;  // streams that are not wanted are /dev/null
  bool want_stdout = false;
  bool want_stderr = false;
};

// This side's ends of the process's stdio. With a terminal, both are duplicates of its master.
struct SpawnedProcess {
  pid_t pid = -1;
  UniqueFd pidfd;
  UniqueFd std_in;
  UniqueFd std_out;
  UniqueFd std_err;
  UniqueFd terminal;  // the master, for its window size
};

// Runs `spec.command` in a session of its own, with the limit of open files that this process was
// started with. The error names the command and the cause: NOT_FOUND
// if there is no such program, PERMISSION_DENIED, or FAILED_PRECONDITION for everything else that
// keeps it from starting.
absl::StatusOr<SpawnedProcess> SpawnProcess(const SpawnSpec& spec);

absl::Status SetWindowSize(int terminal, uint32_t rows, uint32_t columns);

}  // namespace ferry::bridge
