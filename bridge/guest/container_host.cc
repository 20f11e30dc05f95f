#include "bridge/guest/container_host.h"

#include <signal.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/container/name_files.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

// A guest's clock can run many times faster than the host's while everything in it waits.
constexpr milliseconds kKillLimit{300'000};

// For others' calls of the runtime, each of which has a deadline of its own.
constexpr milliseconds kTurnLimit{300'000};

absl::Status WrongState(const std::string& id, ContainerState state, const char* what) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot ", what, " container ", id, ": it is ", ContainerStateName(state)));
}

// How hcsshim's hosts are told what became of a container.
const char* ExitType(const GuestProcess& init) {
  if (init.ending_signal() == SIGTERM) return "GracefulExit";
  if (init.ending_signal() == SIGKILL) return "ForcedExit";
  return "UnexpectedExit";
}

// Whether one of the folders is the other, or lies in it.
bool Overlap(const std::string& one, const std::string& other) {
  return absl::StartsWith(one + "/", other + "/") || absl::StartsWith(other + "/", one + "/");
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
  Container* operator->() const { return container_.get(); }
  const std::shared_ptr<Container>& get() const { return container_; }

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
      gate_(executor, parts_.collect_orphans),
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

Task<absl::StatusOr<AsyncMutex::Guard>> ContainerHost::TakeTurn(
    std::shared_ptr<Container> container) {
  auto lock = [](std::shared_ptr<Container> inner) -> Task<absl::StatusOr<AsyncMutex::Guard>> {
    co_return co_await inner->turn.Lock();
  };
  Task<absl::StatusOr<AsyncMutex::Guard>> wait = lock(std::move(container));
  co_return co_await WithDeadline(kTurnLimit, "another call about the container", std::move(wait));
}

absl::Status ContainerHost::CheckBundle(const std::string& bundle) const {
  if (!absl::StartsWith(bundle, parts_.bundle_root + "/")) {
    return absl::InvalidArgumentError(
        absl::StrCat("the bundle ", bundle, " does not lie below ", parts_.bundle_root));
  }
  for (const auto& [id, container] : containers_) {
    if (!Overlap(bundle, container->bundle)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the bundle ", bundle, " is not apart from container ", id, "'s"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ContainerHost::Container>> ContainerHost::FindSandbox(
    const std::string& sandbox_id) const {
  const absl::StatusOr<std::shared_ptr<Container>> sandbox = Find(sandbox_id);
  if (!sandbox.ok() || (*sandbox)->init == nullptr || (*sandbox)->init->exit().has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the pod's sandbox container ", sandbox_id, " does not run"));
  }
  return *sandbox;
}

absl::StatusOr<std::optional<SandboxNamespaces>> ContainerHost::OpenSandbox(
    const std::string& sandbox_id) const {
  if (sandbox_id.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::shared_ptr<Container> sandbox, FindSandbox(sandbox_id));
  return SandboxNamespaces::Open(sandbox->init->kernel_pid());
}

// Whoever shares a host name shares the files that say it.
absl::StatusOr<std::string> ContainerHost::NamesFolder(const Container& container,
                                                       const std::string& sandbox_id) const {
  if (sandbox_id.empty()) return container.bundle;
  ASSIGN_OR_RETURN(const std::shared_ptr<Container> sandbox, FindSandbox(sandbox_id));
  return sandbox->bundle;
}

Task<absl::Status> ContainerHost::Create(std::string id, ContainerConfig config,
                                         std::string activity_id) {
  if (!IsContainerId(id)) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("'", id, "' is no container id: 64 hexadecimal digits"));
  }
  if (containers_.contains(id)) {
    co_return absl::AlreadyExistsError(absl::StrCat("container ", id, " exists already"));
  }
  CO_RETURN_IF_ERROR(CheckBundle(config.oci_bundle_path));
  // The id and the bundle are taken from here on, whatever else comes meanwhile.
  auto container = std::make_shared<Container>(executor_);
  container->bundle = config.oci_bundle_path;
  container->activity_id = std::move(activity_id);
  containers_[id] = container;
  const Claim claim(container);
  absl::Status status = co_await CreateIn(id, std::move(config), container);
  if (!status.ok()) containers_.erase(id);
  co_return status;
}

Task<absl::Status> ContainerHost::CreateIn(std::string id, ContainerConfig config,
                                           std::shared_ptr<Container> container) {
  CO_ASSIGN_OR_RETURN(const SpecFacts facts, ReadSpec(config.oci_specification));
  container->terminal = facts.terminal;
  std::string specification = config.oci_specification;
  ContainerRoot root;
  root.path = absl::StartsWith(facts.root, "/") ? facts.root
                                                : absl::StrCat(container->bundle, "/", facts.root);
  if (!facts.user_name.empty()) {
    CO_ASSIGN_OR_RETURN(const ResolvedUser user, co_await FindUser(root, facts.user_name));
    CO_ASSIGN_OR_RETURN(specification, SetSpecUser(specification, user));
  }
  CO_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                      co_await parts_.volumes->FindNameFiles(root, !facts.read_only));
  CO_ASSIGN_OR_RETURN(const std::string folder, NamesFolder(*container, facts.sandbox_id));
  CO_ASSIGN_OR_RETURN(specification,
                      MountNameFiles(specification, folder, names, !facts.read_only));
  absl::Status status = co_await CreateInit(id, specification, facts, container);
  if (status.ok()) {
    scope_.Spawn(WatchInit(id, container));
    co_return status;
  }
  // Whatever there is of it must not keep its id.
  const absl::Status ignored = co_await parts_.runtime->Delete(id);
  parts_.volumes->DiscardBundle(container->bundle);
  co_return status;
}

Task<absl::StatusOr<ResolvedUser>> ContainerHost::FindUser(ContainerRoot root, std::string name) {
  CO_ASSIGN_OR_RETURN(const UserFiles files, co_await parts_.volumes->ReadUserFiles(root));
  co_return ResolveUser(name, files);
}

Task<absl::Status> ContainerHost::CreateInit(std::string id, std::string specification,
                                             SpecFacts facts,
                                             std::shared_ptr<Container> container) {
  CO_ASSIGN_OR_RETURN(const ChildGate::Pass pass, co_await gate_.Enter(kTurnLimit));
  CO_ASSIGN_OR_RETURN(const std::optional<SandboxNamespaces> sandbox,
                      OpenSandbox(facts.sandbox_id));
  const NamespacePaths paths = sandbox.has_value() ? sandbox->paths() : NamespacePaths();
  CO_ASSIGN_OR_RETURN(const std::string text,
                      CompleteSpec(specification, id, sandbox.has_value() ? &paths : nullptr));
  // With a loopback only nobody can be asked for a name. A sandbox's files are the sandbox's
  // affair.
  const bool asks = !facts.own_network && facts.sandbox_id.empty();
  const std::string resolver = asks ? resolver_ : "";
  Volumes::BundleFiles files = NameFileTexts(facts.hostname, resolver);
  files["config.json"] = text;
  CO_RETURN_IF_ERROR(parts_.volumes->WriteBundle(container->bundle, files));
  if (asks) container->resolver = resolver;
  ContainerStdio stdio;
  stdio.terminal = container->terminal;
  CO_ASSIGN_OR_RETURN(SpawnedProcess init,
                      co_await parts_.runtime->Create(id, container->bundle, stdio));
  container->init = GuestProcess::Adopt(executor_, std::move(init), GuestProcess::Kind::kContainer);
  co_return absl::OkStatus();
}

Task<void> ContainerHost::WatchInit(std::string id, std::shared_ptr<Container> container) {
  const Executor executor = executor_;
  co_await container->init->exited().Wait();
  container->state = ContainerState::kStopped;
  // Whoever waits for the init already is told first, as hcsshim's hosts expect it.
  co_await asio::post(executor, asio::use_awaitable);
  ContainerNotification notification;
  notification.container_id = id;
  notification.activity_id = container->activity_id;
  notification.type = ExitType(*container->init);
  on_exit_(notification);
}

const ContainerHost::Start* ContainerHost::FindStart(const std::string& id,
                                                     const StartCall& call) const {
  const auto it = containers_.find(id);
  if (it == containers_.end() || !it->second->start.has_value()) return nullptr;
  const Start& start = *it->second->start;
  return start.call == call ? &start : nullptr;
}

Task<absl::Status> ContainerHost::StartInit(std::string id, StartCall call,
                                            ProcessParameters parameters, Keep keep) {
  CO_ASSIGN_OR_RETURN(const Claim claim, ClaimIn(id, ContainerState::kCreated, "start"));
  claim->start.emplace().call = call;
  absl::Status status = co_await RunInit(id, claim.get(), std::move(parameters), std::move(keep));
  claim->start->done = true;
  claim->start->status = status;
  co_return status;
}

Task<absl::Status> ContainerHost::RunInit(std::string id, std::shared_ptr<Container> container,
                                          ProcessParameters parameters, Keep keep) {
  const StdioRelaySettings stdio = container->start->call.stdio;
  // Whether it has a terminal was said by the specification.
  const std::shared_ptr<GuestProcess> init = container->init;
  if (container->terminal && (parameters.console_rows != 0 || parameters.console_columns != 0)) {
    CO_RETURN_IF_ERROR(init->Resize(parameters.console_rows, parameters.console_columns));
  }
  CO_ASSIGN_OR_RETURN(DialledStdio dialled, co_await DialStdio(transport_, stdio));
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await TakeTurn(container));
  CO_RETURN_IF_ERROR(co_await parts_.runtime->Start(id));
  init->ConnectStdio(transport_, stdio, std::move(dialled));
  if (container->state == ContainerState::kCreated) container->state = ContainerState::kRunning;
  container->processes.push_back(init);
  keep(init);
  container->start->process_id = init->id();
  co_return absl::OkStatus();
}

