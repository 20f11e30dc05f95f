#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/attach_session.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/container_attach.h"
#include "tools/ferryctl/container_options.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "tools/ferryctl/terminal.h"
#include "tools/ferryctl/units.h"

// exec, attach, ps and kill.
namespace ferry::ctl {
namespace {

using GuestAsync = v1::GuestService::StubInterface::async_interface;

struct ExecArguments {
  std::string vm, container, user, working_directory;
  bool interactive = false, terminal = false, detached = false;
  std::vector<std::string> environment, command;
  AttachWish wish;
  std::vector<std::string> words;  // the VM and the command, as they were given
};

v1::CreateProcessRequest CreateRequest(const ExecArguments& arguments) {
  v1::CreateProcessRequest request;
  request.set_vm(arguments.vm);
  request.set_request_id(NewRequestId());
  v1::ProcessSpec* spec = request.mutable_spec();
  for (const std::string& word : arguments.command) spec->add_command(word);
  for (const std::string& pair : arguments.environment) {
    const auto assignment = ParseAssignment(pair);
    if (assignment.ok()) (*spec->mutable_environment())[assignment->first] = assignment->second;
  }
  spec->set_container(arguments.container);
  spec->set_user(arguments.user);
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

Task<int> Attach(Client* client, std::string vm, uint32_t process, AttachWish wish) {
  AttachConfig config;
  config.address = client->options.host;
  config.tls = client->options.tls;
  config.vm = vm;
  config.process_id = process;
  config.started = wish.started;
  config.steal = wish.steal;
  config.detach_keys = wish.detach_keys;
  config.handle_signals = true;
  AttachSession session(client->executor, config);
  const AttachOutcome outcome = co_await session.Run();
  const std::string text = OutcomeText(outcome, vm, process);
  std::fputs(text.c_str(), stderr);
  co_return ExitCodeFor(outcome);
}

// Starts the process in the VM, or in the container, whose VM is then found out.
Task<absl::StatusOr<v1::Process>> StartProcess(Client* client,
                                               std::shared_ptr<ExecArguments> arguments) {
  if (!arguments->container.empty()) {
    v1::ContainerRef ref = RefTo(arguments->container, arguments->vm);
    CO_ASSIGN_OR_RETURN(const v1::Container container,
                        co_await FindContainer(client, std::move(ref)));
    arguments->vm = container.vm_id();
    arguments->container = container.id();
  }
  co_return co_await rpc::CallUnary(client->guests->async(), &GuestAsync::CreateProcess,
                                    CreateRequest(*arguments), kCallTimeout);
}

Task<int> Exec(Client* client, std::shared_ptr<ExecArguments> arguments) {
  if (LacksTerminal(arguments->interactive, arguments->terminal, arguments->detached)) {
    co_return kExecFailed;
  }
  const bool in_container = !arguments->container.empty();
  const std::string where = in_container ? absl::StrCat("container ", arguments->container)
                                         : absl::StrCat("VM ", arguments->vm);
  absl::StatusOr<v1::Process> process = co_await StartProcess(client, arguments);
  if (!process.ok()) {
    Fail(*client, absl::StrCat("running a command in ", where), process.status());
    co_return in_container ? CommandFailureCode(process.status()) : kExecFailed;
  }
  if (arguments->detached) {
    const std::string text = client->options.format() == OutputFormat::kJson
                                 ? ToJson(*process, true)
                                 : absl::StrCat(process->id(), "\n");
    std::fputs(text.c_str(), stdout);
    co_return kOk;
  }
  arguments->wish.started = true;
  co_return co_await Attach(client, arguments->vm, process->id(), arguments->wish);
}

// `marked`: a "--" stood before all words.
void CheckExec(ExecArguments* arguments, bool marked) {
  const bool in_container = !arguments->container.empty();
  ExecWords words = SplitExecWords(arguments->words, in_container, marked);
  arguments->vm = std::move(words.vm);
  arguments->command = std::move(words.command);
  if (arguments->command.empty()) throw CLI::RequiredError("command");
  if (!in_container && !arguments->user.empty()) {
    throw CLI::ValidationError("-u", "a user can be given in a container only; see --container");
  }
  for (const std::string& pair : arguments->environment) {
    const absl::Status good = ParseAssignment(pair).status();
    if (!good.ok()) throw CLI::ValidationError("-e", std::string(good.message()));
  }
}

void AddExec(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<ExecArguments>();
  CLI::App* sub =
      app->add_subcommand("exec", "Run a command in a VM or a container, and stay attached to it");
  FailApart(sub, command);
  sub->add_flag("-i,--interactive", arguments->interactive, "Pass stdin on");
  sub->add_flag("-t,--tty", arguments->terminal, "Give it a terminal");
  sub->add_flag("-d,--detach", arguments->detached, "Print the process id and leave it running");
  sub->add_option("-e,--env", arguments->environment, "KEY=VALUE")->allow_extra_args(false);
  sub->add_option("-w,--workdir", arguments->working_directory, "Folder to run it in");
  sub->add_option("--container", arguments->container,
                  "Run it in this container; VM may be left out");
  AddDetachKeys(sub, &arguments->wish);
  sub->add_option("-u,--user", arguments->user, "USER[:GROUP], in a container");
  sub->add_option("vm", arguments->words, "The VM's name or id; then -- and the command")
      ->required();
  sub->positionals_at_end();
  sub->callback([=] {
    const std::vector<std::string> marks = sub->remaining();
    CheckExec(arguments.get(), !marks.empty() && marks.front() == "--");
    command->action = [=](Client* client) { return Exec(client, arguments); };
  });
}

void AddAttach(CLI::App* app, Command* command) {
  auto vm = std::make_shared<std::string>();
  auto process = std::make_shared<uint32_t>(0);
  auto wish = std::make_shared<AttachWish>();
  CLI::App* sub = app->add_subcommand("attach", "Attach to a running process");
  FailApart(sub, command);
  AddAttachWish(sub, wish.get());
  sub->add_option("vm", *vm, "Name or id")->required();
  sub->add_option("process", *process, "Process id, see ferryctl ps")->required();
  sub->callback([=] {
    command->action = [=](Client* client) { return Attach(client, *vm, *process, *wish); };
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
