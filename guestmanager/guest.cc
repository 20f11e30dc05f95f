#include "guestmanager/guest.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bridge/protocol/messages.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "guestmanager/container.h"
#include "guestmanager/container_starts.h"
#include "guestmanager/create_requests.h"
#include "guestmanager/execute_request.h"
#include "guestmanager/guest_connection.h"
#include "guestmanager/guest_containers.h"
#include "guestmanager/guest_filesystems.h"
#include "guestmanager/guest_network.h"
#include "guestmanager/hosted_process.h"
#include "guestmanager/link_gate.h"
#include "guestmanager/port_allocator.h"
#include "guestmanager/stray_processes.h"

namespace ferry::guest {
namespace {

// What the files hold is newer than a record that a daemon wrote before it was killed.
void RecoverSpools(const SpoolSettings& settings, ProcessState* process) {
  if (settings.folder.empty() || !process->spec.detached) return;
  for (auto [port, stream] : {std::pair(process->stdout_port, &process->std_out),
                              std::pair(process->stderr_port, &process->std_err)}) {
    if (port == 0) continue;
    absl::StatusOr<SpoolFile::Content> content = SpoolFile::Read(settings.PathOf(port));
    if (!content.ok()) {
      // A process that a migration brings has none yet.
      if (!absl::IsNotFound(content.status())) spdlog::error("{}", content.status().ToString());
      continue;
    }
    const uint64_t end = content->start + content->bytes.size();
    if (end < stream->taken.offset) continue;
    stream->taken.offset = end;
    stream->ended = stream->ended || content->ended;
    stream->spool_start = content->start;
    stream->spool = std::move(content->bytes);
  }
}

// Closes a process that did not come to life, also when its creation is cancelled. What a
// container's init has printed stays if that is because the guest is `closed`: then somebody else
// may take it over.
struct Undo {
  std::shared_ptr<HostedProcess> process;
  const bool& closed;
  const bool is_init;
  ~Undo() {
    if (!process) return;
    if (!closed || !is_init) process->Forget();
    process->Close(absl::CancelledError("the process was not started"));
  }
};

}  // namespace

struct Guest::Impl {
  Impl(Executor executor, bridge::HostTransport& transport, GuestOptions o)
      : options(o),
        gate(std::make_shared<LinkGate>(executor, transport)),
        connection(std::make_shared<GuestConnection>(gate, o.rpc_timeout)),
        container_host(connection),
        filesystems(connection),
        log(o.log ? std::make_shared<GuestLog>(gate, o.log, o.log_allowance) : nullptr),
        requests(executor),
        strays(connection, {.knows = [this](uint32_t pid) { return processes.count(pid) != 0; },
                            .acknowledge_exit = [this](uint32_t pid) { AcknowledgeExit(pid); }}),
        starts(connection, strays, [this] { Changed(); }) {}

  HostedProcess::Events ProcessEvents() {
    return {.changed = [this] { ProcessChanged(); },
            .exit_taken = [this](uint32_t pid) { Forget(pid); }};
  }

  // A process whose ports are listened on, not yet known to the guest.
  absl::StatusOr<std::shared_ptr<HostedProcess>> Prepare(ProcessSpec spec, std::string request_id);
  // The process of an earlier call with this id, once that has settled; nullptr if there was none.
  Task<absl::StatusOr<std::shared_ptr<Process>>> MadeBefore(std::string request_id);
  // Takes the agent's answer to ExecuteProcess.
  absl::Status Admit(const std::shared_ptr<HostedProcess>& process, const std::string& answer);
  // Has the agent execute it, or start a container whose init it then is.
  Task<absl::StatusOr<std::shared_ptr<Process>>> Execute(ProcessSpec spec, std::string request_id,
                                                         std::string oci_process);

  void Changed() {
    if (on_change) on_change();
  }

