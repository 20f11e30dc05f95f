#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/guest.grpc.pb.h"
#include "tools/ferryctl/attach_core.h"
#include "tools/ferryctl/attach_route.h"
#include "tools/ferryctl/detach_keys.h"
#include "tools/ferryctl/fd_thread.h"
#include "tools/ferryctl/terminal.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_stream.h"

namespace grpc {
class Channel;
}

namespace ferry::ctl {

struct AttachConfig {
  std::string address;
  rpc::TlsFiles tls;
  std::string vm;
  uint32_t process_id = 0;
  bool started = false;  // a moment ago: it is followed also if it has left before it is attached
  bool steal = false;
  std::optional<WatchFrom> watch;  // leaves the process alone, and Ctrl-C ends it at once
  // What is written in place of the output, to stdout only; unset: the output itself.
  std::function<std::string(v1::StdioStream stream, uint64_t offset, std::string_view text)> render;
  DetachKeys detach_keys;  // count when stdin is a terminal, and the process has one
  int stdin_fd = 0;
  int stdout_fd = 1;
  int stderr_fd = 2;
  bool handle_signals = false;
  milliseconds give_up{60000};       // of looking for an attachment
  milliseconds quiet{1000};          // of a wait for a saved VM
  milliseconds open_timeout{45000};  // one host's answer; it may be waiting for the VM itself
};

struct AttachOutcome {
  std::optional<v1::ExitStatus> exit_status;  // the process ended
  absl::Status error;                         // else, unless OK: why the client gave up
  int signal = 0;                             // else, unless 0: this one detached the client
  bool left = false;                          // else: the detach keys were pressed
  bool output_closed = false;                 // else: nobody reads the output any more
  std::string address;                        // where it was attached last
};

// Attaches this program's stdio to a process and follows the process from host to host.
class AttachSession {
 public:
  AttachSession(Executor executor, AttachConfig config);

  Task<AttachOutcome> Run();

  // How far the output was written out.
  WatchFrom written() const { return core_.written(); }
  // How often an attachment was opened.
  int connections() const { return connections_; }

 private:
  using Stream = rpc::ClientBidiStream<v1::AttachRequest, v1::AttachResponse>;
  enum class Next { kGoOn, kAttachAgain, kEnd };

  Task<void> Follow();
  Task<absl::Status> Attempt();
  Task<absl::Status> Converse(std::shared_ptr<Stream> stream);
  Task<Next> Handle(std::shared_ptr<Stream> stream, v1::AttachResponse message);
  Task<Next> WriteOut(AttachEffect effect);
  Task<void> TakeExit(std::shared_ptr<Stream> stream);
  void Opened();
  Next Broken(const std::string& text);
  void Fail(absl::Status status);
  Task<bool> WaitBeforeRetry(absl::Status last);
  void WaitForRestore();
  void Send(bool flush);
  void SendSize();
  Task<void> StdinLoop();
  Task<void> AwaitStdinTaken();
  Task<void> AckLoop();
  Task<void> SignalLoop();
  Task<void> Interrupt();
  void StopBy(int signal);
  Task<void> SendSignal(uint32_t signal);
  Task<void> WaitForStop();
  absl::StatusOr<std::shared_ptr<grpc::Channel>> ChannelTo(const std::string& address);
  void Preconnect(const std::string& address);

  const Executor executor_;
  const AttachConfig config_;
  AttachCore core_;
  DetachKeys detach_keys_;
  AttachRoute route_;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;
  std::map<std::string, std::unique_ptr<v1::GuestService::Stub>> stubs_;
  std::shared_ptr<Stream> stream_;  // open now
  std::unique_ptr<FdThread> stdin_;
  FdThread stdout_;
  FdThread stderr_;
  std::optional<RawMode> raw_;
  AsyncEvent stdin_room_;
  AsyncEvent ack_wanted_;
  AsyncEvent stop_;
  int stop_signal_ = 0;
  bool left_ = false;
  std::optional<AttachOutcome> outcome_;
  milliseconds lost_for_{0};  // how long it was looked for since it was attached last
  std::optional<std::chrono::steady_clock::time_point> saved_since_;
  bool said_saved_ = false;
  std::optional<std::chrono::steady_clock::time_point> last_interrupt_;
  int connections_ = 0;
  int fruitless_ = 0;  // attachments in a row that carried nothing
  int broken_ = 0;     // protocol errors in a row
  TaskScope scope_;
};

}  // namespace ferry::ctl
