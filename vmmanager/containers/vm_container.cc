#include "vmmanager/containers/vm_container.h"

#include <spdlog/spdlog.h>

#include <boost/json/serialize.hpp>
#include <csignal>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/containers/container_limits.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/containers/oci_specification.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using state::v1::CONTAINER_STAGE_CREATED;
using state::v1::CONTAINER_STAGE_MAKING;
using state::v1::CONTAINER_STAGE_PAUSED;
using state::v1::CONTAINER_STAGE_REMOVING;
using state::v1::CONTAINER_STAGE_RUNNING;
using state::v1::CONTAINER_STAGE_STOPPED;

constexpr milliseconds kKillTime{30'000};

std::string NextStep(v1::ContainerState state, const std::string& name) {
  switch (state) {
    case v1::CONTAINER_STATE_CREATED:
      return absl::StrCat("Start it first: ferryctl container start ", name);
    case v1::CONTAINER_STATE_RUNNING:
      return absl::StrCat("Stop it first: ferryctl container stop ", name);
    case v1::CONTAINER_STATE_PAUSED:
      return absl::StrCat("Resume it first: ferryctl container resume ", name);
    default:
      return "A container runs once; make another one with ferryctl run.";
  }
}

void AddExit(const state::v1::ContainerExit& exit, EventLog::Attributes* attributes) {
  if (exit.has_code()) attributes->emplace_back("code", absl::StrCat(exit.code()));
  if (exit.has_signal()) attributes->emplace_back("signal", absl::StrCat(exit.signal()));
}

// What a list of many tells of each: nothing that may be long.
v1::ContainerSpec ShortSpec(const v1::ContainerSpec& whole) {
  v1::ContainerSpec to;
  to.set_name(whole.name());
  to.set_image(whole.image());
  to.set_terminal(whole.terminal());
  to.set_detached(whole.detached());
  *to.mutable_limits() = whole.limits();
  to.set_read_only(whole.read_only());
  to.set_pod(whole.pod());
  to.set_remove_when_stopped(whole.remove_when_stopped());
  return to;
}

}  // namespace

VmContainer::VmContainer(ContainerDeps& deps, std::shared_ptr<ContainerHome> home,
                         StoredContainer stored, bool known)
    : deps_(deps),
      home_(std::move(home)),
      stored_(std::move(stored)),
      operation_(deps.executor()),
      taken_up_(deps.executor()),
      stopped_(deps.executor()),
      announced_(!being_made()) {
  if (known) taken_up_.Set();
}

bool VmContainer::lives() const {
  return Is(CONTAINER_STAGE_CREATED) || Is(CONTAINER_STAGE_RUNNING) || Is(CONTAINER_STAGE_PAUSED);
}

bool VmContainer::is_half() const {
  return Is(CONTAINER_STAGE_MAKING) || Is(CONTAINER_STAGE_REMOVING);
}

bool VmContainer::being_removed() const { return removals_ > 0 || Is(CONTAINER_STAGE_REMOVING); }

Task<absl::StatusOr<AsyncMutex::Guard>> VmContainer::Turn() {
  CO_RETURN_IF_ERROR(co_await AwaitTakenUp());
  co_return co_await operation_.Lock();
}

Task<absl::Status> VmContainer::AwaitTakenUp() {
  auto self = shared_from_this();
  // A VM that is on its way may never come to that.
  const bool elsewhere = vm().in_file() || !vm().RefuseIfMigrating("changed").ok();
  const bool undecided = !taken_up_.is_set() && elsewhere;
  if (undecided) CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  co_await taken_up_.Wait();
  if (closed_) co_return absl::UnavailableError("this host's ferryd stops; try again");
  co_return absl::OkStatus();
}

bool VmContainer::in_guest() const {
  return boot_ != 0 && home_->machine->runs() && boot_ == home_->machine->boot();
}