  void ProcessChanged() {
    Changed();
    DropEnded();
  }
  // Forgets the processes that ended the longest ago and that nobody came for.
  void DropEnded();
  // Divides what the spools may take together.
  void ShareSpools();
  // What another host, or a former daemon, had.
  struct Revived {
    std::map<uint32_t, std::shared_ptr<HostedProcess>> running;  // by pid
    std::map<int64_t, std::shared_ptr<HostedProcess>> starting;  // by the start's call
  };
  absl::StatusOr<std::shared_ptr<HostedProcess>> Revive(ProcessState state);
  absl::Status ReviveAll(const GuestState& state, Revived* revived);

  void OnReady() {
    // Acknowledgements that a lost link swallowed; repeating one is harmless.
    std::set<uint32_t> late = std::move(unacknowledged);
    unacknowledged.clear();
    for (uint32_t pid : late) AcknowledgeExit(pid);
    for (auto& [pid, process] : processes) process->Renew();
    starts.OnReady();
    strays.OnReady();
  }

  void AcknowledgeExit(uint32_t pid) {
    if (connection->ready() &&
        !connection->core().capabilities().guest_defined.acknowledge_exit_supported) {
      return;
    }
    bridge::AcknowledgeExitRequest request;
    request.process_id = pid;
    if (!connection->Post(bridge::kAcknowledgeExit, Encode(request))) unacknowledged.insert(pid);
  }

  void Forget(uint32_t pid) {
    auto found = processes.find(pid);
    if (found == processes.end() || !found->second->exit_status()) return;
    std::shared_ptr<HostedProcess> process = found->second;
    processes.erase(found);
    process->Forget();
    ShareSpools();
    AcknowledgeExit(pid);
    // Its attachments may be in the middle of a call into it: ended later, by their owner or here.
    asio::post(gate->executor, [process] {
      process->Close(absl::NotFoundError("the process has exited and was forgotten"));
    });
    Changed();
  }

  void OnNotification(const bridge::ContainerNotification& notification) {
    std::string id = notification.container_id;
    if (id == bridge::kNullGuid) id.clear();
    // One that nobody opened is no error: it may have ended before it was restored here.
    auto found = containers.find(id);
    if (found != containers.end()) found->second->Exited(notification);
  }

