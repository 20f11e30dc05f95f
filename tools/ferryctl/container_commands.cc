#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/ferryctl/command.h"
#include "tools/ferryctl/container_attach.h"
#include "tools/ferryctl/container_options.h"
#include "tools/ferryctl/container_start.h"
#include "tools/ferryctl/container_stats.h"
#include "tools/ferryctl/container_view.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "tools/ferryctl/units.h"
#include "vmmanager/rpc/error_info.h"

// `ferryctl container ...`.
namespace ferry::ctl {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;
using GuestAsync = v1::GuestService::StubInterface::async_interface;

constexpr uint32_t kDefaultStopSeconds = 10;
constexpr uint32_t kMostStopSeconds = 3600;
// What the daemon may need beyond the time that the container is given.
constexpr milliseconds kStopSpare(60000);

struct Named {
  std::string container, vm;

  v1::ContainerRef ref() const { return RefTo(container, vm); }
};

void AddVmOption(CLI::App* sub, std::string* vm) {
  sub->add_option("--vm", *vm, "The VM that it is in, where several have one of that name");
}

void AddNamed(CLI::App* sub, Named* named) {
  sub->add_option("container", named->container, "Name, or id by its first digits")->required();
  AddVmOption(sub, &named->vm);
}

void AddListOf(CLI::App* app, Command* command) {
  auto request = std::make_shared<v1::ListContainersRequest>();
  auto vm = std::make_shared<std::string>();
  auto all = std::make_shared<bool>(false);
  CLI::App* sub = app->add_subcommand("list", "List the containers that live");
  sub->add_flag("-a,--all", *all, "Also those that have stopped");
  sub->add_option("--vm", *vm, "Only this VM's");
  sub->callback([=] {
    command->action = [=](Client* client) {
      request->set_vm(*vm);
      request->set_all(*all);
      return CallAndPrint(client, client->containers->async(), &ContainerAsync::ListContainers,
                          *request, kCallTimeout, "listing containers", &ContainerTable);
    };
  });
}

// Commands that need only the container's name and answer with the container.
void AddOnContainer(CLI::App* app, Command* command, const std::string& verb,
                    const std::string& help, const std::string& doing,
                    void (ContainerAsync::*method)(grpc::ClientContext*, const v1::ContainerRef*,
                                                   v1::Container*,
                                                   std::function<void(grpc::Status)>),
                    std::string (*table)(const v1::Container&)) {
  auto named = std::make_shared<Named>();
  CLI::App* sub = app->add_subcommand(verb, help);
  AddNamed(sub, named.get());
  sub->callback([=] {
    command->action = [=](Client* client) {
      return CallAndPrint(client, client->containers->async(), method, named->ref(), kCallTimeout,
                          absl::StrCat(doing, " container ", named->container), table);
    };
  });
}

Task<int> StartAttached(Client* client, Named named, AttachWish wish) {
  const std::string doing = absl::StrCat("starting container ", named.container);
  v1::ContainerRef ref = named.ref();
  const absl::StatusOr<v1::Container> found = co_await FindContainer(client, std::move(ref));
  if (!found.ok()) {
    Fail(*client, doing, found.status());
    co_return kExecFailed;
  }
  const StartedContainer start = co_await StartAndFollow(client, *found);
  Client* const at = start.there != nullptr ? start.there.get() : client;
  if (!start.container.ok()) {
    Fail(*at, doing, start.container.status());
    co_return start.lost ? kExecFailed : CommandFailureCode(start.container.status());
  }
  wish.started = true;
  co_return co_await AttachToContainer(at, *start.container, wish, nullptr);
}

void AddStartOf(CLI::App* app, Command* command) {
  auto named = std::make_shared<Named>();
  auto attach = std::make_shared<bool>(false);
  auto wish = std::make_shared<AttachWish>();
  CLI::App* sub = app->add_subcommand("start", "Start a container that was made");
  sub->add_flag("-a,--attach", *attach, "Stay attached to it, as run does");
  AddDetachKeys(sub, wish.get());
  AddNamed(sub, named.get());
  sub->callback([=] {
    if (*attach) {
      command->failure_code = kExecFailed;
      command->action = [=](Client* client) { return StartAttached(client, *named, *wish); };
      return;
    }
    command->action = [=](Client* client) {
      return CallAndPrint(client, client->containers->async(), &ContainerAsync::StartContainer,
                          named->ref(), kLongTimeout,
                          absl::StrCat("starting container ", named->container), &ContainerLine);
    };
  });
}

Task<int> AttachNamed(Client* client, Named named, AttachWish wish) {
  v1::ContainerRef ref = named.ref();
  const absl::StatusOr<v1::Container> found = co_await FindContainer(client, std::move(ref));
  if (!found.ok()) {
    Fail(*client, absl::StrCat("attaching to container ", named.container), found.status());
    co_return kExecFailed;
  }
  co_return co_await AttachToContainer(client, *found, wish, nullptr);
}

void AddAttachTo(CLI::App* app, Command* command) {
  auto named = std::make_shared<Named>();
  auto wish = std::make_shared<AttachWish>();
  CLI::App* sub = app->add_subcommand("attach", "Attach to a container's main process");
  FailApart(sub, command);
  AddAttachWish(sub, wish.get());
  AddNamed(sub, named.get());
  sub->callback([=] {
    command->action = [=](Client* client) { return AttachNamed(client, *named, *wish); };
  });
}

void AddStopOf(CLI::App* app, Command* command) {
  auto named = std::make_shared<Named>();
  auto seconds = std::make_shared<uint32_t>(kDefaultStopSeconds);
  CLI::App* sub = app->add_subcommand("stop", "Ask a container to end, and kill it if it does not");
  sub->add_option("-t,--time", *seconds, "Seconds that it has to end by itself")
      ->check(CLI::Range(0U, kMostStopSeconds))
      ->capture_default_str();
  AddNamed(sub, named.get());
  sub->callback([=] {
    command->action = [=](Client* client) {
      v1::StopContainerRequest request;
      *request.mutable_ref() = named->ref();
      request.set_timeout_ms(*seconds * 1000);
      return CallAndPrint(client, client->containers->async(), &ContainerAsync::StopContainer,
                          std::move(request), milliseconds(*seconds * 1000) + kStopSpare,
                          absl::StrCat("stopping container ", named->container), &ContainerLine);
    };
  });
}

std::string DeliveredToInit(const v1::SignalProcessResponse& response) {
  return response.delivered() ? "" : "it had already stopped\n";
}

Task<int> Kill(Client* client, Named named, uint32_t signal) {
  const std::string doing = absl::StrCat("signalling container ", named.container);
  v1::ContainerRef ref = named.ref();
  const absl::StatusOr<v1::Container> found = co_await FindContainer(client, std::move(ref));
  if (!found.ok()) co_return Fail(*client, doing, found.status());
  const bool lives =
      found->state() == v1::CONTAINER_STATE_RUNNING || found->state() == v1::CONTAINER_STATE_PAUSED;
  if (lives && found->process_id() == 0) {
    const absl::Status unknown = rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition, "its host does not know its main process",
        "init_unknown",
        absl::StrCat("Try again in a moment, it may just have come here. If that stays so, end its "
                     "VM: ferryctl stop --force ",
                     found->vm_name()));
    co_return Fail(*client, doing, unknown);
  }
  if (found->process_id() == 0 || found->state() == v1::CONTAINER_STATE_CREATED) {
    const absl::Status idle = rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("it is ", ContainerStateName(found->state())), "wrong_state",
        absl::StrCat("Remove it: ferryctl container rm ", found->spec().name()));
    co_return Fail(*client, doing, idle);
  }
  v1::SignalProcessRequest request;
  request.set_vm(found->vm_id());
  request.set_process_id(found->process_id());
  request.set_signal(signal);
  co_return co_await CallAndPrint(client, client->guests->async(), &GuestAsync::SignalProcess,
                                  std::move(request), kCallTimeout, doing, &DeliveredToInit);
}