v1::Container VmContainer::Describe(bool whole) const {
  const state::v1::ContainerRecord& from = record();
  v1::Container to;
  to.set_id(from.container_id());
  to.set_guest_id(from.guest_id());
  *to.mutable_spec() = whole ? spec() : ShortSpec(spec());
  to.set_vm_id(from.vm_id());
  to.set_vm_name(vm().name());
  to.set_state(state());
  to.set_image_id(from.image_id());
  // The number of one that was forgotten may be another process's.
  const bool held =
      in_guest() && home_->machine->FindInit(guest_id(), from.process_id()) != nullptr;
  if (held) to.set_process_id(from.process_id());
  if (state() == v1::CONTAINER_STATE_STOPPED) *to.mutable_exit_status() = ToProto(from.exit());
  to.set_created_unix_ms(from.created_unix_ms());
  to.set_started_unix_ms(from.started_unix_ms());
  to.set_stopped_unix_ms(from.stopped_unix_ms());
  to.set_owns_vm(from.owns_vm());
  if (!whole) return to;
  for (const state::v1::ContainerLayer& layer : from.layers()) to.add_layers(layer.digest());
  to.set_scratch_file(from.scratch_file());
  return to;
}

absl::Status VmContainer::WrongState(const std::string& operation) const {
  // It may have gone with its VM, which then says where that is.
  if (gone_) RETURN_IF_ERROR(vm().CheckHere());
  const std::string text = gone_ ? absl::StrCat("container ", name(), " is not there any more")
                                 : absl::StrCat("container ", name(), " cannot be ", operation,
                                                ": it is ", ContainerStateName(state()));
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition, text, "wrong_state",
      gone_ ? "See which there are: ferryctl container list -a" : NextStep(state(), name()));
}

absl::Status VmContainer::CheckRunning(const std::string& operation) const {
  if (!gone_ && Is(CONTAINER_STAGE_RUNNING)) return absl::OkStatus();
  return WrongState(operation);
}

Task<absl::Status> VmContainer::UseScratch(std::string file) {
  auto self = shared_from_this();
  const std::string before = stored_.record.scratch_file();
  stored_.record.set_scratch_file(std::move(file));
  const absl::Status stored = co_await Persist();
  if (stored.ok()) co_return stored;
  // Whoever asks where it is must hear what a later daemon will, whatever came of the write.
  stored_.record.set_scratch_file(before);
  PersistSoon();
  co_return stored;
}

Task<absl::Status> VmContainer::Persist() {
  if (gone_) co_return absl::OkStatus();
  co_return co_await deps_.store().PutContainer(ToRow(stored_));
}

void VmContainer::PersistSoon() { Spawn(deps_.executor(), PersistLater(shared_from_this())); }

Task<void> VmContainer::PersistLater(std::shared_ptr<VmContainer> self) {
  const absl::Status stored = co_await self->Persist();
  if (!stored.ok()) spdlog::error("container {}: {}", self->id(), stored.ToString());
}

Task<absl::Status> VmContainer::SetStage(Stage stage) {
  stored_.record.set_stage(stage);
  co_return co_await Persist();
}

Task<absl::Status> VmContainer::Start() {
  auto self = shared_from_this();
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await Turn());
  if (!gone_ && Is(CONTAINER_STAGE_RUNNING)) co_return absl::OkStatus();
  if (gone_ || !Is(CONTAINER_STAGE_CREATED)) co_return WrongState("started");
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  std::shared_ptr<guest::Process> before = home_->machine->FindStarted(guest_id());
  if (before != nullptr) co_return co_await Started(std::move(before));
  starting_ = true;
  const absl::Cleanup started_now = [this, self] { starting_ = false; };
  guest::ProcessSpec init;
  init.container_id = guest_id();
  init.command = ArgumentsOf(record().oci_process());
  init.has_stdin = spec().has_stdin();
  init.terminal = spec().terminal();
  init.rows = spec().terminal_size().rows();
  init.columns = spec().terminal_size().columns();
  init.detached = spec().detached();
  auto started = co_await home_->machine->Start(std::move(init));
  if (!started.ok()) {
    // What the image lacks is found out here, and then there is no init any more.
    std::vector<std::string> types{"State"};
    const auto properties = co_await home_->machine->Properties(guest_id(), std::move(types));
    if (properties.ok() && properties->state == bridge::ContainerState::kStopped) Stopped({});
    // The VM went to another host meanwhile, and the start with it: says where that is.
    CO_RETURN_IF_ERROR(vm().CheckHere());
    co_return started.status();
  }
  co_return co_await Started(*std::move(started));
}

