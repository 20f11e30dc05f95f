#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/container_attach.h"
#include "tools/ferryctl/container_options.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "tools/ferryctl/terminal.h"
#include "vmmanager/rpc/error_info.h"

// `ferryctl run` and `ferryctl container create`.
namespace ferry::ctl {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;

struct RunArguments {
  RunOptions options;
  std::vector<std::string> words;  // the image and what stands behind it
  v1::CreateContainerRequest request;
  bool starts = true;
  AttachWish wish;
};

// What the person wants who presses Ctrl-C before the container runs. The first time it is taken
// back as soon as it is made, so that it is certain that nothing is left; another time, or by
// another signal, ferryctl leaves at once.
class CallOff {
 public:
  explicit CallOff(Executor executor)
      : signals_(executor, SIGINT, SIGTERM, SIGHUP), left_(executor), scope_(executor) {}

  void Begin() { scope_.Spawn(Listen()); }
  Task<void> End() { return scope_.CancelAndJoin(); }
  bool asked() const { return asked_; }

  // Returns when ferryctl is to leave, with the signal that said so.
  Task<int> WaitLeft() {
    co_await left_.Wait();
    co_return left_by_;
  }

 private:
  Task<void> Listen() {
    while (true) {
      boost::system::error_code ec;
      const int signal =
          co_await signals_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
      if (ec) co_return;
      if (signal != SIGINT || asked_) {
        left_by_ = signal;
        left_.Set();
        co_return;
      }
      asked_ = true;
      std::fprintf(stderr, "%sCalling it off. Press Ctrl-C again to leave that to the daemon.\n",
                   IsTerminal(STDERR_FILENO) ? "\r\x1b[K" : "");
    }
  }

  asio::signal_set signals_;
  AsyncEvent left_;
  int left_by_ = 0;
  bool asked_ = false;
  TaskScope scope_;
};

// One line that says what takes a while, on a terminal only; gone when it is done.
class Notice {
 public:
  Notice(const GlobalOptions& options, const char* text)
      : shown_(options.format() == OutputFormat::kTable && IsTerminal(STDERR_FILENO)) {
    if (shown_) std::fprintf(stderr, "\r\x1b[K%s", text);
  }
  ~Notice() { Clear(); }
  void Clear() {
    if (shown_) std::fputs("\r\x1b[K", stderr);
    shown_ = false;
  }

 private:
  bool shown_;
};

// It may have been made before its answer was lost: the request's id makes asking again harmless.
Task<absl::StatusOr<v1::Container>> Create(Client* client, v1::CreateContainerRequest request) {
  const char* text = request.has_new_vm() ? "starting a VM ..." : "making the container ...";
  Notice notice(client->options, text);
  absl::StatusOr<v1::Container> made = co_await rpc::CallUnary(
      client->containers->async(), &ContainerAsync::CreateContainer, request, kLongTimeout);
  // Without a reason it is the daemon's absence, not its answer.
  if (absl::IsUnavailable(made.status()) && !rpc::GetErrorInfo(made.status())) {
    made = co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::CreateContainer,
                                   request, kLongTimeout);
  }
  co_return made;
}

// Removes what was made in vain; whoever looks for it later is told if that fails, too.
Task<void> TakeBack(Client* client, v1::Container container) {
  v1::ContainerRef ref = RefTo(container.id(), "");
  const absl::Status removed = co_await RemoveContainer(client, std::move(ref), true);
  if (removed.ok() || absl::IsNotFound(removed)) co_return;
  Fail(*client, absl::StrCat("removing container ", container.spec().name()), removed);
}