void AddKillOf(CLI::App* app, Command* command) {
  auto named = std::make_shared<Named>();
  auto signal = std::make_shared<std::string>("KILL");
  CLI::App* sub = app->add_subcommand("kill", "Send a signal to a container's main process");
  sub->add_option("-s,--signal", *signal, "Name or number")->capture_default_str();
  AddNamed(sub, named.get());
  sub->callback([=] {
    const absl::StatusOr<uint32_t> number = ParseSignal(*signal);
    if (!number.ok()) throw CLI::ValidationError("-s", std::string(number.status().message()));
    command->action = [=, number = *number](Client* client) {
      return Kill(client, *named, number);
    };
  });
}

void AddUpdate(CLI::App* app, Command* command) {
  auto named = std::make_shared<Named>();
  auto options = std::make_shared<LimitOptions>();
  CLI::App* sub = app->add_subcommand("update", "Change a container's limits while it lives");
  sub->add_option("--memory,-m", options->memory, "Most memory it may use, e.g. 512M");
  sub->add_option("--cpus", options->cpus, "Most CPUs it may use, e.g. 0.5");
  sub->add_option("--pids", options->pids, "Most processes it may have")
      ->check(CLI::PositiveNumber);
  AddNamed(sub, named.get());
  sub->callback([=] {
    const absl::StatusOr<v1::ContainerLimits> limits = options->Parse();
    if (!limits.ok()) throw CLI::ValidationError(std::string(limits.status().message()));
    if (limits->ByteSizeLong() == 0) {
      throw CLI::ValidationError("give a new limit with --memory, --cpus or --pids");
    }
    command->action = [=, limits = *limits](Client* client) {
      v1::UpdateContainerRequest request;
      *request.mutable_ref() = named->ref();
      *request.mutable_limits() = limits;
      return CallAndPrint(client, client->containers->async(), &ContainerAsync::UpdateContainer,
                          std::move(request), kCallTimeout,
                          absl::StrCat("changing container ", named->container), &ContainerLine);
    };
  });
}