  GuestOptions options;
  std::shared_ptr<LinkGate> gate;
  std::shared_ptr<GuestConnection> connection;
  GuestContainers container_host;
  GuestFilesystems filesystems;
  std::shared_ptr<GuestLog> log;  // nullptr: nobody asked for it
  PortAllocator ports;
  std::map<uint32_t, std::shared_ptr<HostedProcess>> processes;
  std::map<std::string, std::shared_ptr<Container>> containers;
  CreateRequests requests;
  std::vector<uint32_t> ended;  // in the order in which that became known
  std::set<uint32_t> unacknowledged;
  StrayProcesses strays;
  ContainerStarts starts;
  std::function<void()> on_change;
  uint64_t started_unix_ms = NowUnixMs();
  bool closed = false;
};

void Guest::Impl::DropEnded() {
  std::erase_if(ended, [this](uint32_t pid) { return processes.count(pid) == 0; });
  for (const auto& [pid, process] : processes) {
    const bool known = std::find(ended.begin(), ended.end(), pid) != ended.end();
    if (process->exit_status() && !known) ended.push_back(pid);
  }
  std::vector<uint32_t> alone;
  for (uint32_t pid : ended) {
    if (!processes[pid]->attached()) alone.push_back(pid);
  }
  if (alone.size() <= options.ended_kept) return;
  alone.resize(alone.size() - options.ended_kept);
  for (uint32_t pid : alone) Forget(pid);
}

void Guest::Impl::ShareSpools() {
  size_t streams = 0;
  for (const auto& [pid, process] : processes) streams += process->spooled_streams();
  if (streams == 0) return;
  const size_t each = std::min(options.spool.capacity, options.spool.total / streams);
  for (const auto& [pid, process] : processes) process->SetSpoolCapacity(each);
}

Task<absl::StatusOr<std::shared_ptr<Process>>> Guest::Impl::MadeBefore(std::string request_id) {
  while (std::shared_ptr<CreateRequests::Entry> earlier = requests.Find(request_id)) {
    co_await earlier->settled.Wait();
    if (earlier->pid == 0) continue;
    auto found = processes.find(earlier->pid);
    if (found == processes.end() || found->second->request_id() != request_id) {
      co_return absl::FailedPreconditionError(
          absl::StrCat("this request made process ", earlier->pid,
                       ", which has exited and was forgotten; use another request_id"));
    }
    std::shared_ptr<Process> process = found->second;
    co_return process;
  }
  co_return std::shared_ptr<Process>();
}

absl::StatusOr<std::shared_ptr<HostedProcess>> Guest::Impl::Prepare(ProcessSpec spec,
                                                                    std::string request_id) {
  if (spec.command.empty()) return absl::InvalidArgumentError("no command was given");
  if (!connection->ready()) {
    return absl::UnavailableError("the guest's agent is not connected; try again when it is");
  }
  if (processes.size() >= options.max_processes) {
    return absl::ResourceExhaustedError(absl::StrCat("the VM has ", processes.size(),
                                                     " processes, the most that can be carried to ",
                                                     "another host; end some first"));
  }
  ProcessState state;
  state.container_id = spec.container_id;
  state.created_unix_ms = NowUnixMs();
  state.request_id = std::move(request_id);
  std::vector<uint32_t*> wanted{&state.stdout_port};
  if (spec.has_stdin) wanted.insert(wanted.begin(), &state.stdin_port);
  if (!spec.terminal) wanted.push_back(&state.stderr_port);
  for (uint32_t* port : wanted) {
    absl::StatusOr<uint32_t> allocated = ports.Allocate();
    if (!allocated.ok()) return allocated.status();
    *port = *allocated;
  }
  Changed();
  state.spec = std::move(spec);
  auto process = std::make_shared<HostedProcess>(gate, connection, std::move(state), options.spool,
                                                 ProcessEvents());
  absl::Status status = process->Listen();
  if (status.ok()) return process;
  process->Close(status);
  return status;
}

absl::Status Guest::Impl::Admit(const std::shared_ptr<HostedProcess>& process,
                                const std::string& answer) {
  absl::StatusOr<bridge::ExecuteProcessResponse> response =
      bridge::Decode<bridge::ExecuteProcessResponse>(answer);
  if (!response.ok()) return response.status();
  if (response->result != 0) {
    Changed();
    const std::string what = absl::StrCat("start ", process->spec().command.front());
    if (!process->spec().container_id.empty()) return FromAgent(*response, what);
    return absl::FailedPreconditionError(FromAgent(*response, what).message());
  }
  if (closed) return absl::UnavailableError("the guest is gone");
  const uint32_t pid = response->process_id;
  if (pid == 0 || processes.count(pid) != 0) {
    return absl::InternalError(
        absl::StrCat("the agent answered with the process id ", pid, ", which is not new"));
  }
  processes[pid] = process;
  ShareSpools();
  process->Started(pid);
  Changed();
  return absl::OkStatus();
}

Guest::Guest(Executor executor, bridge::HostTransport& transport, GuestOptions options)
    : impl_(std::make_unique<Impl>(std::move(executor), transport, options)) {
  impl_->containers[""] = std::make_shared<Container>(impl_->gate->executor, "");
  Impl* impl = impl_.get();
  impl->connection->set_on_ready([impl] { impl->OnReady(); });
  impl->connection->core().set_on_notification(
      [impl](const bridge::ContainerNotification& n) { impl->OnNotification(n); });
}

std::shared_ptr<Guest> Guest::Create(Executor executor, bridge::HostTransport& transport,
                                     GuestOptions options) {
  return std::shared_ptr<Guest>(new Guest(std::move(executor), transport, options));
}

Guest::~Guest() { Close(absl::UnavailableError("the guest is gone")); }

absl::Status Guest::Listen() {
  absl::Status status = impl_->connection->Listen();
  if (!status.ok() || !impl_->log) return status;
  // With vsock the port is one that only the privileged may listen on.
  if (const absl::Status log = impl_->log->Listen(); !log.ok()) {
    spdlog::warn("a guest's log is not taken: {}", std::string(log.message()));
  }
  return absl::OkStatus();
}

Task<absl::Status> Guest::WaitReady() {
  std::shared_ptr<GuestConnection> connection = impl_->connection;
  co_return co_await connection->WaitReady();
}

bool Guest::ready() const { return impl_->connection->ready(); }

uint64_t Guest::started_unix_ms() const { return impl_->started_unix_ms; }

uint32_t Guest::timeline() const { return impl_->gate->timeline; }

Task<absl::StatusOr<std::shared_ptr<Process>>> Guest::Impl::Execute(ProcessSpec spec,
                                                                    std::string request_id,
                                                                    std::string oci_process) {
  absl::StatusOr<std::shared_ptr<Process>> earlier = co_await MadeBefore(request_id);
  if (!earlier.ok() || *earlier != nullptr) co_return earlier;
  CreateRequests::Making making(requests, request_id);
  const bool is_init = !spec.container_id.empty() && oci_process.empty();
  absl::StatusOr<std::shared_ptr<HostedProcess>> process =
      Prepare(std::move(spec), std::move(request_id));
  if (!process.ok()) co_return process.status();
  Undo undo{*process, closed, is_init};
  StrayProcesses::Execution execution(strays);
  absl::StatusOr<std::string> answer;
  if (!is_init) {
    std::string request = EncodeExecuteRequest((*process)->migration_state(), gate->resumable_stdio,
                                               std::move(oci_process));
    answer =
        co_await connection->Call(bridge::kExecuteProcess, std::move(request), options.rpc_timeout);
  } else {
    answer = co_await starts.Call(*process);
  }
  if (!answer.ok()) {
    Changed();  // it is not being started any more
    co_return answer.status();
  }
  execution.Answered();
  absl::Status status = Admit(*process, *answer);
  if (!status.ok()) co_return status;
  undo.process = nullptr;
  making.Made((*process)->pid());
  std::shared_ptr<Process> created = *process;
  co_return created;
}

Task<absl::StatusOr<std::shared_ptr<Process>>> Guest::CreateProcess(ProcessSpec spec,
                                                                    std::string request_id,
                                                                    std::string oci_process) {
  std::shared_ptr<Guest> self = shared_from_this();
  // Without an OCI process the agent would take it for the init.
  if (spec.container_id.empty() != oci_process.empty()) {
    co_return absl::InvalidArgumentError("an OCI process is for a process in a container");
  }
  if (!spec.container_id.empty()) CO_RETURN_IF_ERROR(impl_->container_host.CheckSupported());
  co_return co_await impl_->Execute(std::move(spec), std::move(request_id), std::move(oci_process));
}

Task<absl::StatusOr<std::shared_ptr<Process>>> Guest::MadeBefore(std::string request_id) {
  std::shared_ptr<Guest> self = shared_from_this();
  co_return co_await impl_->MadeBefore(std::move(request_id));
}

Task<absl::StatusOr<std::shared_ptr<Process>>> Guest::StartContainer(ProcessSpec spec,
                                                                     std::string request_id) {
  std::shared_ptr<Guest> self = shared_from_this();
  if (spec.container_id.empty()) {
    co_return absl::InvalidArgumentError("which container is to be started was not said");
  }
  CO_RETURN_IF_ERROR(impl_->container_host.CheckSupported());
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Process> init, co_await AwaitStart(spec.container_id));
  if (init != nullptr) co_return init;
  co_return co_await impl_->Execute(std::move(spec), std::move(request_id), "");
}