// Makes the container and starts it. An exit status: it does not run, and nothing of it is left.
Task<void> Begin(Client* client, std::shared_ptr<RunArguments> arguments, CallOff* call_off,
                 std::optional<int>* exit_code, v1::Container* container) {
  v1::CreateContainerRequest& request = arguments->request;
  const char* verb = arguments->starts ? "running image " : "making a container of image ";
  const std::string doing = absl::StrCat(verb, request.spec().image());
  if (request.where_case() == v1::CreateContainerRequest::WHERE_NOT_SET) {
    v1::ContainerRef pod = RefTo(request.spec().pod(), "");
    const absl::StatusOr<v1::Container> found = co_await FindContainer(client, std::move(pod));
    if (!found.ok()) {
      const int code = Fail(*client, doing, found.status());
      *exit_code = arguments->starts ? kExecFailed : code;
      co_return;
    }
    request.set_vm(found->vm_id());
    request.mutable_spec()->set_pod(found->id());
  }
  absl::StatusOr<v1::Container> made = co_await Create(client, request);
  absl::Status status = made.status();
  if (made.ok()) *container = *made;
  if (made.ok() && arguments->starts && !call_off->asked()) {
    v1::ContainerRef ref = RefTo(made->id(), "");
    made = co_await rpc::CallUnary(client->containers->async(), &ContainerAsync::StartContainer,
                                   std::move(ref), kLongTimeout);
    status = made.status();
    if (made.ok()) *container = *made;
  }
  if (!container->id().empty() && (!status.ok() || call_off->asked())) {
    co_await TakeBack(client, *container);
  }
  if (status.ok()) {
    if (call_off->asked()) *exit_code = 128 + SIGINT;
    co_return;
  }
  const int code = Fail(*client, doing, status);
  *exit_code = arguments->starts ? CommandFailureCode(status) : code;
}

std::string LeftText(const Client& client, const v1::Container& container) {
  const char* text = container.id().empty() ? "Left; the daemon takes back what it has made. See"
                                            : "Left, when the container was there already. See";
  return absl::StrCat(text, " with: ferryctl --host ", client.options.host, " container list -a\n");
}

// The daemon removes it once its status was taken, by and by; the person is to find it gone.
Task<void> AwaitRemoval(Client* client, v1::Container container, std::string address) {
  GlobalOptions options = client->options;
  options.host = std::move(address);
  Client there(client->executor, options);
  const absl::Status connected = there.Connect();
  if (!connected.ok()) {
    Fail(there, absl::StrCat("removing container ", container.spec().name()), connected);
    co_return;
  }
  co_await TakeBack(&there, std::move(container));
}