Task<absl::Status> ContainerHost::Exec(std::string id, ProcessParameters parameters,
                                       StdioRelaySettings stdio, Keep keep) {
  // No claim: any number of execs may be under way.
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<Container> container, Find(id));
  CO_ASSIGN_OR_RETURN(ExecProcess process, CompleteProcess(parameters));
  if (!process.user_name.empty()) {
    if (container->state != ContainerState::kRunning) {
      co_return WrongState(id, container->state, "run a process in");
    }
    // Its number may be another process's by now, with another root.
    if (container->init->collected()) {
      co_return WrongState(id, ContainerState::kStopped, "run a process in");
    }
    CO_ASSIGN_OR_RETURN(ContainerRoot root, RootOfProcess(container->init->kernel_pid()));
    CO_ASSIGN_OR_RETURN(const ResolvedUser user,
                        co_await FindUser(std::move(root), process.user_name));
    CO_ASSIGN_OR_RETURN(process.json, SetProcessUser(process.json, user));
  }
  CO_ASSIGN_OR_RETURN(DialledStdio dialled, co_await DialStdio(transport_, stdio));
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await TakeTurn(container));
  CO_ASSIGN_OR_RETURN(const ChildGate::Pass pass, co_await gate_.Enter(kTurnLimit));
  if (container->state != ContainerState::kRunning) {
    co_return WrongState(id, container->state, "run a process in");
  }
  ContainerStdio wanted;
  wanted.terminal = process.terminal;
  wanted.rows = parameters.console_rows;
  wanted.columns = parameters.console_columns;
  CO_ASSIGN_OR_RETURN(SpawnedProcess spawned,
                      co_await parts_.runtime->Exec(id, process.json, wanted));
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
  const absl::Status stopped =
      absl::FailedPreconditionError(absl::StrCat("container ", id, " has stopped already"));
  if (container->init == nullptr || container->state == ContainerState::kStopped) return stopped;
  const absl::Status status = container->init->Signal(force ? SIGKILL : SIGTERM);
  // It has exited, and nobody has been told yet.
  return absl::IsNotFound(status) ? stopped : status;
}

