#pragma once

#include <optional>

#include "vmmanager/images/tool_runner.h"
#include "vmmanager/qemu/process_user.h"

namespace ferry::vm {

// Runs tools as child processes: as a user without rights where there is one, nicer than the
// daemon, and with nothing of the daemon's but what they are given.
class ChildToolRunner final : public ToolRunner {
 public:
  ChildToolRunner(Executor executor, std::optional<ProcessUser> user)
      : executor_(std::move(executor)), user_(std::move(user)) {}

  Task<absl::StatusOr<ToolEnd>> Run(ToolCommand command) override;

 private:
  const Executor executor_;
  const std::optional<ProcessUser> user_;
};

// The user for tools: the given one, or `nobody` if there is none and we are root; nullopt if we
// cannot give a process to anybody else.
std::optional<ProcessUser> UserForTools(const std::optional<ProcessUser>& preferred);

}  // namespace ferry::vm
