#include "bridge/guest/container_host.h"

#include <signal.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/container/oci_spec.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr milliseconds kKillLimit{20'000};

std::string CgroupOf(const std::string& id) { return absl::StrCat(kContainersCgroup, "/", id); }

absl::Status WrongState(const std::string& id, ContainerState state, const char* what) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot ", what, " container ", id, ": it is ", ContainerStateName(state)));
}

// How hcsshim's hosts are told what became of a container.
const char* ExitType(const GuestProcess& init) {
  if (init.last_signal() == SIGTERM) return "GracefulExit";
  if (init.last_signal() == SIGKILL) return "ForcedExit";
  return "UnexpectedExit";
}

Task<absl::Status> AwaitEnd(std::shared_ptr<GuestProcess> process) {
  co_await process->exited().Wait();
  co_return absl::OkStatus();
}

}  // namespace

// Keeps two calls from changing one container at a time.
class ContainerHost::Claim {
 public:
  explicit Claim(std::shared_ptr<Container> container) : container_(std::move(container)) {
    container_->busy = true;
  }
  Claim(Claim&&) = default;
  Claim& operator=(Claim&&) = delete;
  ~Claim() {
    if (container_ != nullptr) container_->busy = false;
  }
  Container& operator*() const { return *container_; }
  Container* operator->() const { return container_.get(); }

 private:
  std::shared_ptr<Container> container_;
};

ContainerHost::ContainerHost(Executor executor, GuestTransport& transport, ContainerParts parts,
                             std::function<void(const ContainerNotification&)> on_exit)
    : executor_(executor),
      transport_(transport),
      parts_(std::move(parts)),
      on_exit_(std::move(on_exit)),
      cgroups_(parts_.cgroup_root),
      gate_(executor),
      scope_(executor) {}

ContainerHost::~ContainerHost() {
  for (const auto& [id, container] : containers_) {
    if (container->init != nullptr) container->init->Abandon();
  }
}

absl::StatusOr<std::shared_ptr<ContainerHost::Container>> ContainerHost::Find(
    const std::string& id) const {
  const auto it = containers_.find(id);
  if (it != containers_.end()) return it->second;
  return absl::NotFoundError(absl::StrCat("there is no container '", id, "'"));
}

absl::StatusOr<ContainerHost::Claim> ContainerHost::ClaimIn(const std::string& id,
                                                            ContainerState state,
                                                            const char* what) {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, Find(id));
  if (container->busy) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot ", what, " container ", id, " while another call changes it"));
  }
  if (container->state != state) return WrongState(id, container->state, what);
  return Claim(std::move(container));
}

bool ContainerHost::Owns(pid_t pid) const {
  if (gate_.closed()) return true;
  const auto is = [pid](const std::shared_ptr<GuestProcess>& process) {
    return process != nullptr && !process->collected() && process->kernel_pid() == pid;
  };
  return std::any_of(containers_.begin(), containers_.end(), [&is](const auto& entry) {
    const Container& container = *entry.second;
    return is(container.init) ||
           std::any_of(container.processes.begin(), container.processes.end(),
                       [&is](const auto& process) { return is(process.lock()); });
  });
}

absl::StatusOr<std::string> ContainerHost::Complete(const std::string& id,
                                                    const ContainerConfig& config,
                                                    bool* terminal) const {
  ASSIGN_OR_RETURN(const SpecFacts facts, ReadSpec(config.oci_specification));
  *terminal = facts.terminal;
  if (facts.sandbox_id.empty()) return CompleteSpec(config.oci_specification, id, std::nullopt);
  const absl::StatusOr<std::shared_ptr<Container>> sandbox = Find(facts.sandbox_id);
  if (!sandbox.ok() || (*sandbox)->init == nullptr || (*sandbox)->init->exit().has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the pod's sandbox container ", facts.sandbox_id, " does not run"));
  }
  return CompleteSpec(config.oci_specification, id, (*sandbox)->init->kernel_pid());
}

