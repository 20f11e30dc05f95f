#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bridge/protocol/frame.h"
#include "bridge/protocol/messages.h"
#include "bridge/stream/wire.h"
#include "bridge/transport/fake_host_transport.h"

namespace ferry::guest {

// A guest agent in memory that does what the test says. Its state outlives connections and
// transports, as a guest's memory outlives a migration.
class FakeAgent : public std::enable_shared_from_this<FakeAgent> {
 public:
  struct Output {
    uint32_t port = 0;
    std::string kept;   // not yet acknowledged
    uint64_t base = 0;  // offset of kept's first byte
    bool ended = false;
    bool end_taken = false;
    int hellos = 0;
    uint64_t wanted = 0;  // by the last hello of the host
  };
  struct Input {
    uint32_t port = 0;
    std::string taken;
    bool ended = false;
  };
  struct Process {
    bridge::ExecuteProcessRequest request;
    Output out, err;
    Input in;
    std::optional<uint32_t> exit_code;
    std::optional<uint32_t> exit_signal;
    bool forgotten = false;
  };

  // Connects to a port of the host.
  using Dialer = std::function<absl::StatusOr<std::unique_ptr<bridge::Connection>>(uint32_t)>;

  FakeAgent(Executor executor, Dialer dialer) : executor_(executor), dialer_(std::move(dialer)) {}
  FakeAgent(Executor executor, bridge::FakeHostTransport& transport)
      : FakeAgent(executor, [&transport](uint32_t port) { return transport.Dial(port); }) {}

  bool resumable = true;
  bool acknowledges = true;               // exits: AcknowledgeExitSupported
  bool containers = true;                 // ContainersSupported
  bool repeats_starts = true;             // of containers: RepeatedStartSupported
  bool freezes = true;                    // filesystems: FreezeSupported
  bool frozen = false;                    // they are
  bool thaws_early = false;               // by itself, right after it has frozen them
  bool network = true;                    // NetworkSupported
  bool dhcp = true;                       // DhcpSupported
  std::map<uint32_t, uint32_t> refusals;  // what it answers with, by the request's type
  bool silent = false;                    // answers nothing but the negotiation
  std::set<uint32_t> ignored;             // types of requests that it does not answer
  bool breaks_link = false;               // right after its answer to ExecuteProcess, which arrives
  size_t ack_lag = 0;                     // stdin bytes received that the process has not taken
  bool answer_waits = true;               // false: exits stay untold
  std::optional<int64_t> clock_ahead;  // of the host's, in ns; nullopt: it is not the host's affair
  bool holds_starts = false;           // answers ExecuteProcess only with AnswerStarts()
  bool holds_clock = false;            // answers GetClock only with AnswerClock()
  bool refuses_clock = false;
  uint32_t version = bridge::kProtocolVersion;
  std::map<uint32_t, Process> processes;
  std::vector<bridge::Frame> received;
  std::vector<uint32_t> signals;
  std::vector<std::pair<uint32_t, uint32_t>> sizes;  // rows, columns of consoles
  std::vector<uint32_t> acknowledged;
  std::string properties = R"({"echo":true})";  // what it says of itself when it is asked
  std::function<void()> on_shutdown;  // the host asked for it; nullptr: the guest does not end

  // Dials the bridge and all stdio ports (again), on another transport if one is given.
  void Connect(bridge::FakeHostTransport* transport = nullptr);
  void ConnectTo(Dialer dialer);
  void Write(uint32_t pid, bool to_stderr, const std::string& data);
  void EndOutput(uint32_t pid);
  // The process closes its stdin before that has ended.
  void CloseInput(uint32_t pid);
  void Exit(uint32_t pid, uint32_t code, std::optional<uint32_t> signal = std::nullopt);
  // Raw bytes on the bridge.
  void SendRaw(const std::string& bytes);
  void Send(uint32_t type, int64_t id, const std::string& payload);
  // Answers what it was asked for its clock meanwhile, and holds nothing back any more.
  void AnswerClock();
  // The same for what it was to execute.
  void AnswerStarts();
  // The same, but these answers do not arrive.
  void LoseStarts();
  int CountReceived(uint32_t type) const;
  // Ends everything, so that the test's tasks end.
  void Stop();

 private:
  using Shared = std::shared_ptr<FakeAgent>;
  struct Wire;
  static Task<void> ServeBridge(Shared self, std::shared_ptr<Wire> wire);
  static Task<void> WriteLoop(std::shared_ptr<Wire> wire);
  static Task<void> ServeOutput(Shared self, uint32_t pid, bool to_stderr);
  static Task<void> ServeInput(Shared self, uint32_t pid);
  void Handle(const bridge::Frame& frame);
  void HandleWait(const bridge::Frame& frame);
  void HandleClock(const bridge::Frame& frame);
  void HandleFreeze(const bridge::Frame& frame);
  void Execute(const bridge::Frame& frame);
  // Whether it is a container's start that has come before; then that is answered.
  bool StartedBefore(const bridge::Frame& frame);
  void DialStdio(uint32_t pid);
  std::shared_ptr<Wire> Dial(uint32_t port);
  void SendOutput(Wire& wire, Output& output, uint64_t from);

  Executor executor_;
  Dialer dialer_;
  std::shared_ptr<Wire> bridge_;
  std::map<uint32_t, std::shared_ptr<Wire>> stdio_;  // by port
  std::vector<std::pair<int64_t, uint32_t>> waits_;  // id, pid
  std::vector<bridge::Frame> clock_requests_;        // held back
  std::vector<std::string> start_answers_;           // held back
  std::map<int64_t, std::string> started_;           // answers to starts of containers, by id
  uint32_t next_pid_ = 100;
  bool stopped_ = false;
};

}  // namespace ferry::guest
