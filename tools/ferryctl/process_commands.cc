#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/attach_session.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "tools/ferryctl/terminal.h"
#include "tools/ferryctl/units.h"

// exec, attach, ps and kill.
namespace ferry::ctl {
namespace {

using GuestAsync = v1::GuestService::StubInterface::async_interface;

struct ExecArguments {
  std::string vm, working_directory;
  bool interactive = false, terminal = false, detached = false;
  std::vector<std::string> environment, command;
};

v1::CreateProcessRequest CreateRequest(const ExecArguments& arguments) {
  v1::CreateProcessRequest request;
  request.set_vm(arguments.vm);
  request.set_request_id(NewRequestId());
  v1::ProcessSpec* spec = request.mutable_spec();
  for (const std::string& word : arguments.command) spec->add_command(word);
  for (const std::string& pair : arguments.environment) {
    const size_t equals = pair.find('=');
    (*spec->mutable_environment())[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  spec->set_working_directory(arguments.working_directory);
  spec->set_has_stdin(arguments.interactive);
  spec->set_terminal(arguments.terminal);
  spec->set_detached(arguments.detached);
  if (arguments.terminal) {
    if (std::optional<v1::TerminalSize> size = TerminalSizeOf(0)) {
      *spec->mutable_terminal_size() = *size;
    }
  }
  return request;
}

Task<int> Attach(Client* client, std::string vm, uint32_t process, bool steal) {
  AttachConfig config;
  config.address = client->options.host;
  config.tls = client->options.tls;
  config.vm = vm;
  config.process_id = process;
  config.steal = steal;
  config.handle_signals = true;
  AttachSession session(client->executor, config);
  const AttachOutcome outcome = co_await session.Run();
  const std::string text = OutcomeText(outcome, vm, process);
  std::fputs(text.c_str(), stderr);
  co_return ExitCodeFor(outcome);
}

Task<int> Exec(Client* client, std::shared_ptr<ExecArguments> arguments) {
  if (arguments->interactive && arguments->terminal && !arguments->detached && !IsTerminal(0)) {
    std::fputs(
        "Error: -t together with -i needs a terminal, but stdin is not a terminal\n"
        "  Next:     leave -t out to pass on a file or a pipe\n",
        stderr);
    co_return kExecFailed;
  }
  absl::StatusOr<v1::Process> process = co_await rpc::CallUnary(
      client->guests->async(), &GuestAsync::CreateProcess, CreateRequest(*arguments), kCallTimeout);
  if (!process.ok()) {
    Fail(*client, absl::StrCat("running a command in VM ", arguments->vm), process.status());
    co_return kExecFailed;
  }
  if (arguments->detached) {
    const std::string text = client->options.format() == OutputFormat::kJson
                                 ? ToJson(*process, true)
                                 : absl::StrCat(process->id(), "\n");
    std::fputs(text.c_str(), stdout);
    co_return kOk;
  }
  co_return co_await Attach(client, arguments->vm, process->id(), false);
}

void CheckExec(ExecArguments* parsed) {
  // The parser hands everything after the VM on, so that the command's options stay its own.
  if (parsed->command.front() == "--") parsed->command.erase(parsed->command.begin());
  const ExecArguments& arguments = *parsed;
  if (arguments.command.empty()) throw CLI::RequiredError("command");
  for (const std::string& pair : arguments.environment) {
    if (pair.find('=') == std::string::npos || pair[0] == '=') {
      throw CLI::ValidationError("-e", "\"" + pair + "\" is not of the form KEY=VALUE");
    }
  }
}

// From its word on, a failure of ours (a wrong usage, too) must not look like the process's status.
void FailApart(CLI::App* sub, Command* command) {
  sub->preparse_callback([command](size_t) { command->failure_code = kExecFailed; });
}

void AddExec(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<ExecArguments>();
  CLI::App* sub = app->add_subcommand("exec", "Run a command in a VM and stay attached to it");
  FailApart(sub, command);
  sub->add_flag("-i,--interactive", arguments->interactive, "Pass stdin on");
  sub->add_flag("-t,--tty", arguments->terminal, "Give it a terminal");
  sub->add_flag("-d,--detach", arguments->detached, "Print the process id and leave it running");
  sub->add_option("-e,--env", arguments->environment, "KEY=VALUE")->allow_extra_args(false);
  sub->add_option("-w,--workdir", arguments->working_directory, "Folder to run it in");
  sub->add_option("vm", arguments->vm, "Name or id")->required();
  sub->add_option("command", arguments->command, "After --: the command and its arguments")
      ->required();
  sub->positionals_at_end();
  sub->callback([=] {
    CheckExec(arguments.get());
    command->action = [=](Client* client) { return Exec(client, arguments); };
  });
}

void AddAttach(CLI::App* app, Command* command) {
  auto vm = std::make_shared<std::string>();
  auto process = std::make_shared<uint32_t>(0);
  auto steal = std::make_shared<bool>(false);
  CLI::App* sub = app->add_subcommand("attach", "Attach to a running process");
  FailApart(sub, command);
  sub->add_flag("--steal", *steal, "Take it over from whoever is attached");
  sub->add_option("vm", *vm, "Name or id")->required();
  sub->add_option("process", *process, "Process id, see ferryctl ps")->required();
  sub->callback([=] {
    command->action = [=](Client* client) { return Attach(client, *vm, *process, *steal); };
  });
}

void AddPs(CLI::App* app, Command* command) {
  auto vm = std::make_shared<std::string>();
  CLI::App* sub = app->add_subcommand("ps", "List a VM's processes");
  sub->add_option("vm", *vm, "Name or id")->required();
  sub->callback([=] {
    command->action = [=](Client* client) {
      v1::ListProcessesRequest request;
      request.set_vm(*vm);
      return CallAndPrint(client, client->guests->async(), &GuestAsync::ListProcesses,
                          std::move(request), kCallTimeout,
                          absl::StrCat("listing processes of VM ", *vm), &ProcessTable);
    };
  });
}

std::string Delivered(const v1::SignalProcessResponse& response) {
  return response.delivered() ? "" : "it had already exited\n";
}

void AddKill(CLI::App* app, Command* command) {
  auto vm = std::make_shared<std::string>();
  auto process = std::make_shared<uint32_t>(0);
  auto signal = std::make_shared<std::string>("TERM");
  CLI::App* sub = app->add_subcommand("kill", "Send a signal to a process");
  sub->add_option("-s,--signal", *signal, "Name or number")->capture_default_str();
  sub->add_option("vm", *vm, "Name or id")->required();
  sub->add_option("process", *process, "Process id, see ferryctl ps")->required();
  sub->callback([=] {
    const absl::StatusOr<uint32_t> number = ParseSignal(*signal);
    if (!number.ok()) throw CLI::ValidationError("-s", std::string(number.status().message()));
    command->action = [=, number = *number](Client* client) {
      v1::SignalProcessRequest request;
      request.set_vm(*vm);
      request.set_process_id(*process);
      request.set_signal(number);
      return CallAndPrint(
          client, client->guests->async(), &GuestAsync::SignalProcess, std::move(request),
          kCallTimeout, absl::StrCat("signalling process ", *process, " of VM ", *vm), &Delivered);
    };
  });
}

}  // namespace

void AddProcessCommands(CLI::App* app, Command* command) {
  AddExec(app, command);
  AddAttach(app, command);
  AddPs(app, command);
  AddKill(app, command);
}

}  // namespace ferry::ctl
