#pragma once

#include <memory>
#include <string>

#include "migration/controller/controller_deps.h"
#include "migration/controller/source_session.h"

namespace ferry::migration {

// Runs a whole migration in the source's daemon: prepares and transfers both sides, lets the
// session commit as soon as the destination has voted, and leaves nothing behind whatever happens.
// The client that asked for it may go away.
class Orchestrator {
 public:
  explicit Orchestrator(const ControllerDeps& deps) : deps_(deps) {}

  // Opens the session and starts the rest in the background. An error means that nothing happened.
  Task<absl::Status> Start(std::shared_ptr<SourceSession> session, v1::MigrateRequest request);
  // Rolls a session back that has failed, again and again until it is done.
  static Task<void> GiveBack(std::shared_ptr<SourceSession> session, milliseconds pause);

 private:
  struct Run {
    std::shared_ptr<SourceSession> session;
    std::shared_ptr<PeerClient> peer;
    v1::MigrateRequest request;
    std::string plan;
    bool disks_come = false;  // that the destination does not see
  };

  static Task<void> RunToEnd(std::shared_ptr<Run> run, const ControllerDeps* deps);
  static Task<absl::Status> Drive(std::shared_ptr<Run> run);
  // Binds the VM's containers at the destination, and sends what it lacks of them.
  static Task<absl::Status> BringContainers(std::shared_ptr<Run> run,
                                            v1::ImportSandboxResponse imported);
  // Copies the disks there that the prepared destination does not see.
  static Task<absl::Status> BringDisks(std::shared_ptr<Run> run);
  static Task<void> SettleInDoubt(std::shared_ptr<Run> run, ControllerLimits limits);
  static Task<void> CleanUpPeer(std::shared_ptr<Run> run, const absl::Status& outcome);

  const ControllerDeps& deps_;
};

}  // namespace ferry::migration