Task<absl::StatusOr<std::shared_ptr<Process>>> Guest::AwaitStart(std::string container_id) {
  std::shared_ptr<Guest> self = shared_from_this();
  const ContainerStarts::Answered start = co_await impl_->starts.Take(std::move(container_id));
  if (start.init == nullptr) co_return std::shared_ptr<Process>();
  Undo undo{start.init, impl_->closed, /*is_init=*/true};
  if (!start.answer.ok()) {
    impl_->Changed();
    co_return start.answer.status();
  }
  CO_RETURN_IF_ERROR(impl_->Admit(start.init, *start.answer));
  undo.process = nullptr;
  co_return std::shared_ptr<Process>(start.init);
}

bool Guest::StartIsAwaited(const std::string& container_id) const {
  return impl_->starts.Awaited(container_id);
}

GuestContainers& Guest::container_host() { return impl_->container_host; }

GuestFilesystems& Guest::filesystems() { return impl_->filesystems; }

std::shared_ptr<Process> Guest::Find(uint32_t pid) const {
  auto found = impl_->processes.find(pid);
  return found == impl_->processes.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Process>> Guest::processes() const {
  std::vector<std::shared_ptr<Process>> all;
  for (const auto& [pid, process] : impl_->processes) all.push_back(process);
  return all;
}

void Guest::Forget(uint32_t pid) { impl_->Forget(pid); }

std::shared_ptr<Container> Guest::OpenContainer(const std::string& id) {
  const std::string key = id == bridge::kNullGuid ? "" : id;
  std::shared_ptr<Container>& container = impl_->containers[key];
  if (!container) container = std::make_shared<Container>(impl_->gate->executor, key);
  return container;
}

Task<absl::Status> Guest::AddAdapters(std::vector<bridge::NetworkAdapter> adapters) {
  std::shared_ptr<Guest> self = shared_from_this();
  co_return co_await AddGuestAdapters(impl_->connection, std::move(adapters),
                                      impl_->options.rpc_timeout);
}

Task<absl::StatusOr<std::vector<bridge::NetworkLease>>> Guest::Leases() {
  std::shared_ptr<Guest> self = shared_from_this();
  co_return co_await AskForLeases(impl_->connection, impl_->options.rpc_timeout);
}

Task<absl::Status> Guest::Shutdown(bool force) {
  std::shared_ptr<Guest> self = shared_from_this();
  const uint32_t type = force ? bridge::kShutdownForced : bridge::kShutdownGraceful;
  std::string request = Encode(bridge::SimpleRequest{});
  absl::StatusOr<std::string> answer =
      co_await impl_->connection->Call(type, std::move(request), impl_->options.shutdown_timeout);
  if (!answer.ok()) co_return answer.status();
  absl::StatusOr<bridge::SimpleResponse> response = bridge::Decode<bridge::SimpleResponse>(*answer);
  if (!response.ok()) co_return response.status();
  if (response->result == 0) co_return absl::OkStatus();
  co_return absl::UnknownError(absl::StrFormat("the agent refused to shut down (0x%08x): %s",
                                               bridge::HResult(response->result),
                                               response->error_message));
}

Task<absl::StatusOr<std::string>> Guest::GetProperties(std::string query_json) {
  std::shared_ptr<Guest> self = shared_from_this();
  bridge::GetPropertiesRequest request;
  request.query = std::move(query_json);
  absl::StatusOr<std::string> answer = co_await impl_->connection->Call(
      bridge::kGetProperties, Encode(request), impl_->options.rpc_timeout);
  if (!answer.ok()) co_return answer.status();
  absl::StatusOr<bridge::GetPropertiesResponse> response =
      bridge::Decode<bridge::GetPropertiesResponse>(*answer);
  if (!response.ok()) co_return response.status();
  if (response->result == 0) co_return std::move(response->properties);
  co_return absl::UnknownError(absl::StrFormat("the agent refused the query (0x%08x): %s",
                                               bridge::HResult(response->result),
                                               response->error_message));
}

void Guest::Freeze() {
  impl_->gate->open.Reset();
  impl_->gate->transport.PauseReading();
}

void Guest::Unfreeze() {
  impl_->gate->transport.ResumeReading();
  impl_->gate->open.Set();
  impl_->connection->StoodStill();
}

void Guest::StandsStill() { impl_->connection->StandsStill(); }

void Guest::RunsAgain() { impl_->connection->RunsAgain(); }

absl::StatusOr<GuestState> Guest::Save() const {
  GuestState state;
  state.next_port = impl_->ports.NextPort();
  state.next_message_id = impl_->connection->core().next_id();
  state.started_unix_ms = impl_->started_unix_ms;
  state.timeline = impl_->gate->timeline;
  for (const auto& [pid, process] : impl_->processes) {
    absl::StatusOr<ProcessState> one = StateToCarry(*process);
    if (!one.ok()) return one.status();
    if (impl_->gate->capabilities_known.is_set() && !impl_->gate->resumable_stdio &&
        !one->exit_status) {
      return absl::FailedPreconditionError(absl::StrCat(
          "process ", pid, " can't be carried over: its agent does not resume streams"));
    }
    state.processes.push_back(*std::move(one));
  }
  state.starting = impl_->starts.Save();
  return state;
}

absl::StatusOr<std::shared_ptr<HostedProcess>> Guest::Impl::Revive(ProcessState state) {
  state.spec.container_id = state.container_id;
  RecoverSpools(options.spool, &state);
  auto process = std::make_shared<HostedProcess>(gate, connection, std::move(state), options.spool,
                                                 ProcessEvents());
  const absl::Status status = process->Listen();
  if (status.ok()) return process;
  process->Close(status);
  return status;
}

absl::Status Guest::Impl::ReviveAll(const GuestState& state, Revived* revived) {
  for (const ProcessState& one : state.processes) {
    if (one.pid == 0 || (one.wait_call_id == 0 && !one.exit_status)) {
      return absl::FailedPreconditionError(
          absl::StrCat("process ", one.pid, " was saved without a wait and can't be taken over"));
    }
    if (processes.count(one.pid) != 0 || revived->running.count(one.pid) != 0) {
      return absl::AlreadyExistsError(absl::StrCat("process ", one.pid, " is there already"));
    }
    ASSIGN_OR_RETURN(revived->running[one.pid], Revive(one));
  }
  for (const ProcessState& one : state.starting) {
    ASSIGN_OR_RETURN(revived->starting[one.wait_call_id], Revive(one));
  }
  return absl::OkStatus();
}

absl::Status Guest::Restore(const GuestState& state) {
  Impl::Revived revived;
  if (const absl::Status status = impl_->ReviveAll(state, &revived); !status.ok()) {
    for (auto& [pid, process] : revived.running) {
      if (process) process->Close(status);
    }
    for (auto& [call, process] : revived.starting) {
      if (process) process->Close(status);
    }
    return status;
  }
  if (state.started_unix_ms != 0) impl_->started_unix_ms = state.started_unix_ms;
  impl_->gate->timeline = state.timeline;
  if (!revived.running.empty() || !revived.starting.empty()) {
    // Processes are saved only of an agent that resumes streams, and it is the same agent: they
    // need not wait until it has negotiated again.
    impl_->gate->resumable_stdio = true;
    impl_->gate->capabilities_known.Set();
  }
  impl_->ports.SetNextPort(state.next_port);
  impl_->connection->core().SeedNextId(state.next_message_id);
  for (auto& [pid, process] : revived.running) {
    impl_->requests.Restore(process->request_id(), pid);
    process->Adopt();
  }
  for (auto& [call, process] : revived.starting) impl_->starts.Restore(process, call);
  impl_->processes.merge(revived.running);
  impl_->ShareSpools();
  if (ready()) impl_->OnReady();
  // What else the source was starting at the cut is not among them, and its caller was told so.
  impl_->strays.Suspect();
  return absl::OkStatus();
}

void Guest::Close(const absl::Status& reason) {
  if (impl_->closed) return;
  impl_->closed = true;
  impl_->on_change = nullptr;
  impl_->connection->set_on_ready(nullptr);
  impl_->connection->core().set_on_notification(nullptr);
  for (auto& [pid, process] : impl_->processes) process->Close(reason);
  impl_->starts.Close(reason);
  for (auto& [id, container] : impl_->containers) container->Close();
  if (impl_->log) impl_->log->Close();
  impl_->connection->Close(reason);
  // Tasks that are held back or waiting for the agent see that they are closed, and end.
  impl_->gate->open.Set();
  impl_->gate->capabilities_known.Set();
}

void Guest::set_on_change(std::function<void()> callback) {
  impl_->on_change = std::move(callback);
}

}  // namespace ferry::guest
