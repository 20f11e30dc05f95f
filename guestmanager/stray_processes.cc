#include "guestmanager/stray_processes.h"

#include <signal.h>

#include <utility>

#include "bridge/protocol/messages.h"

namespace ferry::guest {

StrayProcesses::Execution::~Execution() {
  --strays_.executing_;
  if (!answered_) strays_.Suspect();
  strays_.Judge();
}

void StrayProcesses::Suspect() {
  suspected_ = true;
  Look();
}

void StrayProcesses::OnReady() {
  if (suspected_ || !ending_.empty()) Look();
}

void StrayProcesses::Look() {
  if (!connection_->ready() ||
      !connection_->core().capabilities().guest_defined.acknowledge_exit_supported) {
    return;
  }
  connection_->Send(bridge::kListProcesses, Encode(bridge::SimpleRequest{}),
                    [this](const absl::StatusOr<std::string>& answer) { OnList(answer); });
}

void StrayProcesses::OnList(const absl::StatusOr<std::string>& answer) {
  if (!answer.ok()) return;  // asked anew on the next connection
  const absl::StatusOr<bridge::ListProcessesResponse> list =
      bridge::Decode<bridge::ListProcessesResponse>(*answer);
  if (!list.ok() || list->result != 0) return;
  suspected_ = false;
  for (const auto& entry : list->processes) {
    if (!host_.knows(entry.process_id)) unknown_.insert(entry.process_id);
  }
  Judge();
}

void StrayProcesses::Judge() {
  // A process whose answer is just being taken in is not known yet either.
  if (executing_ > 0) return;
  for (uint32_t pid : std::exchange(unknown_, {})) {
    if (!host_.knows(pid)) End(pid);
  }
}

void StrayProcesses::End(uint32_t pid) {
  ending_.insert(pid);
  bridge::SignalProcessRequest kill;
  kill.container_id = bridge::kNullGuid;
  kill.process_id = pid;
  kill.signal = SIGKILL;
  connection_->Post(bridge::kSignalProcess, Encode(kill));
  bridge::WaitForProcessRequest wait;
  wait.container_id = bridge::kNullGuid;
  wait.process_id = pid;
  connection_->StartWait(Encode(wait), [this, pid](const absl::StatusOr<std::string>& answer) {
    if (answer.ok() && ending_.erase(pid) > 0) host_.acknowledge_exit(pid);
  });
}

}  // namespace ferry::guest