Task<int> RemoveAll(Client* client, std::vector<std::string> names, std::string vm, bool force) {
  int code = kOk;
  for (const std::string& name : names) {
    v1::ContainerRef ref = RefTo(name, vm);
    const absl::Status removed = co_await RemoveContainer(client, std::move(ref), force);
    if (removed.ok()) continue;
    const int failed = Fail(*client, absl::StrCat("removing container ", name), removed);
    if (code == kOk) code = failed;
  }
  co_return code;
}

void AddRemove(CLI::App* app, Command* command) {
  auto names = std::make_shared<std::vector<std::string>>();
  auto vm = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  CLI::App* sub = app->add_subcommand("rm", "Remove containers that have stopped");
  sub->add_flag("-f,--force", *force, "Kill those that run");
  sub->add_option("containers", *names, "Their names or ids")->required();
  AddVmOption(sub, vm.get());
  sub->callback([=] {
    command->action = [=](Client* client) { return RemoveAll(client, *names, *vm, *force); };
  });
}

void AddStats(CLI::App* app, Command* command) {
  auto arguments = std::make_shared<StatsArguments>();
  CLI::App* sub = app->add_subcommand("stats", "Show what containers use");
  sub->add_flag("--no-stream", arguments->once, "Only once");
  sub->add_option("containers", arguments->names, "Their names or ids (default: all that run)");
  AddVmOption(sub, &arguments->vm);
  sub->callback(
      [=] { command->action = [=](Client* client) { return ShowStats(client, *arguments); }; });
}

}  // namespace

void AddContainerCommands(CLI::App* app, Command* command) {
  CLI::App* container = app->add_subcommand("container", "Run, show and remove containers");
  container->require_subcommand(1);
  container->fallthrough();
  AddContainerCreate(container, command);
  AddListOf(container, command);
  AddOnContainer(container, command, "inspect", "Show one container", "inspecting",
                 &ContainerAsync::GetContainer, &ContainerDetails);
  AddStartOf(container, command);
  AddAttachTo(container, command);
  AddStopOf(container, command);
  AddKillOf(container, command);
  AddOnContainer(container, command, "pause", "Let a container stand still", "pausing",
                 &ContainerAsync::PauseContainer, &ContainerLine);
  AddOnContainer(container, command, "resume", "Let a paused container go on", "resuming",
                 &ContainerAsync::ResumeContainer, &ContainerLine);
  AddUpdate(container, command);
  AddRemove(container, command);
  AddStats(container, command);
}

}  // namespace ferry::ctl
