#pragma once

#include <sys/types.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "bridge/process/spawn.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// The helpers that run: whoever waits for one is owed its status, so the reaper of orphans leaves
// these alone. Must outlive them.
class HelperPids {
 public:
  bool Contains(pid_t pid) const { return pids_.contains(pid); }

 private:
  friend class Helper;
  std::set<pid_t> pids_;
};

// A program that the agent runs for itself and whose status nobody else wants. Who drops it before
// it has ended kills it, and does not wait: it is the reaper's then, however long it takes to die.
class Helper {
 public:
  // Starts it. A program that is missing is INTERNAL: it is a part of the guest.
  static absl::StatusOr<SpawnedProcess> Spawn(const SpawnSpec& spec);

  Helper(Executor executor, SpawnedProcess& spawned, HelperPids& pids);
  ~Helper();
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;

  // Waits for its end, at most for `limit`, and collects it. OK for exit status 0, else INTERNAL
  // with `name` and how it ended.
  Task<absl::Status> Finish(std::string name, milliseconds limit);

 private:
  Task<absl::StatusOr<int>> Wait();

  const pid_t pid_;
  HelperPids& pids_;
  asio::posix::stream_descriptor pidfd_;
};

// Runs a program without stdio to its end, at most for `limit`.
Task<absl::Status> RunHelper(SpawnSpec spec, milliseconds limit, HelperPids* pids);

}  // namespace ferry::bridge
