#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bridge/runtime/async.h"
#include "vmmanager/qemu/process_user.h"

namespace ferry::vm {

// A program that does a piece of work and ends. No shell is involved.
struct ToolCommand {
  std::string program;      // its absolute path
  std::string package;      // Debian's, for whoever has not got it
  bool ferrys_own = false;  // where Ferry lies, perhaps nobody else may pass
  std::vector<std::string> arguments;
  std::map<int, int> descriptors;  // number in the program to one of ours, from 3 on
  milliseconds deadline{0};
  // Told each line that the program writes to descriptor kToolProgress, which it has if this is
  // set.
  std::function<void(absl::string_view line)> progress;
  // Told what it writes to stdout, in pieces of any size; that is none of its last words then.
  std::function<void(absl::string_view bytes)> output;
  // Let go of once the program has ended, also if nobody waits for it any more.
  std::shared_ptr<void> holds;
};

inline constexpr int kToolProgress = 5;

// How it ended by itself.
struct ToolEnd {
  int exit_code = 0;
  std::string last_words;  // the end of what it wrote to stdout and stderr, trimmed
};

class ToolRunner {
 public:
  virtual ~ToolRunner() = default;

  // Whom tools run as; nullopt: as we do. FAILED_PRECONDITION if they must not run as anybody.
  virtual absl::StatusOr<std::optional<ProcessUser>> user() const = 0;

  // FAILED_PRECONDITION, naming the package, if there is no such program; DEADLINE_EXCEEDED if it
  // was ended for its time was over; INTERNAL if a signal ended it or it could not be started.
  // Cancelling ends the program.
  virtual Task<absl::StatusOr<ToolEnd>> Run(ToolCommand command) = 0;
};

// Runs the command and makes an error of an exit status other than 0, with the tool's last words.
Task<absl::Status> RunTool(ToolRunner& runner, ToolCommand command);

// "mkfs.ext4" of "/usr/sbin/mkfs.ext4".
std::string ToolName(const ToolCommand& command);

}  // namespace ferry::vm
