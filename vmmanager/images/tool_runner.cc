#include "vmmanager/images/tool_runner.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {

std::string ToolName(const ToolCommand& command) {
  return command.program.substr(command.program.rfind('/') + 1);
}

Task<absl::Status> RunTool(ToolRunner& runner, ToolCommand command) {
  const std::string name = ToolName(command);
  absl::StatusOr<ToolEnd> end = co_await runner.Run(std::move(command));
  if (!end.ok()) co_return end.status();
  if (end->exit_code == 0) co_return absl::OkStatus();
  const std::string text = absl::StrCat(name, " failed with status ", end->exit_code,
                                        end->last_words.empty() ? "" : ": ", end->last_words);
  if (absl::StrContains(end->last_words, "No space left")) {
    co_return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted, text, "no_room",
                                   "Make room there, and try again.");
  }
  co_return rpc::ErrorWithReason(absl::StatusCode::kInternal, text, "tool_failed");
}

}  // namespace ferry::vm