Task<absl::Status> ContainerHost::Pause(std::string id) {
  CO_ASSIGN_OR_RETURN(const Claim claim, ClaimIn(id, ContainerState::kRunning, "pause"));
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await TakeTurn(claim.get()));
  const absl::Status paused = co_await parts_.runtime->Pause(id);
  // A part of it may stand still: it goes on, or is paused as far as anybody can tell.
  if (!paused.ok() && (co_await parts_.runtime->Resume(id)).ok()) co_return paused;
  if (claim->state == ContainerState::kRunning) claim->state = ContainerState::kPaused;
  co_return paused;
}

Task<absl::Status> ContainerHost::Resume(std::string id) {
  CO_ASSIGN_OR_RETURN(const Claim claim, ClaimIn(id, ContainerState::kPaused, "resume"));
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await TakeTurn(claim.get()));
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
    const absl::StatusOr<ContainerMetrics> metrics = cgroups_.Read(ContainerCgroup(id));
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
    Task<void> end = container->init->exited().Wait();
    CO_RETURN_IF_ERROR(co_await WithDeadline(kKillLimit, "the container's init", std::move(end)));
  }
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await TakeTurn(container));
  CO_RETURN_IF_ERROR(co_await parts_.runtime->Delete(id));
  CO_RETURN_IF_ERROR(co_await parts_.volumes->RemoveBundle(container->bundle));
  containers_.erase(id);
  co_return absl::OkStatus();
}

void ContainerHost::SetResolver(const std::string& text) {
  resolver_ = text;
  for (const auto& [id, container] : containers_) {
    std::optional<std::string>& known = container->resolver;
    if (!known.has_value()) continue;
    // One that its container has changed is left alone, and so is one that is being removed.
    const absl::Status told =
        parts_.volumes->RewriteBundleFile(container->bundle, kResolverFile, *known, text);
    if (told.ok()) known = text;
  }
}

Task<void> ContainerHost::PrepareShutdown(bool force) {
  const std::map<std::string, std::shared_ptr<Container>> all = containers_;
  for (const auto& [id, container] : all) {
    if (container->state != ContainerState::kCreated || container->init == nullptr) continue;
    const absl::Status ignored = container->init->Signal(SIGKILL);
  }
  if (force) co_return;
  for (const auto& [id, container] : all) {
    if (container->state != ContainerState::kPaused) continue;
    const absl::Status ignored = co_await Resume(id);
  }
}

Task<void> ContainerHost::Close() { return scope_.CancelAndJoin(); }

}  // namespace ferry::bridge
