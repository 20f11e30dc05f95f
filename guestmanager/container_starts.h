#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmanager/guest_connection.h"
#include "guestmanager/hosted_process.h"
#include "guestmanager/stray_processes.h"

namespace ferry::guest {

// The starts of containers that the agent has not answered yet. A container runs once, so a start
// cannot be asked for again as another call can: it outlives the link, and goes with the guest to
// another host, or another daemon, which takes the answer. Thread: the executor's only.
class ContainerStarts {
 public:
  ContainerStarts(std::shared_ptr<GuestConnection> connection, StrayProcesses& strays)
      : connection_(std::move(connection)), strays_(strays) {}

  // Sends the request; `init` is listened for already. Returns the agent's answer.
  Task<absl::StatusOr<std::string>> Call(std::shared_ptr<HostedProcess> init, std::string request);

  // As they are now: inits without a process id, whose wait is the start's call.
  std::vector<ProcessState> Save() const;
  // One that somebody else has asked for. Until it is taken, no process counts as a stray.
  void Restore(std::shared_ptr<HostedProcess> init, int64_t call_id);

  struct Answered {
    std::shared_ptr<HostedProcess> init;  // nullptr: no start of that container was restored
    absl::StatusOr<std::string> answer = std::string();
    std::unique_ptr<StrayProcesses::Execution> execution;  // to be held until it is taken in
  };
  // Takes a restored one; the agent should be there.
  Task<Answered> Take(std::string container_id);

 private:
  struct Pending {
    explicit Pending(Executor executor) : answered(std::move(executor)) {}
    std::shared_ptr<HostedProcess> init;
    int64_t call_id = 0;
    absl::StatusOr<std::string> answer = absl::UnknownError("no answer yet");
    AsyncEvent answered;
    std::unique_ptr<StrayProcesses::Execution> execution;  // of a restored one
  };
  static BridgeClientCore::Completion Completes(std::shared_ptr<Pending> pending);
  Task<absl::Status> AwaitAnswer(std::shared_ptr<Pending> pending);
  std::shared_ptr<Pending> Add(std::shared_ptr<HostedProcess> init);

  std::shared_ptr<GuestConnection> connection_;
  StrayProcesses& strays_;
  std::map<std::string, std::shared_ptr<Pending>> pending_;  // by container
};

}  // namespace ferry::guest