Task<absl::Status> VmContainer::Started(std::shared_ptr<guest::Process> init) {
  init_ = std::move(init);
  if (!Is(CONTAINER_STAGE_CREATED)) co_return WrongState("started");
  stored_.record.set_process_id(init_->pid());
  const guest::ProcessState io = init_->migration_state();
  stored_.record.set_stdout_port(spec().detached() ? io.stdout_port : 0);
  stored_.record.set_stderr_port(spec().detached() ? io.stderr_port : 0);
  stored_.record.set_started_unix_ms(NowUnixMs());
  stored_.record.set_stage(CONTAINER_STAGE_RUNNING);
  deps_.events().Publish("container.started", id(), {{"name", name()}, {"vm", vm().id()}});
  Watch();
  // From the answer on the caller may count on finding the init again. In this order: the VM's row
  // says no more then that it is being started, when a daemon dies after the container has ended.
  CO_RETURN_IF_ERROR(co_await home_->machine->Persist());
  co_return co_await Persist();
}

Task<absl::StatusOr<std::shared_ptr<guest::Process>>> VmContainer::StartedBefore() {
  std::shared_ptr<guest::Process> init;
  // The VM was written down with it, and the container was not.
  if (Is(CONTAINER_STAGE_CREATED)) init = home_->machine->FindStarted(guest_id());
  if (init != nullptr) co_return init;
  co_return co_await home_->machine->AwaitStart(guest_id());
}

Task<absl::Status> VmContainer::TakeInEarlierStart() {
  if (!Is(CONTAINER_STAGE_CREATED) || init_ != nullptr || !in_guest()) co_return absl::OkStatus();
  // One that was never started has nothing to ask the agent for.
  const bool may_be = home_->machine->StartIsAwaited(guest_id()) ||
                      home_->machine->FindStarted(guest_id()) != nullptr;
  if (!may_be) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  auto started = co_await StartedBefore();
  const bool found = started.ok() && *started != nullptr;
  if (!found || !in_guest() || !Is(CONTAINER_STAGE_CREATED)) co_return absl::OkStatus();
  co_return co_await Started(*std::move(started));
}

void VmContainer::Watch() {
  Spawn(deps_.executor(), WatchInit(shared_from_this()));
  WatchOutput();
}

void VmContainer::WatchOutput() {
  if (!spec().detached()) return;
  init_->set_on_forget([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || !self->in_guest()) return true;
    // Nobody reads any more of one that is being removed.
    return self->Is(CONTAINER_STAGE_REMOVING) || self->LeaveInit();
  });
}

Task<void> VmContainer::WatchInit(std::shared_ptr<VmContainer> self) {
  const std::shared_ptr<guest::Process> init = self->init_;
  const absl::StatusOr<guest::ExitStatus> exit = co_await init->Wait();
  // Otherwise the VM has ended, which it is told, or the daemon does.
  if (exit.ok()) self->Stopped(ToRecord(*exit));
}

void VmContainer::TellArrived() {
  EventLog::Attributes attributes{{"name", name()},
                                  {"vm", vm().id()},
                                  {"state", absl::AsciiStrToLower(ContainerStateName(state()))}};
  if (Is(CONTAINER_STAGE_STOPPED)) AddExit(record().exit(), &attributes);
  deps_.events().Publish("container.arrived", id(), std::move(attributes));
}

