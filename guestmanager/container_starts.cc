#include "guestmanager/container_starts.h"

#include <utility>

#include "bridge/protocol/message_types.h"
#include "bridge/runtime/status_macros.h"
#include "guestmanager/execute_request.h"

namespace ferry::guest {

std::shared_ptr<ContainerStarts::Pending> ContainerStarts::Add(
    std::shared_ptr<HostedProcess> init) {
  auto pending = std::make_shared<Pending>(connection_->executor());
  pending_[init->spec().container_id] = pending;
  pending->init = std::move(init);
  return pending;
}

BridgeClientCore::Completion ContainerStarts::Completes(std::shared_ptr<Pending> pending) {
  return [pending](absl::StatusOr<std::string> answer) {
    pending->answer = std::move(answer);
    pending->answered.Set();
  };
}

Task<absl::Status> ContainerStarts::AwaitAnswer(std::shared_ptr<Pending> pending) {
  co_await pending->answered.Wait();
  co_return absl::OkStatus();
}

std::string ContainerStarts::Request(const Pending& pending, const GuestConnection& connection) {
  const bool resumable = connection.core().capabilities().guest_defined.resumable_stdio_supported;
  return EncodeExecuteRequest(pending.init->migration_state(), resumable, /*oci_process=*/"");
}

Task<absl::StatusOr<std::string>> ContainerStarts::Call(std::shared_ptr<HostedProcess> init) {
  const std::string id = init->spec().container_id;
  if (pending_.contains(id)) {
    co_return absl::FailedPreconditionError("the container is being started already");
  }
  const std::shared_ptr<Pending> pending = Add(std::move(init));
  // Also when the caller leaves.
  struct Leave {
    ContainerStarts& starts;
    const std::string& id;
    Pending& pending;
    ~Leave() {
      if (pending.call_id != 0) starts.connection_->core().Forget(pending.call_id);
      starts.pending_.erase(id);
    }
  };
  const Leave leave{*this, id, *pending};
  CO_RETURN_IF_ERROR(co_await connection_->AwaitClock(connection_->rpc_timeout()));
  const std::string request = Request(*pending, *connection_);
  pending->call_id =
      connection_->StartLasting(bridge::kExecuteProcess, request, Completes(pending));
  if (pending->call_id == 0) co_return absl::UnavailableError("the guest's agent is away");
  // What was written down before does not have it.
  changed_();
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(connection_->rpc_timeout(), "the guest's agent", AwaitAnswer(pending)));
  co_return pending->answer;
}

void ContainerStarts::OnReady() {
  const auto& defined = connection_->core().capabilities().guest_defined;
  for (const auto& [id, pending] : pending_) {
    if (pending->call_id == 0 || !defined.repeated_start_supported) continue;
    // However often an agent comes back that does not let its clock be set.
    if (std::exchange(pending->repeating, true)) continue;
    Spawn(connection_->executor(), SendAgain(connection_, pending));
  }
}

Task<void> ContainerStarts::SendAgain(std::shared_ptr<GuestConnection> connection,
                                      std::weak_ptr<Pending> waiting) {
  co_await connection->AwaitClock();
  // By now the guest may be another host's.
  const std::shared_ptr<Pending> pending = waiting.lock();
  if (pending == nullptr) co_return;
  pending->repeating = false;
  // The next link may be another agent's, and is asked anew if that can be.
  const auto& defined = connection->core().capabilities().guest_defined;
  if (!connection->ready() || !defined.repeated_start_supported) co_return;
  connection->Repeat(pending->call_id, Request(*pending, *connection));
}

std::vector<ProcessState> ContainerStarts::Save() const {
  std::vector<ProcessState> states;
  for (const auto& [id, pending] : pending_) {
    if (pending->call_id == 0) continue;
    ProcessState state = pending->init->migration_state();
    state.wait_call_id = pending->call_id;
    states.push_back(std::move(state));
  }
  return states;
}

void ContainerStarts::Restore(std::shared_ptr<HostedProcess> init, int64_t call_id) {
  const std::shared_ptr<Pending> pending = Add(std::move(init));
  pending->call_id = call_id;
  pending->execution = std::make_unique<StrayProcesses::Execution>(strays_);
  connection_->core().Preregister(call_id, bridge::kExecuteProcess, Completes(pending));
}

bool ContainerStarts::Awaited(const std::string& container_id) const {
  const auto found = pending_.find(container_id);
  return found != pending_.end() && found->second->execution != nullptr;
}

Task<ContainerStarts::Answered> ContainerStarts::Take(std::string container_id) {
  Answered taken;
  const auto found = pending_.find(container_id);
  if (found == pending_.end() || found->second->execution == nullptr) co_return taken;
  const std::shared_ptr<Pending> pending = found->second;
  const absl::Status answered =
      co_await WithDeadline(connection_->rpc_timeout(), "the guest's agent", AwaitAnswer(pending));
  taken.init = pending->init;
  taken.execution = std::move(pending->execution);
  if (taken.execution == nullptr) {
    taken.init = nullptr;  // somebody else has taken it meanwhile
    co_return taken;
  }
  connection_->core().Forget(pending->call_id);
  pending_.erase(container_id);
  if (answered.ok()) {
    taken.answer = std::move(pending->answer);
    taken.execution->Answered();
  } else {
    taken.answer = answered;
  }
  co_return taken;
}

void ContainerStarts::Close(const absl::Status& reason) {
  for (const auto& [id, pending] : pending_) {
    if (pending->execution == nullptr) continue;
    pending->init->Close(reason);
    pending->execution.reset();
  }
}

}  // namespace ferry::guest