Task<absl::Status> ContainerHost::Create(std::string id, ContainerConfig config) {
  if (!IsContainerId(id)) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("'", id, "' is no container id: 64 hexadecimal digits"));
  }
  if (containers_.contains(id)) {
    co_return absl::AlreadyExistsError(absl::StrCat("container ", id, " exists already"));
  }
  // The id is taken from here on, whatever else comes meanwhile.
  auto container = std::make_shared<Container>();
  containers_[id] = container;
  const Claim claim(container);
  absl::Status status = co_await CreateIn(id, std::move(config), container);
  if (!status.ok()) containers_.erase(id);
  co_return status;
}

Task<absl::Status> ContainerHost::CreateIn(std::string id, ContainerConfig config,
                                           std::shared_ptr<Container> container) {
  const ChildGate::Pass pass = co_await gate_.Enter();
  // Inside the gate, so that the sandbox's pid is the sandbox's as long as it is used.
  CO_ASSIGN_OR_RETURN(const std::string text, Complete(id, config, &container->terminal));
  CO_RETURN_IF_ERROR(parts_.volumes->WriteBundle(config.oci_bundle_path, text));
  container->bundle = config.oci_bundle_path;
  ContainerStdio stdio;
  stdio.terminal = container->terminal;
  absl::StatusOr<SpawnedProcess> init =
      co_await parts_.runtime->Create(id, container->bundle, stdio);
  if (!init.ok()) {
    // Whatever there is of it must not keep its id.
    const absl::Status ignored = co_await parts_.runtime->Delete(id);
    const absl::Status ignored_too = parts_.volumes->RemoveBundle(container->bundle);
    co_return init.status();
  }
  container->init =
      GuestProcess::Adopt(executor_, *std::move(init), GuestProcess::Kind::kContainer);
  scope_.Spawn(WatchInit(id, container));
  co_return absl::OkStatus();
}

Task<void> ContainerHost::WatchInit(std::string id, std::shared_ptr<Container> container) {
  co_await container->init->exited().Wait();
  container->state = ContainerState::kStopped;
  ContainerNotification notification;
  notification.container_id = id;
  notification.type = ExitType(*container->init);
  on_exit_(notification);
}

Task<absl::Status> ContainerHost::StartInit(std::string id, ProcessParameters parameters,
                                            StdioRelaySettings stdio, Keep keep) {
  CO_ASSIGN_OR_RETURN(const Claim claim, ClaimIn(id, ContainerState::kCreated, "start"));
  if (parameters.emulate_console != claim->terminal) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("container ", id, " was created ", claim->terminal ? "with" : "without",
                     " a terminal, and is to be started ", claim->terminal ? "without" : "with"));
  }
  const std::shared_ptr<GuestProcess> init = claim->init;
  if (claim->terminal && (parameters.console_rows != 0 || parameters.console_columns != 0)) {
    CO_RETURN_IF_ERROR(init->Resize(parameters.console_rows, parameters.console_columns));
  }
  CO_ASSIGN_OR_RETURN(DialledStdio dialled, co_await DialStdio(transport_, stdio));
  const ChildGate::Pass pass = co_await gate_.Enter();
  CO_RETURN_IF_ERROR(co_await parts_.runtime->Start(id));
  init->ConnectStdio(transport_, stdio, std::move(dialled));
  if (claim->state == ContainerState::kCreated) claim->state = ContainerState::kRunning;
  claim->processes.push_back(init);
  keep(init);
  co_return absl::OkStatus();
}

Task<absl::Status> ContainerHost::Exec(std::string id, ProcessParameters parameters,
                                       StdioRelaySettings stdio, Keep keep) {
  // No claim: any number of execs may be under way.
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<Container> container, Find(id));
  CO_ASSIGN_OR_RETURN(const std::string process, CompleteProcess(parameters));
  CO_ASSIGN_OR_RETURN(DialledStdio dialled, co_await DialStdio(transport_, stdio));
  const ChildGate::Pass pass = co_await gate_.Enter();
  if (container->state != ContainerState::kRunning) {
    co_return WrongState(id, container->state, "run a process in");
  }
  ContainerStdio wanted;
  wanted.terminal = parameters.emulate_console;
  wanted.rows = parameters.console_rows;
  wanted.columns = parameters.console_columns;
  CO_ASSIGN_OR_RETURN(SpawnedProcess spawned, co_await parts_.runtime->Exec(id, process, wanted));
  const std::shared_ptr<GuestProcess> made =
      GuestProcess::Adopt(executor_, std::move(spawned), GuestProcess::Kind::kContainer);
  made->ConnectStdio(transport_, stdio, std::move(dialled));
  auto& known = container->processes;
  known.erase(std::remove_if(known.begin(), known.end(),
                             [](const auto& process) { return process.expired(); }),
              known.end());
  known.push_back(made);
  keep(made);
  co_return absl::OkStatus();
}