void VmContainer::Stopped(const state::v1::ContainerExit& exit) {
  if (gone_ || Is(CONTAINER_STAGE_STOPPED) || Is(CONTAINER_STAGE_REMOVING)) return;
  *stored_.record.mutable_exit() = exit;
  stored_.record.set_stopped_unix_ms(NowUnixMs());
  stored_.record.set_stage(CONTAINER_STAGE_STOPPED);
  EventLog::Attributes attributes{{"name", name()}, {"vm", vm().id()}};
  AddExit(exit, &attributes);
  deps_.events().Publish("container.stopped", id(), std::move(attributes));
  PersistSoon();
  stopped_.Set();
  if (on_stopped_) on_stopped_();
}

void VmContainer::VmEnded() {
  boot_ = 0;
  taken_up_.Set();  // more is not to be found out about it
  // Whoever makes it, or takes it out, finds that by itself.
  if (being_made() || gone_ || Is(CONTAINER_STAGE_REMOVING)) return;
  LeaveGuest();
  if (lives()) Stopped({});
}

void VmContainer::VmSaved() {
  if (gone_ || is_half()) return;
  boot_ = 0;
  taken_up_.Reset();
}

Task<absl::Status> VmContainer::GoOnAs(StoredContainer then) {
  auto self = shared_from_this();
  taken_up_.Reset();
  stored_ = std::move(then);
  init_.reset();
  goes_back_ = lives();
  if (!Is(CONTAINER_STAGE_STOPPED)) stopped_.Reset();
  co_return co_await Persist();
}

bool VmContainer::exit_is_taken() const {
  return spec().detached() || init_ == nullptr || !in_guest() ||
         home_->machine->FindProcess(record().process_id()) == nullptr;
}

Task<absl::Status> VmContainer::AwaitStopped(milliseconds patience) {
  auto wait = [](VmContainer* container) -> Task<absl::Status> {
    co_await container->stopped_.Wait();
    co_return container->closed_ ? absl::UnavailableError("this host's ferryd stops; try again")
                                 : absl::OkStatus();
  };
  co_return co_await WithDeadline(patience, "the container's init", wait(this));
}

Task<absl::Status> VmContainer::Kill() {
  const std::shared_ptr<guest::Process> init = init_;
  if (init == nullptr) co_return InitUnknown();
  CO_RETURN_IF_ERROR((co_await init->Signal(SIGKILL)).status());
  const absl::Status ended = co_await AwaitStopped(kKillTime);
  // It went elsewhere meanwhile, and nobody here knows what became of it.
  if (gone_) co_return WrongState("stopped");
  if (!absl::IsDeadlineExceeded(ended)) co_return ended;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kDeadlineExceeded,
      absl::StrCat("container ", name(), " was killed, and VM ", vm().name(),
                   " does not say that it has ended"),
      "did_not_stop",
      absl::StrCat("Try again, or end the VM: ferryctl stop --force ", vm().name()));
}

absl::Status VmContainer::InitUnknown() const {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("container ", name(),
                   " cannot be stopped: a former ferryd did not write down its ", "init's number"),
      "init_unknown", absl::StrCat("End its VM: ferryctl stop --force ", vm().name()));
}

