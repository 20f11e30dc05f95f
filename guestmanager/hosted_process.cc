#include "guestmanager/hosted_process.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bridge/protocol/messages.h"

namespace ferry::guest {
namespace {

absl::Status Refused(const char* what, const bridge::ResponseBase& response) {
  return absl::UnknownError(absl::StrFormat("the guest's agent refused %s (0x%08x): %s", what,
                                            bridge::HResult(response.result),
                                            response.error_message));
}

}  // namespace

HostedProcess::HostedProcess(std::shared_ptr<LinkGate> gate,
                             std::shared_ptr<GuestConnection> connection, ProcessState state,
                             const SpoolSettings& spool, Events events)
    : connection_(std::move(connection)),
      state_(std::move(state)),
      relay_(std::make_shared<AttachRelay>(gate, state_, spool)),
      events_(std::move(events)),
      exited_(gate->executor) {
  if (state_.exit_status) exited_.Set();
}

absl::Status HostedProcess::Listen() {
  // The relay may outlive this process for as long as an attachment holds it.
  relay_->set_on_exit_taken([weak = weak_from_this()] {
    std::shared_ptr<HostedProcess> self = weak.lock();
    if (self && self->events_.exit_taken) self->events_.exit_taken(self->pid());
  });
  relay_->set_on_changed([weak = weak_from_this()] {
    std::shared_ptr<HostedProcess> self = weak.lock();
    if (self && self->closed_.ok() && self->events_.changed) self->events_.changed();
  });
  absl::Status status = relay_->Listen(state_);
  if (!status.ok()) return status;
  relay_->Start();
  return absl::OkStatus();
}

std::string HostedProcess::ContainerId() const {
  return state_.container_id.empty() ? bridge::kNullGuid : state_.container_id;
}

BridgeClientCore::Completion HostedProcess::OnAnswer() {
  return [weak = weak_from_this()](const absl::StatusOr<std::string>& answer) {
    if (std::shared_ptr<HostedProcess> self = weak.lock()) self->HandleAnswer(answer);
  };
}

int64_t HostedProcess::SendWait() {
  bridge::WaitForProcessRequest request;
  request.container_id = ContainerId();
  request.process_id = state_.pid;
  return connection_->StartWait(Encode(request), OnAnswer());
}

void HostedProcess::Started(uint32_t pid) {
  state_.pid = pid;
  state_.wait_call_id = SendWait();
}

void HostedProcess::Forget() {
  if (const auto callback = std::exchange(on_forget_, nullptr)) {
    relay_->KeepRest();
    if (!callback()) return;
  }
  relay_->Forget();
}

size_t HostedProcess::spooled_streams() const {
  if (!state_.spec.detached) return 0;
  return (state_.stdout_port != 0 ? 1 : 0) + (state_.stderr_port != 0 ? 1 : 0);
}

void HostedProcess::Adopt() {
  if (state_.exit_status) return;
  connection_->core().PreregisterWait(state_.wait_call_id, OnAnswer());
}

void HostedProcess::Renew() {
  if (state_.exit_status || state_.pid == 0) return;
  if (renewed_wait_ != 0) connection_->core().Forget(renewed_wait_);
  renewed_wait_ = SendWait();
  if (state_.wait_call_id == 0) state_.wait_call_id = std::exchange(renewed_wait_, 0);
}

void HostedProcess::HandleAnswer(const absl::StatusOr<std::string>& answer) {
  if (state_.exit_status || !closed_.ok() || !answer.ok()) return;
  absl::StatusOr<bridge::WaitForProcessResponse> response =
      bridge::Decode<bridge::WaitForProcessResponse>(*answer);
  ExitStatus status;
  if (!response.ok()) {
    return;  // asked for anew on the next connection
  } else if (response->result == 0) {
    status.kind = response->exit_signal ? ExitStatus::Kind::kSignal : ExitStatus::Kind::kCode;
    status.value = response->exit_signal ? *response->exit_signal : response->exit_code;
  } else if (bridge::HResult(response->result) != bridge::kHresultProcessNotFound) {
    return;
  }
  state_.exit_status = status;
  std::shared_ptr<HostedProcess> self = shared_from_this();
  connection_->core().Forget(state_.wait_call_id);
  if (renewed_wait_ != 0) connection_->core().Forget(renewed_wait_);
  exited_.Set();
  relay_->SetExit(status);
  if (events_.changed) events_.changed();
}

Task<absl::StatusOr<ExitStatus>> HostedProcess::Wait() {
  std::shared_ptr<HostedProcess> self = shared_from_this();
  co_await exited_.Wait();
  if (state_.exit_status) co_return *state_.exit_status;
  co_return closed_;
}

Task<absl::StatusOr<bool>> HostedProcess::Signal(uint32_t signal) {
  std::shared_ptr<HostedProcess> self = shared_from_this();
  if (state_.exit_status) co_return false;
  absl::Status ready =
      co_await WithDeadline(connection_->rpc_timeout(), "the agent", connection_->WaitReady());
  if (!ready.ok()) co_return ready;
  if (state_.exit_status) co_return false;
  bridge::SignalProcessRequest request;
  request.container_id = ContainerId();
  request.process_id = state_.pid;
  request.signal = signal;
  absl::StatusOr<std::string> answer = co_await connection_->Call(
      bridge::kSignalProcess, Encode(request), connection_->rpc_timeout());
  if (!answer.ok()) co_return answer.status();
  absl::StatusOr<bridge::SimpleResponse> response = bridge::Decode<bridge::SimpleResponse>(*answer);
  if (!response.ok()) co_return response.status();
  if (bridge::HResult(response->result) == bridge::kHresultProcessNotFound) co_return false;
  if (response->result != 0) co_return Refused("the signal", *response);
  co_return true;
}

Task<absl::Status> HostedProcess::ResizeConsole(uint32_t rows, uint32_t columns) {
  std::shared_ptr<HostedProcess> self = shared_from_this();
  if (!state_.spec.terminal) co_return absl::FailedPreconditionError("it has no terminal");
  const uint64_t turn = ++resizes_;
  absl::StatusOr<std::string> answer;
  do {
    // Behind a migration the agent dials again, and clients tell their size before it has.
    absl::Status ready =
        co_await WithDeadline(connection_->rpc_timeout(), "the agent", connection_->WaitReady());
    if (!ready.ok()) co_return ready;
    if (turn != resizes_) co_return absl::OkStatus();
    if (state_.exit_status) co_return absl::FailedPreconditionError("the process has exited");
    bridge::ResizeConsoleRequest request;
    request.container_id = ContainerId();
    request.process_id = state_.pid;
    request.height = rows;
    request.width = columns;
    answer = co_await connection_->Call(bridge::kResizeConsole, Encode(request),
                                        connection_->rpc_timeout());
  } while (absl::IsUnavailable(answer.status()));
  if (!answer.ok()) co_return answer.status();
  absl::StatusOr<bridge::SimpleResponse> response = bridge::Decode<bridge::SimpleResponse>(*answer);
  if (!response.ok()) co_return response.status();
  if (response->result != 0) co_return Refused("the new size", *response);
  state_.spec.rows = rows;
  state_.spec.columns = columns;
  co_return absl::OkStatus();
}

Task<void> HostedProcess::AwaitInput(std::string attachment_id) {
  return relay_->AwaitInput(std::move(attachment_id));
}

absl::StatusOr<std::unique_ptr<Attachment>> HostedProcess::Attach(AttachOptions options,
                                                                  AttachSink& sink) {
  return relay_->Attach(std::move(options), sink);
}

ProcessState HostedProcess::migration_state() const {
  ProcessState state = state_;
  relay_->FillState(&state);
  return state;
}

void HostedProcess::Close(const absl::Status& reason) {
  if (!closed_.ok()) return;
  closed_ = reason.ok() ? absl::UnavailableError("the guest is gone") : reason;
  relay_->Close(closed_);
  exited_.Set();
}

}  // namespace ferry::guest
