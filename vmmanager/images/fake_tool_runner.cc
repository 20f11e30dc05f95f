#include "vmmanager/images/fake_tool_runner.h"

namespace ferry::vm {

Task<absl::StatusOr<ToolEnd>> FakeToolRunner::Run(ToolCommand command) {
  commands.push_back(command);
  co_await gate_.Wait();
  if (act) co_return act(command);
  co_return ToolEnd{};
}

}  // namespace ferry::vm
