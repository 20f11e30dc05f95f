#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/container_attach.h"
#include "tools/ferryctl/container_options.h"
#include "tools/ferryctl/container_start.h"
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
  v1::ContainerRef ref = RefAnywhereTo(container);
  const absl::Status removed = co_await RemoveContainer(client, std::move(ref), true);
  if (removed.ok() || absl::IsNotFound(removed)) co_return;
  Fail(*client, absl::StrCat("removing container ", container.spec().name()), removed);
}

struct Begun {
  std::optional<int> exit_code;  // it does not run, and nothing of it is left, unless that was said
  v1::Container container;
  std::shared_ptr<Client> there;  // where its VM went meanwhile; nullptr: nowhere

  Client* at(Client* client) const { return there != nullptr ? there.get() : client; }
};

// Finds the VM of the container that it is to share the network with.
Task<absl::Status> FindPlace(Client* client, v1::CreateContainerRequest* request) {
  if (request->where_case() != v1::CreateContainerRequest::WHERE_NOT_SET)
    co_return absl::OkStatus();
  v1::ContainerRef pod = RefTo(request->spec().pod(), "");
  CO_ASSIGN_OR_RETURN(const v1::Container found, co_await FindContainer(client, std::move(pod)));
  request->set_vm(found.vm_id());
  request->mutable_spec()->set_pod(found.id());
  co_return absl::OkStatus();
}

// A daemon of a former release does not know of mounts, and makes the container without them.
absl::Status CheckHasMounts(const v1::ContainerSpec& wanted, const v1::Container& made) {
  if (made.spec().mounts_size() == wanted.mounts_size()) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              "the host's ferryd is of a release that mounts no folders",
                              "mounts_unknown", "Use a host with a newer ferryd.");
}

// Makes the container and starts it.
Task<void> Begin(Client* client, std::shared_ptr<RunArguments> arguments, CallOff* call_off,
                 Begun* begun) {
  v1::CreateContainerRequest& request = arguments->request;
  const char* verb = arguments->starts ? "running image " : "making a container of image ";
  const std::string doing = absl::StrCat(verb, request.spec().image());
  const absl::Status placed = co_await FindPlace(client, &request);
  if (!placed.ok()) {
    const int code = Fail(*client, doing, placed);
    begun->exit_code = arguments->starts ? kExecFailed : code;
    co_return;
  }
  const absl::StatusOr<v1::Container> made = co_await Create(client, request);
  absl::Status status = made.status();
  if (made.ok()) {
    begun->container = *made;
    status = CheckHasMounts(request.spec(), *made);
  }
  bool lost = false;
  if (status.ok() && arguments->starts && !call_off->asked()) {
    const StartedContainer start = co_await StartAndFollow(client, *made);
    status = start.container.status();
    begun->there = start.there;
    lost = start.lost;
    if (status.ok()) begun->container = *start.container;
  }
  Client* const at = begun->at(client);
  if (made.ok() && !lost && (!status.ok() || call_off->asked())) {
    co_await TakeBack(at, begun->container);
  }
  if (status.ok()) {
    if (call_off->asked()) begun->exit_code = 128 + SIGINT;
    co_return;
  }
  const int code = Fail(*at, doing, status);
  begun->exit_code = arguments->starts ? CommandFailureCode(status) : code;
  if (lost) begun->exit_code = kExecFailed;
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

void PrintBegun(const Client& client, const Begun& begun) {
  const std::string text = client.options.format() == OutputFormat::kJson
                               ? ToJson(begun.container, true)
                               : absl::StrCat(begun.container.id(), "\n");
  std::fputs(text.c_str(), stdout);
  if (begun.there == nullptr) return;
  std::fprintf(stderr, "ferryctl: its VM moved to %s meanwhile\n",
               begun.there->options.host.c_str());
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
  Begun begun;
  Task<void> beginning = Begin(client, arguments, &call_off, &begun);
  const auto first = co_await (std::move(beginning) || call_off.WaitLeft());
  co_await call_off.End();
  Client* const at = begun.at(client);
  const v1::Container& container = begun.container;
  if (first.index() == 1) {
    std::fputs(LeftText(*at, container).c_str(), stderr);
    co_return 128 + std::get<1>(first);
  }
  if (begun.exit_code) co_return *begun.exit_code;
  if (spec.detached() || !arguments->starts) {
    PrintBegun(*client, begun);
    co_return kOk;
  }
  arguments->wish.started = true;
  std::string address;
  const int code = co_await AttachToContainer(at, container, arguments->wish, &address);
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
  sub->add_option("-p,--publish", options->ports,
                  "Not possible: a port of the host would not move; see --nic")
      ->allow_extra_args(false);
  sub->add_option("--network", options->network,
                  "none: only a loopback; vm: that of its VM (default: vm with --nic, else none)");
  sub->add_option(
         "--nic", options->nics,
         "Of the VM that is made for it: bridge=B|tap=T|user[,name=N][,mac=M][,address=A/N|dhcp]"
         "[,gateway=G][,dns=D]")
      ->allow_extra_args(false);
  sub->add_option("-l,--label", options->labels, "KEY=VALUE")->allow_extra_args(false);
  sub->add_option("-v,--volume", options->volumes,
                  "HOSTDIR:DIR[:ro], a folder of the host, in a VM that stays there")
      ->allow_extra_args(false);
  sub->add_flag("--stays", options->stays, "Have the VM that is made for it stay on this host");
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
