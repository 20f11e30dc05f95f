#pragma once

#include <deque>
#include <memory>
#include <string>

#include "bridge/runtime/async.h"
#include "ferry/v1/guest.grpc.pb.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/rpc/stream_reactor.h"

namespace ferry::ctl {

// A `cat` that lives on one of several fake daemons: what comes in on stdin goes out on stdout, and
// at the end of stdin it exits. A script breaks and moves it at chosen bytes of its input.
struct FakeProcess {
  struct Step {
    enum class Kind {
      kBreak,       // the stream breaks, the process stays
      kMove,        // Moved, and the process is on the other host
      kSilentMove,  // MigrationOpened, then only a break
      kCalledOff,   // Moved, but the process comes back: the other host says NOT_FOUND
      kRewind,      // the guest link was remade: input again from the last taken byte
      kGap,         // an output message is skipped
      kSave,        // the stream breaks, and the VM is saved
    };
    uint64_t at = 0;
    Kind kind = Kind::kBreak;
  };

  std::string home;  // address of the daemon that has it
  std::deque<Step> script;
  uint32_t exit_code = 0;
  bool has_stdin = true;
  bool terminal = false;
  bool saved = false;        // its VM: nobody can attach
  int refused_saved = 0;     // attachments, for that
  bool is_followed = false;  // a daemon that it has left says where it went

  uint64_t taken = 0;    // input
  std::string received;  // all input
  std::string output;    // bytes from `acked` on
  uint64_t acked = 0;
  bool stdin_ended = false;
  bool exit_taken = false;
  int opens = 0;
  int unacknowledged_breaks = 0;  // steps that found output in flight
  std::string attachment_id;
  uint32_t last_signal = 0;
  v1::CreateProcessRequest created;
  absl::Status create_status;
};

// A daemon that knows only GuestService, and `more` if it is given, over a real socket.
class FakeDaemon final : public v1::GuestService::CallbackService {
 public:
  FakeDaemon(Executor executor, std::string socket_path, FakeProcess* process,
             grpc::Service* more = nullptr);

  void SetPeer(const std::string& address) { peer_ = address; }
  std::string address() const { return "unix:" + path_; }
  Task<void> Shutdown();
  void Restart();
  // Holds every Attach back before it opens while reset.
  AsyncEvent& gate() { return gate_; }
  // Returns after something more has happened to the process here.
  Task<void> WaitForChange();

  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* CreateProcess(grpc::CallbackServerContext* context,
                                          const v1::CreateProcessRequest* request,
                                          v1::Process* response) override;
  grpc::ServerUnaryReactor* SignalProcess(grpc::CallbackServerContext* context,
                                          const v1::SignalProcessRequest* request,
                                          v1::SignalProcessResponse* response) override;

 private:
  using Stream = rpc::BidiStream<v1::AttachRequest, v1::AttachResponse>;

  Task<absl::Status> Serve(std::shared_ptr<Stream> stream);
  absl::Status OnData(Stream* stream, const v1::AttachRequest::StdinData& data, bool* over);
  absl::Status Perform(Stream* stream, FakeProcess::Step::Kind kind, bool* over);
  void PumpOutput(Stream* stream);
  void SendExit(Stream* stream);

  const Executor executor_;
  const std::string path_;
  FakeProcess* const process_;
  grpc::Service* const more_;
  std::string peer_;
  AsyncEvent gate_;
  AsyncEvent changed_;
  uint64_t sent_ = 0;  // output, on the connection that is open
  bool skip_one_ = false;
  std::unique_ptr<rpc::Server> server_;
};

}  // namespace ferry::ctl
