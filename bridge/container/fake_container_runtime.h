#pragma once

#include <map>
#include <string>
#include <vector>

#include "bridge/container/container_runtime.h"

namespace ferry::bridge {

// A runtime whose containers are plain children of the test. Each call is noted, and may be told to
// fail or to wait.
class FakeContainerRuntime : public ContainerRuntime {
 public:
  explicit FakeContainerRuntime(Executor executor) : go_(executor), made_(executor) {
    go_.Set();
    made_.Set();
  }

  Task<absl::StatusOr<SpawnedProcess>> Create(std::string id, std::string bundle,
                                              ContainerStdio stdio) override;
  Task<absl::Status> Start(std::string id) override;
  Task<absl::StatusOr<SpawnedProcess>> Exec(std::string id, std::string process,
                                            ContainerStdio stdio) override;
  Task<absl::Status> Pause(std::string id) override;
  Task<absl::Status> Resume(std::string id) override;
  Task<absl::Status> Update(std::string id, std::string resources) override;
  Task<absl::Status> Delete(std::string id) override;

  // Each call as "verb argument"; ids are shortened to their first digit.
  std::vector<std::string> calls;
  // The next call of this verb fails so.
  std::map<std::string, absl::Status> failures;
  // Shell scripts: what inits and execs run.
  std::string init_script = "exec sleep 1000";
  std::string exec_script = "exec sleep 1000";
  // Reset it, and calls wait until it is set.
  AsyncEvent& go() { return go_; }
  // Reset it, and what Create() and Exec() have made is handed over when it is set.
  AsyncEvent& made() { return made_; }

 private:
  Task<absl::Status> Note(const char* verb, std::string id, std::string argument);
  Task<absl::StatusOr<SpawnedProcess>> Make(std::string script, ContainerStdio stdio);

  AsyncEvent go_;
  AsyncEvent made_;
};

}  // namespace ferry::bridge
