#pragma once

#include <optional>
#include <string>

#include "bridge/runtime/blocking_worker.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/images/tool_runner.h"
#include "vmmanager/qemu/process_user.h"

namespace ferry::vm {

// Runs tools as child processes: as the user, nicer than the daemon, and with nothing of the
// daemon's but what they are given.
class ChildToolRunner final : public ToolRunner {
 public:
  // An error for a user is what every tool is answered with.
  ChildToolRunner(Executor executor, absl::StatusOr<std::optional<ProcessUser>> user)
      : executor_(executor), user_(std::move(user)), worker_(executor) {}

  absl::StatusOr<std::optional<ProcessUser>> user() const override { return user_; }
  Task<absl::StatusOr<ToolEnd>> Run(ToolCommand command) override;

 private:
  Task<absl::StatusOr<UniqueFd>> FindProgram(ToolCommand command);

  const Executor executor_;
  const absl::StatusOr<std::optional<ProcessUser>> user_;
  BlockingWorker worker_;  // for the disk that programs are on
};

// The user for tools. Of root's processes it is `nobody`, who has no files: not QEMU's user, whose
// other processes and disks a tool that was taken over could reach. FAILED_PRECONDITION if there is
// no such user, for nothing hostile is read as root. nullopt if we are not root.
absl::StatusOr<std::optional<ProcessUser>> UserForTools(const std::string& name = "nobody");

}  // namespace ferry::vm