Task<void> NextSignal(asio::signal_set* signals) {
  boost::system::error_code ignored;
  co_await signals->async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

Task<int> Run(Client* client, std::shared_ptr<RunArguments> arguments) {
  using asio::experimental::awaitable_operators::operator||;
  const v1::ContainerSpec& spec = arguments->request.spec();
  if (LacksTerminal(spec.has_stdin(), spec.terminal(), spec.detached() || !arguments->starts)) {
    co_return kExecFailed;
  }
  // Kept to the end: a signal that finds nobody listening would end this program.
  CallOff call_off(client->executor);
  call_off.Begin();
  std::optional<int> exit_code;
  v1::Container container;
  Task<void> beginning = Begin(client, arguments, &call_off, &exit_code, &container);
  const auto first = co_await (std::move(beginning) || call_off.WaitLeft());
  co_await call_off.End();
  if (first.index() == 1) {
    std::fputs(LeftText(*client, container).c_str(), stderr);
    co_return 128 + std::get<1>(first);
  }
  if (exit_code) co_return *exit_code;
  if (spec.detached() || !arguments->starts) {
    const std::string text = client->options.format() == OutputFormat::kJson
                                 ? ToJson(container, true)
                                 : absl::StrCat(container.id(), "\n");
    std::fputs(text.c_str(), stdout);
    co_return kOk;
  }
  std::string address;
  const int code = co_await AttachToContainer(client, container, arguments->wish, &address);
  if (spec.remove_when_stopped() && !address.empty()) {
    // The daemon goes on with it when a person does not want to wait.
    asio::signal_set signals(client->executor, SIGINT, SIGTERM, SIGHUP);
    Task<void> removal = AwaitRemoval(client, container, address);
    co_await (std::move(removal) || NextSignal(&signals));
  }
  co_return code;
}

void CheckRun(RunArguments* arguments) {
  arguments->options.image = arguments->words.front();
  auto command = arguments->words.begin() + 1;
  if (command != arguments->words.end() && *command == "--") ++command;
  arguments->options.command.assign(command, arguments->words.end());
  absl::StatusOr<v1::CreateContainerRequest> request = ToCreateRequest(arguments->options);
  if (!request.ok()) throw CLI::ValidationError(std::string(request.status().message()));
  arguments->request = *std::move(request);
  arguments->request.set_request_id(NewRequestId());
  if (!arguments->options.terminal) return;
  if (std::optional<v1::TerminalSize> size = TerminalSizeOf(0)) {
    *arguments->request.mutable_spec()->mutable_terminal_size() = *size;
  }
}

void AddContainerOptions(CLI::App* sub, RunOptions* options) {
  sub->add_flag("-i,--interactive", options->interactive, "Pass stdin on");
  sub->add_flag("-t,--tty", options->terminal, "Give it a terminal");
  sub->add_flag("--rm", options->remove, "Remove it once it has stopped");
  sub->add_option("--vm", options->vm, "Run it in this VM, instead of in one made for it");
  sub->add_option("--name", options->name, "The container's name (default: made up)");
  sub->add_option("-e,--env", options->environment, "KEY=VALUE")->allow_extra_args(false);
  sub->add_option("-w,--workdir", options->working_directory, "Folder to run it in");
  sub->add_option("-u,--user", options->user, "USER[:GROUP], as names or numbers");
  sub->add_option("--entrypoint", options->entrypoint, "Program instead of the image's");
  sub->add_option("--hostname", options->hostname, "Its host name (default: of its id)");
  sub->add_option("--memory,-m", options->limits.memory, "Most memory it may use, e.g. 512M");
  sub->add_option("--cpus", options->limits.cpus, "Most CPUs it may use, e.g. 0.5");
  sub->add_option("--pids", options->limits.pids, "Most processes it may have")
      ->check(CLI::PositiveNumber);
  sub->add_flag("--read-only", options->read_only, "Let it write nothing; it gets no scratch disk");
  sub->add_option("--scratch-dir", options->scratch_folder, "Folder for its scratch disk");
  sub->add_option("--scratch-size", options->scratch_size, "Of that disk (default: 10G)");
  sub->add_option("--pod", options->pod, "Share the network and host name of this container");
  sub->add_option("-l,--label", options->labels, "KEY=VALUE")->allow_extra_args(false);
  sub->add_option("-v,--volume", options->volumes, "Not offered")
      ->allow_extra_args(false)
      ->group("");
}

CLI::App* AddRunLike(CLI::App* parent, Command* command, const char* verb, const char* help,
                     const char* detach, bool starts) {
  auto arguments = std::make_shared<RunArguments>();
  arguments->starts = starts;
  CLI::App* sub = parent->add_subcommand(verb, help);
  sub->add_flag("-d,--detach", arguments->options.detached, detach);
  if (starts) AddDetachKeys(sub, &arguments->wish);
  AddContainerOptions(sub, &arguments->options);
  sub->add_option("image", arguments->words, "Image, and the command to run in place of its own")
      ->required();
  sub->positionals_at_end();
  sub->callback([=] {
    CheckRun(arguments.get());
    command->action = [=](Client* client) { return Run(client, arguments); };
  });
  return sub;
}

}  // namespace

void AddRunCommand(CLI::App* app, Command* command) {
  FailApart(AddRunLike(app, command, "run", "Run an image in a new container",
                       "Print the container's id and leave it running", true),
            command);
}

void AddContainerCreate(CLI::App* container, Command* command) {
  AddRunLike(container, command, "create", "Make a container; start it with: container start",
             "Keep the newest of its output, for nobody will be attached", false);
}

}  // namespace ferry::ctl