absl::Status ContainerHost::Shutdown(const std::string& id, bool force) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Container> container, Find(id));
  if (container->init == nullptr || container->state == ContainerState::kStopped) {
    return absl::FailedPreconditionError(absl::StrCat("container ", id, " has stopped already"));
  }
  return container->init->Signal(force ? SIGKILL : SIGTERM);
}

Task<absl::Status> ContainerHost::Pause(std::string id) {
  CO_ASSIGN_OR_RETURN(const Claim claim, ClaimIn(id, ContainerState::kRunning, "pause"));
  const ChildGate::Pass pass = co_await gate_.Enter();
  CO_RETURN_IF_ERROR(co_await parts_.runtime->Pause(id));
  if (claim->state == ContainerState::kRunning) claim->state = ContainerState::kPaused;
  co_return absl::OkStatus();
}

Task<absl::Status> ContainerHost::Resume(std::string id) {
  CO_ASSIGN_OR_RETURN(const Claim claim, ClaimIn(id, ContainerState::kPaused, "resume"));
  const ChildGate::Pass pass = co_await gate_.Enter();
  CO_RETURN_IF_ERROR(co_await parts_.runtime->Resume(id));
  if (claim->state == ContainerState::kPaused) claim->state = ContainerState::kRunning;
  co_return absl::OkStatus();
}

absl::StatusOr<ContainerProperties> ContainerHost::Properties(const std::string& id,
                                                              const PropertyQuery& query) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Container> container, Find(id));
  ContainerProperties properties;
  if (query.Asks("State")) properties.state = container->state;
  if (query.Asks("ProcessList")) {
    properties.process_list.emplace();
    for (const std::weak_ptr<GuestProcess>& weak : container->processes) {
      const std::shared_ptr<GuestProcess> process = weak.lock();
      if (process == nullptr || process->acknowledged()) continue;
      properties.process_list->push_back({process->id(), process->exit().has_value()});
    }
  }
  if (query.Asks("Statistics")) {
    const absl::StatusOr<ContainerMetrics> metrics = cgroups_.Read(CgroupOf(id));
    // While it is being created there is none yet.
    if (metrics.ok()) properties.metrics = *metrics;
  }
  return properties;
}

Task<absl::Status> ContainerHost::Delete(std::string id) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<Container> container, Find(id));
  if (container->busy) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("cannot delete container ", id, " while another call changes it"));
  }
  if (container->state == ContainerState::kRunning || container->state == ContainerState::kPaused) {
    co_return WrongState(id, container->state, "delete");
  }
  const Claim claim(container);
  if (!container->init->exit().has_value()) {
    const absl::Status ignored = container->init->Signal(SIGKILL);
    Task<absl::Status> end = AwaitEnd(container->init);
    CO_RETURN_IF_ERROR(co_await WithDeadline(kKillLimit, "the container's init", std::move(end)));
  }
  const ChildGate::Pass pass = co_await gate_.Enter();
  CO_RETURN_IF_ERROR(co_await parts_.runtime->Delete(id));
  CO_RETURN_IF_ERROR(parts_.volumes->RemoveBundle(container->bundle));
  containers_.erase(id);
  co_return absl::OkStatus();
}

Task<void> ContainerHost::PrepareShutdown() {
  const std::map<std::string, std::shared_ptr<Container>> all = containers_;
  for (const auto& [id, container] : all) {
    if (container->state == ContainerState::kPaused) {
      const absl::Status ignored = co_await Resume(id);
    } else if (container->state == ContainerState::kCreated && container->init != nullptr) {
      const absl::Status ignored = container->init->Signal(SIGKILL);
    }
  }
}

}  // namespace ferry::bridge
