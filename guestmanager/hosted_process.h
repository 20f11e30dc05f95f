#pragma once

#include <functional>
#include <memory>

#include "guestmanager/attach_relay.h"
#include "guestmanager/guest_connection.h"
#include "guestmanager/process.h"

namespace ferry::guest {

// A process as its host knows it: its wait, its relay, and the calls about it.
class HostedProcess : public Process, public std::enable_shared_from_this<HostedProcess> {
 public:
  struct Events {
    std::function<void()> changed;
    std::function<void(uint32_t pid)> exit_taken;
  };

  HostedProcess(std::shared_ptr<LinkGate> gate, std::shared_ptr<GuestConnection> connection,
                ProcessState state, const SpoolSettings& spool, Events events);

  // Listens on the state's ports; before the guest can dial them.
  absl::Status Listen();
  // A new process runs under `pid`: watch it.
  void Started(uint32_t pid);
  // OpenProcessWithIO: the process runs already, its wait is pending under the state's id.
  void Adopt();
  // The agent is (again) there: asks for the exit anew, because an answer may have been lost.
  void Renew();
  void Close(const absl::Status& reason);
  // Streams whose output is kept on this host.
  size_t spooled_streams() const;
  void SetSpoolCapacity(size_t bytes) { relay_->SetSpoolCapacity(bytes); }
  // Nobody will ask for it again: removes what is kept of its output.
  void Forget();

  uint32_t pid() const override { return state_.pid; }
  const ProcessSpec& spec() const override { return state_.spec; }
  const std::string& request_id() const { return state_.request_id; }
  uint64_t created_unix_ms() const override { return state_.created_unix_ms; }
  std::optional<ExitStatus> exit_status() const override { return state_.exit_status; }
  bool attached() const override { return relay_->attached(); }
  Task<absl::StatusOr<ExitStatus>> Wait() override;
  Task<absl::StatusOr<bool>> Signal(uint32_t signal) override;
  Task<absl::Status> ResizeConsole(uint32_t rows, uint32_t columns) override;
  Task<void> AwaitInput(std::string attachment_id) override;
  void SettleInput() override { relay_->SettleInput(); }
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(AttachOptions options,
                                                     AttachSink& sink) override;
  absl::StatusOr<KeptOutput> ReadKept(Stream stream, uint64_t since, size_t limit) const override {
    return relay_->ReadKept(stream, since, limit);
  }
  void set_on_forget(std::function<bool()> callback) override { on_forget_ = std::move(callback); }
  ProcessState migration_state() const override;

 private:
  int64_t SendWait();
  BridgeClientCore::Completion OnAnswer();
  void HandleAnswer(const absl::StatusOr<std::string>& answer);
  std::string ContainerId() const;

  std::shared_ptr<GuestConnection> connection_;
  ProcessState state_;
  std::shared_ptr<AttachRelay> relay_;
  Events events_;
  std::function<bool()> on_forget_;
  AsyncEvent exited_;
  int64_t renewed_wait_ = 0;
  uint64_t resizes_ = 0;  // asked for so far; only the newest matters
  absl::Status closed_;
};

}  // namespace ferry::guest
