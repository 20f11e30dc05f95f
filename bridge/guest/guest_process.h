#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/guest/stdio_stream.h"
#include "bridge/process/spawn.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// How a process ended.
struct GuestExit {
  uint32_t code = 0;  // 128 + signal when a signal ended it
  std::optional<uint32_t> signal;
};

// The connections of plain stdio, made before the process starts. Resumable streams dial
// themselves.
struct DialledStdio {
  std::shared_ptr<Connection> std_in;
  std::shared_ptr<Connection> std_out;
  std::shared_ptr<Connection> std_err;
};
Task<absl::StatusOr<DialledStdio>> DialStdio(GuestTransport& transport, StdioRelaySettings stdio);

// One process that the host asked for.
class GuestProcess : public std::enable_shared_from_this<GuestProcess> {
 public:
  enum class Kind {
    // Stays a zombie after its exit, so that its pid means this process until the host has
    // acknowledged the exit.
    kVm,
    // Is collected as soon as it exits: the init of a pid namespace does not end before all others
    // in there are collected, and the host may take its time.
    kContainer,
  };

  // Starts a process of the VM itself and its stdio relays.
  static Task<absl::StatusOr<std::shared_ptr<GuestProcess>>> Start(Executor executor,
                                                                   GuestTransport& transport,
                                                                   ProcessParameters parameters,
                                                                   StdioRelaySettings stdio);

  // Watches a child of this process. Its stdio waits for ConnectStdio().
  static std::shared_ptr<GuestProcess> Adopt(Executor executor, SpawnedProcess spawned, Kind kind);

  GuestProcess(Executor executor, SpawnedProcess spawned, Kind kind);
  ~GuestProcess();

  // Starts the relays. Output that the host does not want is read and dropped.
  void ConnectStdio(GuestTransport& transport, const StdioRelaySettings& stdio,
                    DialledStdio dialled);

  // The kernel's number, which is another process's once this one is collected.
  pid_t kernel_pid() const { return pid_; }
  bool collected() const { return reaped_; }

  // The number that the host knows it by.
  uint32_t id() const { return id_; }
  void set_id(uint32_t id) { id_ = id; }

  bool has_terminal() const { return terminal_.valid(); }
  const std::optional<GuestExit>& exit() const { return exit_; }

  // The last of SIGTERM and SIGKILL that was sent through Signal(), 0 if none was.
  int ending_signal() const { return ending_signal_; }

  // Set when it has exited.
  AsyncEvent& exited() { return exited_; }

  // NOT_FOUND if it has exited. 0 is SIGKILL; of a process of the VM, SIGKILL goes to its whole
  // process group.
  absl::Status Signal(uint32_t signal);

  absl::Status Resize(uint32_t rows, uint32_t columns);

  // Gives the number back and drops the streams. FAILED_PRECONDITION while it runs.
  absl::Status Acknowledge();
  bool acknowledged() const { return acknowledged_; }

  // Kills it and drops the streams, for an agent that ends. Waits for nothing.
  void Abandon();

 private:
  Task<void> WatchExit(std::shared_ptr<GuestProcess> self);
  // If it has ended; does not wait for that. Its pid is nobody's from here on.
  void Collect();

  const Executor executor_;
  const Kind kind_;
  const pid_t pid_;
  uint32_t id_;
  asio::posix::stream_descriptor pidfd_;
  UniqueFd terminal_;
  // Until ConnectStdio().
  UniqueFd std_in_;
  UniqueFd std_out_;
  UniqueFd std_err_;
  std::vector<std::shared_ptr<StdioStream>> streams_;
  std::optional<GuestExit> exit_;
  int ending_signal_ = 0;
  bool reaped_ = false;
  bool acknowledged_ = false;
  AsyncEvent exited_;
  TaskScope scope_;
};

}  // namespace ferry::bridge