Task<absl::Status> VmContainer::Stop(milliseconds patience) {
  auto self = shared_from_this();
  CO_ASSIGN_OR_RETURN(AsyncMutex::Guard turn, co_await Turn());
  if (!gone_ && state() == v1::CONTAINER_STATE_STOPPED) co_return absl::OkStatus();
  if (gone_ || being_made()) co_return WrongState("stopped");
  CO_RETURN_IF_ERROR(co_await TakeInEarlierStart());
  if (Is(CONTAINER_STAGE_CREATED)) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("container ", name(), " cannot be stopped: it was not started"), "wrong_state",
        absl::StrCat("Remove it: ferryctl container rm ", name()));
  }
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  if (patience.count() == 0) co_return co_await Kill();
  if (Is(CONTAINER_STAGE_PAUSED)) {
    // What stands still takes no signal but SIGKILL.
    CO_RETURN_IF_ERROR(co_await home_->machine->Resume(guest_id()));
    if (Is(CONTAINER_STAGE_PAUSED)) CO_RETURN_IF_ERROR(co_await SetStage(CONTAINER_STAGE_RUNNING));
  }
  const std::shared_ptr<guest::Process> init = init_;
  if (init == nullptr) co_return InitUnknown();
  CO_RETURN_IF_ERROR((co_await init->Signal(StopSignal(record().stop_signal()))).status());
  // Whoever has less patience does not wait for this.
  turn = AsyncMutex::Guard();
  const absl::Status ended = co_await AwaitStopped(patience);
  if (gone_) co_return WrongState("stopped");
  if (!absl::IsDeadlineExceeded(ended)) co_return ended;
  CO_ASSIGN_OR_RETURN(turn, co_await Turn());
  if (gone_) co_return WrongState("stopped");
  if (!lives()) co_return absl::OkStatus();
  co_return co_await Kill();
}

Task<absl::Status> VmContainer::Pause() {
  auto self = shared_from_this();
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await Turn());
  if (!gone_ && Is(CONTAINER_STAGE_PAUSED)) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(CheckRunning("paused"));
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  CO_RETURN_IF_ERROR(co_await home_->machine->Pause(guest_id()));
  if (!Is(CONTAINER_STAGE_RUNNING)) co_return WrongState("paused");
  deps_.events().Publish("container.paused", id(), {{"name", name()}, {"vm", vm().id()}});
  co_return co_await SetStage(CONTAINER_STAGE_PAUSED);
}

Task<absl::Status> VmContainer::Resume() {
  auto self = shared_from_this();
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await Turn());
  if (!gone_ && Is(CONTAINER_STAGE_RUNNING)) co_return absl::OkStatus();
  if (gone_ || !Is(CONTAINER_STAGE_PAUSED)) co_return WrongState("resumed");
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  CO_RETURN_IF_ERROR(co_await home_->machine->Resume(guest_id()));
  if (!Is(CONTAINER_STAGE_PAUSED)) co_return WrongState("resumed");
  deps_.events().Publish("container.resumed", id(), {{"name", name()}, {"vm", vm().id()}});
  co_return co_await SetStage(CONTAINER_STAGE_RUNNING);
}

Task<absl::Status> VmContainer::Update(v1::ContainerLimits changes) {
  auto self = shared_from_this();
  CO_RETURN_IF_ERROR(CheckLimits(changes));
  CO_ASSIGN_OR_RETURN(const AsyncMutex::Guard turn, co_await Turn());
  if (gone_ || !lives()) co_return WrongState("changed");
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  std::string resources = boost::json::serialize(LimitsToResources(changes));
  CO_RETURN_IF_ERROR(co_await home_->machine->Update(guest_id(), std::move(resources)));
  *stored_.spec.mutable_limits() = MergeLimits(spec().limits(), changes);
  co_return co_await Persist();
}

Task<absl::StatusOr<bridge::ContainerMetrics>> VmContainer::Stats() {
  auto self = shared_from_this();
  if (gone_ || !(Is(CONTAINER_STAGE_RUNNING) || Is(CONTAINER_STAGE_PAUSED))) {
    co_return WrongState("measured");
  }
  CO_RETURN_IF_ERROR(co_await home_->machine->Ready());
  std::vector<std::string> types{"Statistics"};
  CO_ASSIGN_OR_RETURN(const bridge::ContainerProperties properties,
                      co_await home_->machine->Properties(guest_id(), std::move(types)));
  if (properties.metrics.has_value()) co_return *properties.metrics;
  co_return rpc::ErrorWithReason(
      absl::StatusCode::kUnavailable,
      absl::StrCat("the agent of VM ", vm().name(), " has no numbers of container ", name()),
      "no_numbers", "It may just have ended: ferryctl container inspect tells. Else try again.");
}

}  // namespace ferry::vm
