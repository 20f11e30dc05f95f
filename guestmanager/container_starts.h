#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmanager/guest_connection.h"
#include "guestmanager/hosted_process.h"
#include "guestmanager/stray_processes.h"

namespace ferry::guest {

// The starts of containers that the agent has not answered yet. A container runs once, so its start
// is not asked for anew as another call is: it outlives the link, and goes with the guest to
// another host, or another daemon, which takes the answer. Request or answer may have been lost on
// the way: each time that the agent is back the same request is sent again, under the same id and
// with the same ports, and the agent answers it again. Thread: the executor's only.
class ContainerStarts {
 public:
  // `changed` is called when Save() says more than before.
  ContainerStarts(std::shared_ptr<GuestConnection> connection, StrayProcesses& strays,
                  std::function<void()> changed)
      : connection_(std::move(connection)), strays_(strays), changed_(std::move(changed)) {}

  // Has the agent start it; `init` is listened for already. Returns the agent's answer.
  Task<absl::StatusOr<std::string>> Call(std::shared_ptr<HostedProcess> init);

  // The agent is (again) there. One that has not learnt to answer a start twice is not asked again:
  // it would refuse it, and run the init.
  void OnReady();

  // As they are now: inits without a process id, whose wait is the start's call.
  std::vector<ProcessState> Save() const;
  // One that somebody else has asked for. Until it is taken, no process counts as a stray.
  void Restore(std::shared_ptr<HostedProcess> init, int64_t call_id);

  struct Answered {
    std::shared_ptr<HostedProcess> init;  // nullptr: no start of that container was restored
    absl::StatusOr<std::string> answer = std::string();
    std::unique_ptr<StrayProcesses::Execution> execution;  // to be held until it is taken in
  };
  // Whether Take() would find one.
  bool Awaited(const std::string& container_id) const;
  // Takes a restored one; the agent should be there.
  Task<Answered> Take(std::string container_id);

  // Ends the restored ones that nobody has taken, while what they refer to is still there.
  void Close(const absl::Status& reason);

 private:
  struct Pending {
    explicit Pending(Executor executor) : answered(std::move(executor)) {}
    std::shared_ptr<HostedProcess> init;
    int64_t call_id = 0;  // 0: not sent yet
    absl::StatusOr<std::string> answer = absl::UnknownError("no answer yet");
    AsyncEvent answered;
    std::unique_ptr<StrayProcesses::Execution> execution;  // of a restored one
    bool repeating = false;                                // as soon as the clock is set
  };
  static BridgeClientCore::Completion Completes(std::shared_ptr<Pending> pending);
  static std::string Request(const Pending& pending, const GuestConnection& connection);
  static Task<void> SendAgain(std::shared_ptr<GuestConnection> connection,
                              std::weak_ptr<Pending> waiting);
  Task<absl::Status> AwaitAnswer(std::shared_ptr<Pending> pending);
  std::shared_ptr<Pending> Add(std::shared_ptr<HostedProcess> init);

  std::shared_ptr<GuestConnection> connection_;
  StrayProcesses& strays_;
  std::function<void()> changed_;
  std::map<std::string, std::shared_ptr<Pending>> pending_;  // by container
};

}  // namespace ferry::guest
