#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/process/spawn.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// The stdio of a process in a container. Every process gets a terminal, or three pipes.
struct ContainerStdio {
  bool terminal = false;
  uint32_t rows = 0;
  uint32_t columns = 0;
};

// What runs containers. All calls have deadlines of their own; one at a time is made about a
// container. Create() and Exec() are called inside a ChildGate, because the processes that they
// leave behind are this process's children by adoption. If they fail, they leave none. Errors say
// what the runtime said.
class ContainerRuntime {
 public:
  virtual ~ContainerRuntime() = default;

  // Makes the container that `bundle`/config.json describes. Its init is there, and waits for
  // Start() before it runs what it is to run.
  virtual Task<absl::StatusOr<SpawnedProcess>> Create(std::string id, std::string bundle,
                                                      ContainerStdio stdio) = 0;
  virtual Task<absl::Status> Start(std::string id) = 0;

  // Runs another process; `process` is an OCI process as JSON.
  virtual Task<absl::StatusOr<SpawnedProcess>> Exec(std::string id, std::string process,
                                                    ContainerStdio stdio) = 0;

  // Returns when all of its processes stand still. After a failure some of them may.
  virtual Task<absl::Status> Pause(std::string id) = 0;
  virtual Task<absl::Status> Resume(std::string id) = 0;

  // `resources` are OCI's LinuxResources as JSON.
  virtual Task<absl::Status> Update(std::string id, std::string resources) = 0;

  // Kills what is left of it, and removes its cgroup and all that the runtime knows of it.
  virtual Task<absl::Status> Delete(std::string id) = 0;
};

}  // namespace ferry::bridge
