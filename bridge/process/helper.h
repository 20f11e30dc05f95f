#pragma once

#include <sys/types.h>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "absl/status/status.h"
#include "bridge/process/spawn.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// A program that the agent runs for itself and whose status nobody else wants. Who drops it before
// it has ended kills it.
class Helper {
 public:
  Helper(Executor executor, SpawnedProcess& spawned);
  ~Helper();
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  // Waits for its end and collects it; the status that waitpid() tells.
  Task<int> Wait();

 private:
  const pid_t pid_;
  asio::posix::stream_descriptor pidfd_;
  bool collected_ = false;
};

// OK for exit status 0, else INTERNAL with what the program is called and how it ended.
absl::Status FromWaitStatus(const char* program, int status);

// Runs a program without stdio to its end, at most for `limit`.
Task<absl::Status> RunHelper(SpawnSpec spec, milliseconds limit);

}  // namespace ferry::bridge
