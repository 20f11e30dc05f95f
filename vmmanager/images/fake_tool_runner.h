#pragma once

#include <functional>
#include <vector>

#include "vmmanager/images/tool_runner.h"

namespace ferry::vm {

// Runs nothing: remembers what it was asked, and answers as it was told to.
class FakeToolRunner final : public ToolRunner {
 public:
  using Act = std::function<absl::StatusOr<ToolEnd>(const ToolCommand& command)>;

  explicit FakeToolRunner(Executor executor) : gate_(std::move(executor)) { gate_.Set(); }

  absl::StatusOr<std::optional<ProcessUser>> user() const override { return runs_as; }
  Task<absl::StatusOr<ToolEnd>> Run(ToolCommand command) override;

  // What a tool does; by default it succeeds and does nothing.
  Act act;
  std::vector<ToolCommand> commands;
  absl::StatusOr<std::optional<ProcessUser>> runs_as = std::optional<ProcessUser>();
  // Tools do not begin while it is reset.
  AsyncEvent& gate() { return gate_; }

 private:
  AsyncEvent gate_;
};

}  // namespace ferry::vm
