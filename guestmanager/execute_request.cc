#include "guestmanager/execute_request.h"

#include <utility>

#include "absl/strings/str_join.h"
#include "bridge/protocol/messages.h"

namespace ferry::guest {

std::string EncodeExecuteRequest(const ProcessState& state, bool resumable,
                                 std::string oci_process) {
  bridge::ExecuteProcessRequest request;
  bridge::ProcessParameters& parameters = request.parameters;
  if (!state.container_id.empty()) request.container_id = state.container_id;
  parameters.oci_process = std::move(oci_process);
  // In a container they are said there, and a message has no room for them twice.
  if (state.container_id.empty()) {
    parameters.command_args = state.spec.command;
    parameters.command_line = absl::StrJoin(state.spec.command, " ");
    parameters.working_directory =
        state.spec.working_directory.empty() ? "/" : state.spec.working_directory;
    parameters.environment = state.spec.environment;
  }
  parameters.emulate_console = state.spec.terminal;
  parameters.console_rows = state.spec.rows;
  parameters.console_columns = state.spec.columns;
  parameters.create_stdin_pipe = state.stdin_port != 0;
  parameters.create_stdout_pipe = state.stdout_port != 0;
  parameters.create_stderr_pipe = state.stderr_port != 0;
  parameters.create_in_utility_vm = state.container_id.empty();
  request.stdio = {.std_in = state.stdin_port,
                   .std_out = state.stdout_port,
                   .std_err = state.stderr_port,
                   .resumable = resumable};
  return Encode(request);
}

}  // namespace ferry::guest
