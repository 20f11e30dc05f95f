#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bridge/container/container_runtime.h"
#include "bridge/container/crun_arguments.h"
#include "bridge/process/helper.h"

namespace ferry::bridge {

// Runs crun as a child process, without a shell.
class CrunRuntime : public ContainerRuntime {
 public:
  struct Options {
    std::string program = "/usr/bin/crun";
    std::string state_folder = "/run/crun";
    std::string work_folder = "/run/ferry/crun";  // for files that live as long as one run
    std::string cgroup_root = "/sys/fs/cgroup";
    milliseconds limit{120'000};        // for one run
    milliseconds freeze_limit{60'000};  // until a paused container's processes stand still
  };

  // `pids` must outlive all that is under way.
  CrunRuntime(Executor executor, Options options, HelperPids& pids);

  Task<absl::StatusOr<SpawnedProcess>> Create(std::string id, std::string bundle,
                                              ContainerStdio stdio) override;
  Task<absl::Status> Start(std::string id) override;
  Task<absl::StatusOr<SpawnedProcess>> Exec(std::string id, std::string process,
                                            ContainerStdio stdio) override;
  Task<absl::Status> Pause(std::string id) override;
  Task<absl::Status> Resume(std::string id) override;
  Task<absl::Status> Update(std::string id, std::string resources) override;
  Task<absl::Status> Delete(std::string id) override;

 private:
  class Run;

  Task<absl::Status> Simple(std::string id, const char* verb);

  // Waits for crun's end; on failure the error is what crun has to say.
  Task<absl::Status> Finish(const Run* run, SpawnedProcess spawned);

  // Runs a command that leaves nothing behind.
  Task<absl::Status> RunVerb(const Run* run, std::vector<std::string> command);

  // Runs a command that leaves a process behind, and gives that one. If anything fails, it is
  // killed.
  Task<absl::StatusOr<SpawnedProcess>> Launch(const Run* run, std::vector<std::string> command,
                                              ContainerStdio stdio);

  const Executor executor_;
  const Options options_;
  const CrunCommands commands_;
  HelperPids& pids_;
  uint64_t runs_ = 0;
};

}  // namespace ferry::bridge
