#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/process/spawn.h"
#include "bridge/guest/stdio_stream.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// How a process ended.
struct GuestExit {
  uint32_t code = 0;  // 128 + signal when a signal ended it
  std::optional<uint32_t> signal;
};

// One process that the host asked for. After its exit it stays a zombie, so that its pid means this
// process until the host has acknowledged the exit.
class GuestProcess : public std::enable_shared_from_this<GuestProcess> {
 public:
  // Starts the process and its stdio relays. Plain stdio is dialled before the process starts.
  static Task<absl::StatusOr<std::shared_ptr<GuestProcess>>> Start(Executor executor,
                                                                   GuestTransport& transport,
                                                                   ProcessParameters parameters,
                                                                   StdioRelaySettings stdio);
  GuestProcess(Executor executor, SpawnedProcess spawned);
  ~GuestProcess();

  uint32_t pid() const { return static_cast<uint32_t>(pid_); }
  const std::optional<GuestExit>& exit() const { return exit_; }

  // Set when it has exited.
  AsyncEvent& exited() { return exited_; }

  // NOT_FOUND if it has exited. 0 is SIGKILL; SIGKILL goes to its whole process group.
  absl::Status Signal(uint32_t signal);

  absl::Status Resize(uint32_t rows, uint32_t columns);

  // Gives the pid back and drops the streams. FAILED_PRECONDITION while it runs.
  absl::Status Acknowledge();

  // Kills it and drops the streams, for an agent that ends.
  void Abandon();

 private:
  struct Dialled;

  Task<void> WatchExit(std::shared_ptr<GuestProcess> self);
  void StartStdio(Executor executor, GuestTransport& transport, SpawnedProcess& spawned,
                  const StdioRelaySettings& stdio, bool terminal, Dialled& dialled);

  const pid_t pid_;
  asio::posix::stream_descriptor pidfd_;
  UniqueFd terminal_;
  std::vector<std::shared_ptr<StdioStream>> streams_;
  std::optional<GuestExit> exit_;
  bool reaped_ = false;
  AsyncEvent exited_;
  TaskScope scope_;
};

}  // namespace ferry::bridge
