#include "vmmanager/qemu/qemu_machine.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/snapshots.h"
#include "vmmanager/qemu/cgroup.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_migration_settings.h"
#include "vmmanager/qemu/snapshot_job.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using schema::SystemState;
using Cause = SystemExit::Cause;

constexpr milliseconds kGreetingDeadline{30'000};
constexpr milliseconds kQuitDeadline{1'000};
constexpr milliseconds kEndDeadline{2'000};
constexpr milliseconds kKillDeadline{10'000};
constexpr milliseconds kLastWordsDeadline{1'000};
constexpr milliseconds kUnplugDeadline{10'000};
constexpr size_t kLastWordsBytes = 1024;
constexpr int kPipeBytes = 1 << 20;
constexpr milliseconds kRelayDeadline{1'000};
constexpr char kSpareQmpName[] = "qmp-spare";
constexpr char kBridgeName[] = "bridge";
constexpr char kConsoleName[] = "console";
constexpr char kStderrName[] = "qemu.log";

uint64_t NumberAt(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  boost::system::error_code error;
  const uint64_t number = value == nullptr ? 0 : value->to_number<uint64_t>(error);
  return error ? 0 : number;
}

// The cause that a SHUTDOWN event's reason stands for.
Cause CauseOf(const std::string& reason) {
  if (reason == "guest-shutdown") return Cause::kShutdown;
  if (reason == "guest-reset" || reason == "subsystem-reset") return Cause::kReset;
  if (reason == "guest-panic") return Cause::kPanic;
  return Cause::kTerminated;
}

// QEMU locks disk images: 'Failed to get "write" lock', or 'shared "write"', "consistent read".
absl::Status TellDiskInUse(absl::Status status) {
  const absl::string_view text = status.message();
  if (absl::StrContains(text, "Failed to get ") && absl::StrContains(text, "\" lock")) {
    status.SetPayload(kDiskInUse, absl::Cord());
  }
  return status;
}

SystemState StateOf(const std::string& run_state) {
  if (run_state == "running") return SystemState::kRunning;
  return run_state == "inmigrate" ? SystemState::kIncoming : SystemState::kPaused;
}

}  // namespace

QemuMachine::QemuMachine(std::shared_ptr<const QemuHost> host, std::string id,
                         schema::ComputeSystem document, std::unique_ptr<GuestLink> link)
    : host_(std::move(host)),
      id_(std::move(id)),
      document_(std::move(document)),
      link_(std::move(link)),
      folder_servers_(host_->executor,
                      [this](std::string what) {
                        auto self = weak_from_this().lock();
                        if (!self) return;
                        ferry::Spawn(host_->executor, TellLost(std::move(self), std::move(what)));
                      }),
      cards_(host_->config.network),
      events_(host_->executor),
      ended_(host_->executor),
      told_all_(host_->executor),
      device_deleted_(host_->executor),
      settings_mutex_(host_->executor) {
  told_all_.Set();
}

absl::Status QemuMachine::MakeFolder() {
  constexpr size_t kShortId = 8;
  std::string pattern =
      absl::StrCat(host_->config.state_dir, "/", id_.substr(0, kShortId), ".XXXXXX");
  if (::mkdtemp(pattern.data()) == nullptr) {  // mode 0700
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make the VM's folder ", pattern));
  }
  folder_ = pattern;
  ASSIGN_OR_RETURN(folder_fd_, OpenFolder(folder_));
  if (host_->config.cgroup_parent.empty()) return absl::OkStatus();
  const std::string cgroup = CgroupOf(host_->config.cgroup_parent, folder_);
  RETURN_IF_ERROR(MakeCgroup(cgroup));
  cgroup_ = cgroup;
  return absl::OkStatus();
}

Task<absl::Status> QemuMachine::ServeFolders() {
  FolderServing how;
  how.binary = host_->config.virtiofsd;
  how.vm_folder = folder_;
  how.vm_folder_fd = folder_fd_.get();
  how.log = absl::StrCat(folder_, "/", kStderrName);
  how.cgroup = cgroup_;
  how.niceness = host_->config.niceness;
  const absl::Status served =
      co_await folder_servers_.Start(std::move(how), document_.virtual_machine.devices.shares);
  if (!ended_.is_set() && !detached_) co_return served;
  // Nobody wants this machine any more.
  folder_servers_.End();
  co_return absl::CancelledError("the VM was ended while it started");
}

absl::Status QemuMachine::StartProcess(bool incoming) {
  CommandLineContext context;
  context.binary = host_->config.binary;
  context.accelerator = host_->info.accelerator;
  context.default_machine = host_->info.machine_type;
  context.incoming = incoming;
  context.extra_arguments = host_->config.extra_arguments;
  LaunchSpec spec;
  ASSIGN_OR_RETURN(spec.argv, BuildCommandLine(id_, document_.virtual_machine, context));
  // The sockets listen before QEMU runs, so a connection never has to be tried twice.
  ASSIGN_OR_RETURN(const UniqueFd qmp, ListenUnix(folder_fd_.get(), kQmpName));
  ASSIGN_OR_RETURN(const UniqueFd spare, ListenUnix(folder_fd_.get(), kSpareQmpName));
  ASSIGN_OR_RETURN(const UniqueFd bridge, ListenUnix(folder_fd_.get(), kBridgeName));
  ASSIGN_OR_RETURN(const UniqueFd console, ListenUnix(folder_fd_.get(), kConsoleName));
  spec.descriptors = {{kQmpFd, qmp.get()},
                      {kSpareQmpFd, spare.get()},
                      {kBridgeFd, bridge.get()},
                      {kConsoleFd, console.get()}};
  folder_servers_.AddDescriptors(&spec.descriptors);
  cards_.AddDescriptors(&spec.descriptors);
  const int kept = host_->config.kept ? host_->config.kept->of(id_) : -1;
  keeps_descriptor_ = kept >= 0;
  if (keeps_descriptor_) spec.descriptors[kKeptFd] = kept;
  int pipe[2] = {-1, -1};
  if (::pipe2(pipe, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  const UniqueFd read(pipe[0]);
  const UniqueFd write(pipe[1]);
  spec.descriptors[kStatePipeFd] = read.get();
  keeps_pipe_ = true;
  spec.stderr_path = absl::StrCat(folder_, "/", kStderrName);
  spec.user = host_->config.user;
  spec.niceness = host_->config.niceness;
  spec.cgroup = cgroup_;
  ASSIGN_OR_RETURN(process_, QemuProcess::Launch(host_->executor, spec));
  folder_servers_.CloseDescriptors();
  cards_.CloseDescriptors();
  started_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

absl::Status QemuMachine::ConnectMonitor() {
  ASSIGN_OR_RETURN(UniqueFd socket, ConnectUnix(folder_fd_.get(), kQmpName));
  qmp_ = std::make_shared<QmpClient>(host_->executor, std::move(socket));
  AttachConsole();
  ferry::Spawn(host_->executor, WatchProcess(shared_from_this()));
  return absl::OkStatus();
}

// A VM can do without a log of its console.
void QemuMachine::AttachConsole() {
  absl::StatusOr<UniqueFd> socket = ConnectUnix(folder_fd_.get(), kConsoleName);
  absl::StatusOr<UniqueFd> folder = OpenFolder(folder_);
  if (!socket.ok() || !folder.ok()) return;
  console_ = ConsoleLog::Start(host_->executor, *std::move(socket), *std::move(folder));
}

absl::Status QemuMachine::AttachLink() {
  const auto& socket = document_.virtual_machine.devices.hv_socket;
  if (socket && socket->guest_cid != 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(UniqueFd stream, ConnectUnix(folder_fd_.get(), kBridgeName));
  link_->Attach(std::move(stream));
  return absl::OkStatus();
}

Task<absl::Status> QemuMachine::Launch(bool incoming) {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  settings_.NoteCapabilities(NoCapabilities(host_->capabilities));
  took_state_ = incoming;
  absl::Status status = MakeFolder();
  if (status.ok() && !incoming) status = co_await ServeFolders();
  if (status.ok()) status = co_await PlugCards();
  if (status.ok()) status = StartProcess(incoming);
  if (status.ok()) status = ConnectMonitor();
  if (!status.ok()) {
    if (process_) process_->Kill();
    HandleEnd(ProcessEnd{});
    co_return status;
  }
  // Nothing but Launch hears of events until the guest is allowed to run.
  status = co_await qmp_->WaitReady(kGreetingDeadline);
  // A precaution: nothing visibly keeps QEMU 7.2 from handing bytes that wait on the port to a
  // guest whose queues it is still loading. So nothing is sent before OpenLink().
  if (incoming) link_->transport().PauseReading();
  if (status.ok()) status = AttachLink();
  if (!status.ok()) {
    const absl::Status told =
        absl::Status(status.code(), absl::StrCat("QEMU did not start: ", status.message()));
    process_->Kill();
    absl::Status ended = co_await WithDeadline(kKillDeadline, "QEMU's end", ended_.Wait());
    co_return TellDiskInUse(WithLastWords(told));
  }
  told_all_.Reset();
  ferry::Spawn(host_->executor, PumpEvents(self, qmp_));
  co_return absl::OkStatus();
}

void QemuMachine::OpenLink() { link_->transport().ResumeReading(); }

std::string QemuMachine::adoption_record() const {
  if (!process_) return {};
  const json::object record = {
      {"pid", process_->pid()},    {"start_time", process_->start_time()},
      {"boot_id", BootId()},       {"folder", folder_},
      {"cgroup", cgroup_},         {"keeps_descriptor", keeps_descriptor_},
      {"keeps_pipe", keeps_pipe_}, {"folder_servers", folder_servers_.Record()},
      {"taps", cards_.Record()}};
  return json::serialize(record);
}

Task<absl::Status> QemuMachine::Adopt(std::string record) {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  boost::system::error_code error;
  const json::value value = json::parse(record, error);
  const json::object* fields = error ? nullptr : value.if_object();
  if (fields == nullptr) {
    co_return absl::InvalidArgumentError("the adoption record of the VM cannot be read");
  }
  if (TextAt(*fields, "boot_id") != BootId()) {
    co_return absl::NotFoundError("the host has been restarted since the VM ran");
  }
  folder_servers_.Adopt(fields->if_contains("folder_servers"));
  cards_.Adopt(fields->if_contains("taps"));
  auto process = QemuProcess::Adopt(host_->executor, static_cast<pid_t>(NumberAt(*fields, "pid")),
                                    NumberAt(*fields, "start_time"));
  // What served a QEMU that has ended is on its way out, or hangs.
  if (!process.ok()) folder_servers_.End();
  CO_ASSIGN_OR_RETURN(process_, std::move(process));
  folder_ = TextAt(*fields, "folder");
  cgroup_ = TextAt(*fields, "cgroup");
  CO_ASSIGN_OR_RETURN(folder_fd_, OpenFolder(folder_));
  const json::value* pipe = fields->if_contains("keeps_pipe");
  keeps_pipe_ = pipe != nullptr && pipe->is_bool() && pipe->get_bool();
  // It may not answer before that.
  DrainStatePipe();
  CO_RETURN_IF_ERROR(ConnectMonitor());
  // It may still be at a snapshot that a former daemon asked for.
  const uint64_t memory_mb = document_.virtual_machine.compute_topology.memory.size_in_mb;
  CO_RETURN_IF_ERROR(co_await qmp_->WaitReady(kGreetingDeadline + SnapshotDeadline(memory_mb)));
  CO_ASSIGN_OR_RETURN(const json::value uuid, co_await qmp_->Execute("query-uuid"));
  const json::object* uuid_fields = uuid.if_object();
  const std::string found = uuid_fields == nullptr ? "" : TextAt(*uuid_fields, "UUID");
  if (absl::AsciiStrToLower(found) != absl::AsciiStrToLower(id_)) {
    Detach();
    co_return absl::NotFoundError(absl::StrCat("the process runs the VM ", found, ", not ", id_));
  }
  const json::value* keeps = fields->if_contains("keeps_descriptor");
  keeps_descriptor_ = keeps != nullptr && keeps->is_bool() && keeps->get_bool();
  TakeBackKept();
  CO_RETURN_IF_ERROR(AttachLink());
  started_ = std::chrono::steady_clock::now();
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await RunState());
  state_ = StateOf(run_state);
  took_state_ = state_ != SystemState::kRunning;
  told_all_.Reset();
  ferry::Spawn(host_->executor, PumpEvents(self, qmp_));
  // Whoever let it go may not have come to its cards. The kernel may take its time over them, and
  // other VMs wait to be taken over.
  if (state_ == SystemState::kRunning && has_cards()) {
    ferry::Spawn(host_->executor, RejoinNetworks(self));
  }
  // -action keeps QEMU there after the guest has ended, so that the cause can still be read.
  if (run_state == "shutdown") ferry::Spawn(host_->executor, EndLater(self, Cause::kShutdown));
  if (run_state == "guest-panicked") ferry::Spawn(host_->executor, EndLater(self, Cause::kPanic));
  co_return absl::OkStatus();
}

Task<absl::StatusOr<UniqueFd>> QemuMachine::OpenStatePipe(UniqueFd to) {
  if (!keeps_pipe_ || !process_) {
    co_return absl::UnimplementedError("the VM was started by an older ferryd");
  }
  if (state_relay_) {
    StreamRelay former = *state_relay_;
    const absl::Status ended =
        co_await WithDeadline(kRelayDeadline, "who reads its state", former.AwaitEnd());
    if (absl::IsDeadlineExceeded(ended)) {
      co_return absl::UnimplementedError("QEMU still writes what was asked of it before");
    }
  }
  auto read = process_->TakeDescriptor(kStatePipeFd);
  if (!read.ok()) co_return absl::UnimplementedError(read.status().message());
  const std::string itself = absl::StrCat("/proc/self/fd/", read->get());
  UniqueFd write(::open(itself.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK));
  if (!write.valid()) co_return absl::ErrnoToStatus(errno, "cannot open a pipe");
  // QEMU waits there for room.
  ::fcntl(write.get(), F_SETFL, 0);
  // As much as may be; it works with less.
  ::fcntl(read->get(), F_SETPIPE_SZ, kPipeBytes);
  state_relay_.emplace(host_->executor, *std::move(read), std::move(to));
  state_relay_->Start();
  co_return write;
}

void QemuMachine::DrainStatePipe() {
  if (!keeps_pipe_) return;
  auto read = process_->TakeDescriptor(kStatePipeFd);
  UniqueFd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (!read.ok() || !nowhere.valid()) return;
  state_relay_.emplace(host_->executor, *std::move(read), std::move(nowhere));
  state_relay_->Start();
}

void QemuMachine::TakeBackKept() {
  if (!keeps_descriptor_ || !host_->config.kept) return;
  host_->config.kept->take_back(id_, process_->TakeDescriptor(kKeptFd));
}

Task<absl::StatusOr<json::value>> QemuMachine::Command(std::string command, json::object arguments,
                                                       QmpCallOptions options) {
  std::shared_ptr<QmpClient> qmp = qmp_;
  if (!qmp) co_return WrongState(command.c_str());
  if (silence_) options.deadline = std::max(options.deadline, *silence_);
  co_return co_await qmp->Execute(std::move(command), std::move(arguments), options);
}

void QemuMachine::Anticipate(std::string command, json::object arguments) {
  if (qmp_) qmp_->Anticipate(std::move(command), std::move(arguments));
}

Task<absl::Status> QemuMachine::SetMigrationCapabilities(json::object arguments) {
  co_return co_await SetMigration("migrate-set-capabilities", std::move(arguments),
                                  &MigrationSettingsMirror::CapabilityChanges,
                                  &MigrationSettingsMirror::NoteCapabilities);
}

Task<absl::Status> QemuMachine::SetMigrationParameters(json::object arguments) {
  co_return co_await SetMigration("migrate-set-parameters", std::move(arguments),
                                  &MigrationSettingsMirror::ParameterChanges,
                                  &MigrationSettingsMirror::NoteParameters);
}

// One at a time: what one changes is the next one's present.
Task<absl::Status> QemuMachine::SetMigration(const char* command, json::object arguments,
                                             SettingChanges changes_of, NoteSettings note) {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  AsyncMutex::Guard lock = co_await settings_mutex_.Lock();
  const json::object changes = (settings_.*changes_of)(arguments);
  if (changes.empty()) co_return absl::OkStatus();
  json::object sent = changes;
  const absl::Status set = (co_await Command(command, std::move(sent))).status();
  if (set.ok()) {
    (settings_.*note)(changes);
  } else {
    settings_.Forget();
  }
  co_return set;
}

Task<absl::Status> QemuMachine::Continue() {
  CO_RETURN_IF_ERROR(TellDiskInUse((co_await Command("cont")).status()));
  CO_ASSIGN_OR_RETURN(const std::string run_state, co_await RunState());
  // Where a disk of its failed at once it has run all the same, and that is told as an event.
  if (run_state == "running" || run_state == "io-error") co_return absl::OkStatus();
  co_return absl::InternalError(
      absl::StrCat("QEMU took the order to run the guest but is in the state ", run_state));
}

Task<absl::Status> QemuMachine::RemoveDevice(std::string device) {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  deleted_devices_.erase(device);
  json::object arguments = {{"id", device}};
  CO_RETURN_IF_ERROR((co_await Command("device_del", std::move(arguments))).status());
  co_return co_await WithDeadline(kUnplugDeadline, "the removal of a device",
                                  AwaitDeleted(std::move(device)));
}

Task<absl::Status> QemuMachine::AwaitDeleted(std::string device) {
  while (deleted_devices_.erase(device) == 0) {
    device_deleted_.Reset();
    co_await device_deleted_.Wait();
  }
  co_return absl::OkStatus();
}

Task<absl::Status> QemuMachine::End(Cause cause) {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  if (!cause_) cause_ = cause;
  if (state_ == SystemState::kCreated) HandleEnd(ProcessEnd{});
  if (ended_.is_set()) co_return absl::OkStatus();
  const QmpCallOptions quick{.deadline = kQuitDeadline};
  json::object none;
  ExpectSilence(std::nullopt);
  absl::Status asked = (co_await Command("quit", std::move(none), quick)).status();
  absl::Status ended;
  if (asked.ok()) ended = co_await WithDeadline(kEndDeadline, "QEMU's end", ended_.Wait());
  if (!ended_.is_set()) {
    process_->Kill();
    ended = co_await WithDeadline(kKillDeadline, "QEMU's end after SIGKILL", ended_.Wait());
  }
  co_return ended;
}

void QemuMachine::Detach() {
  detached_ = true;
  if (qmp_) qmp_->Close();
  if (process_) process_->Release();
  folder_servers_.Release();
  if (console_) console_->Close();
  link_->transport().Close();
  observer_ = nullptr;
}

Task<void> QemuMachine::PumpEvents(std::shared_ptr<QemuMachine> self,
                                   std::shared_ptr<QmpClient> qmp) {
  while (true) {
    std::optional<QmpEvent> event = co_await qmp->events().Pop();
    if (!event || self->detached_) break;
    self->HandleEvent(*event);
  }
  self->told_all_.Set();
}

Task<void> QemuMachine::WatchProcess(std::shared_ptr<QemuMachine> self) {
  const ProcessEnd end = co_await self->process_->WaitEnd();
  // What it has said before, above all that its guest runs, may still lie in the socket.
  (void)co_await WithDeadline(kLastWordsDeadline, "QEMU's last words", self->told_all_.Wait());
  if (!self->detached_) self->HandleEnd(end);
}

Task<bool> QemuMachine::HasEnded(milliseconds patience) {
  std::shared_ptr<QemuMachine> self = shared_from_this();
  const absl::Status ended = co_await WithDeadline(patience, "QEMU's end", ended_.Wait());
  co_return ended.ok();
}

Task<void> QemuMachine::EndLater(std::shared_ptr<QemuMachine> self, Cause cause) {
  absl::Status ignored = co_await self->End(cause);
}

// A QEMU that answers has not ended, and took no server with it.
Task<void> QemuMachine::TellLost(std::shared_ptr<QemuMachine> self, std::string what) {
  const absl::Status alive = (co_await self->RunState()).status();
  if (!alive.ok() || self->cause_ || self->detached_) co_return;
  spdlog::error("vm {}: {}; its guest cannot use that folder until it is restarted", self->id_,
                what);
}

uint64_t QemuMachine::AddEventTap(std::function<void(const QmpEvent&)> tap) {
  event_taps_[++next_tap_] = std::move(tap);
  return next_tap_;
}

void QemuMachine::HandleEvent(const QmpEvent& event) {
  const auto when = SteadyTimeOf(event.wall_time, std::chrono::system_clock::now(),
                                 std::chrono::steady_clock::now());
  for (const auto& [number, tap] : std::map(event_taps_)) tap(event);
  if (event.name == "STOP" || event.name == "RESUME") {
    const bool running = event.name == "RESUME";
    // Nobody has let one that still takes a migration run: it is the source's, with its addresses.
    const bool may_rejoin = running && state_ != SystemState::kIncoming;
    state_ = running ? SystemState::kRunning : SystemState::kPaused;
    if (!running) ++stops_;
    if (running) took_state_ = false;
    const bool for_disk = std::exchange(disk_stops_it_, false) && !running;
    if (for_disk) Emit({.kind = SystemEvent::Kind::kDiskTrouble, .when = when});
    // QEMU lets the guest run on by itself when the stream fails after the switchover has begun.
    if (may_rejoin && has_cards() && cards_.silent()) {
      ferry::Spawn(host_->executor, RejoinNetworks(shared_from_this()));
    }
    // As with a pause of its user's, that is no switchover.
    if (!for_disk && observer_ != nullptr && observer_->OnRunState(running, when)) return;
    Emit(
        {.kind = running ? SystemEvent::Kind::kResumed : SystemEvent::Kind::kPaused, .when = when});
  } else if (event.name == "BLOCK_IO_ERROR") {
    if (TextAt(event.data, "action") != "stop") return;
    // It is still to be stopped then, unless this is of a request that was under way when it was.
    disk_stops_it_ = state_ != SystemState::kPaused;
    if (!disk_stops_it_) Emit({.kind = SystemEvent::Kind::kDiskTrouble, .when = when});
  } else if (event.name == "MIGRATION" || event.name == "MIGRATION_PASS") {
    if (observer_ != nullptr) observer_->OnMigrationEvent(event, when);
  } else if (event.name == "DEVICE_DELETED") {
    deleted_devices_.insert(TextAt(event.data, "device"));
    device_deleted_.Set();
  } else if (event.name == "SHUTDOWN" || event.name == "GUEST_PANICKED") {
    const Cause cause =
        event.name == "SHUTDOWN" ? CauseOf(TextAt(event.data, "reason")) : Cause::kPanic;
    ferry::Spawn(host_->executor, EndLater(shared_from_this(), cause));
  }
}

void QemuMachine::HandleEnd(const ProcessEnd& end) {
  if (ended_.is_set()) return;
  SystemEvent event{.kind = SystemEvent::Kind::kExited, .when = std::chrono::steady_clock::now()};
  event.exit.cause = cause_.value_or(Cause::kCrashed);
  last_words_ = LastWords();
  if (event.exit.cause == Cause::kCrashed) {
    event.exit.detail = absl::StrCat("QEMU ", end.ToString());
  }
  event.exit.last_words = last_words_;
  state_ = SystemState::kStopped;
  ended_.Set();
  if (observer_ != nullptr) observer_->OnExit();
  if (qmp_) qmp_->Close();
  if (console_) console_->Close();
  link_->transport().Close();
  folder_servers_.End();
  cards_.CloseDescriptors();
  std::error_code ignored;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  ferry::Spawn(host_->executor, RemoveCgroup(cgroup_));
  Emit(std::move(event));
  events_.Close();
}

void QemuMachine::Emit(SystemEvent event) { events_.Push(std::move(event)); }

void QemuMachine::EmitMigration(schema::MigrationOrigin origin, schema::MigrationEventName name,
                                schema::MigrationResult result,
                                std::chrono::steady_clock::time_point when) {
  SystemEvent event{.kind = SystemEvent::Kind::kMigration, .when = when};
  event.migration.origin = origin;
  event.migration.event = name;
  event.migration.result = result;
  Emit(std::move(event));
}

absl::Status QemuMachine::WrongState(const char* verb) const {
  return absl::FailedPreconditionError(absl::StrCat("cannot ", verb, ": the VM ", id_, " is ",
                                                    std::string(schema::ToString(state_))));
}

std::string QemuMachine::LastWords() const {
  if (folder_.empty()) return {};
  std::string words = FileTail(absl::StrCat(folder_, "/", kStderrName), kLastWordsBytes);
  if (console_) console_->Drain();
  const std::string console = ConsoleTail(folder_, kLastWordsBytes);
  if (!console.empty()) {
    absl::StrAppend(&words, words.empty() ? "" : "\n", "last console output: ", console);
  }
  return words;
}

uint64_t QemuMachine::WordsSoFar() const {
  std::error_code ignored;
  const auto size = std::filesystem::file_size(absl::StrCat(folder_, "/", kStderrName), ignored);
  return ignored ? 0 : size;
}

std::string QemuMachine::WordsSince(uint64_t offset) const {
  std::ifstream file(absl::StrCat(folder_, "/", kStderrName), std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  std::string words(kLastWordsBytes, '\0');
  file.read(words.data(), static_cast<std::streamsize>(words.size()));
  words.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return std::string(absl::StripAsciiWhitespace(words));
}

absl::Status QemuMachine::WithLastWords(absl::Status status) const {
  const std::string words = ended_.is_set() ? last_words_ : LastWords();
  if (status.ok() || words.empty()) return status;
  return absl::Status(status.code(), absl::StrCat(status.message(), "; QEMU said: ", words));
}

}  // namespace ferry::vm
