#include "vmmanager/sandbox/utility_vm.h"

#include <spdlog/spdlog.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/printable.h"
#include "vmmanager/sandbox/system_end.h"
#include "vmmanager/sandbox/vm_nics.h"
#include "vmmanager/sandbox/wrong_state.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

constexpr size_t kMaxReasonBytes = 4096;
constexpr milliseconds kEndIsTold{2'000};

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

// A guest may write anything, and our log's readers are terminals.
void LogOfGuest(const std::string& vm, bridge::LogLevel level, const std::string& text) {
  constexpr size_t kMaxLine = 1024;
  const bool bad = level <= bridge::LogLevel::kError;
  const auto severity = bad                                   ? spdlog::level::err
                        : level == bridge::LogLevel::kWarning ? spdlog::level::warn
                        : level == bridge::LogLevel::kDebug   ? spdlog::level::debug
                                                              : spdlog::level::info;
  spdlog::log(severity, "guest {}: {}", vm, rpc::PrintableLine(text, kMaxLine));
}

}  // namespace

UtilityVm::UtilityVm(SandboxDeps deps, VmRow row, v1::VmSpec spec, schema::ComputeSystem document)
    : deps_(deps),
      row_(std::move(row)),
      spec_(std::move(spec)),
      document_(std::move(document)),
      firmware_(deps_, document_),
      output_(deps_.settings, row_.id),
      operation_(deps.executor),
      rows_(deps.executor),
      settings_(deps.executor),
      exited_(deps.executor),
      disk_failed_(deps.executor),
      changed_(deps.executor) {
  exited_.Set();
  if (state::v1::DiskMoveRecord moving; !row_.disk_move.empty()) {
    move_.is_unreadable =
        !moving.ParseFromString(row_.disk_move) || moving.schema_version() != kStateSchemaVersion;
    move_.record = std::move(moving);
  }
  if (state::v1::SaveDraftRecord draft; !row_.save_draft.empty()) {
    const bool is_known =
        draft.ParseFromString(row_.save_draft) && draft.schema_version() == kStateSchemaVersion;
    if (is_known) save_draft_ = std::move(draft);
  }
  state::v1::SavedRecord saved;
  if (row_.saved.empty()) return;
  // Its memory must not be forgotten because nobody can read where it is.
  saved_is_unreadable_ = !saved.ParseFromString(row_.saved);
  if (!saved_is_unreadable_) saved_ = std::move(saved);
}

UtilityVm::~UtilityVm() = default;

uint32_t UtilityVm::guest_cid() const {
  const auto& socket = document_.virtual_machine.devices.hv_socket;
  return socket.has_value() ? socket->guest_cid : 0;
}

v1::VmState UtilityVm::state() const {
  switch (phase_) {
    case Phase::kStopped:
      return is_saved() ? v1::VM_STATE_SAVED : v1::VM_STATE_STOPPED;
    case Phase::kGone:
      return v1::VM_STATE_STOPPED;
    case Phase::kSaving:
      return v1::VM_STATE_SAVING;
    case Phase::kRestoring:
      return v1::VM_STATE_RESTORING;
    case Phase::kStarting:
      return v1::VM_STATE_STARTING;
    case Phase::kUp:
      if (notice_.has_value()) return v1::VM_STATE_MIGRATING_OUT;
      return paused_ ? v1::VM_STATE_PAUSED : v1::VM_STATE_RUNNING;
    case Phase::kStopping:
      return v1::VM_STATE_STOPPING;
    case Phase::kIncoming:
      return v1::VM_STATE_INCOMING;
    case Phase::kInDoubt:
      return v1::VM_STATE_IN_DOUBT;
    case Phase::kFailed:
      return v1::VM_STATE_FAILED;
  }
  return v1::VM_STATE_UNSPECIFIED;
}

v1::Vm UtilityVm::Describe(bool with_document) const {
  v1::Vm vm;
  vm.set_id(row_.id);
  vm.set_name(row_.name);
  vm.set_state(state());
  *vm.mutable_spec() = spec_;
  vm.set_machine_type(document_.virtual_machine.platform.machine_type);
  vm.set_accelerator(deps_.backend.info().accelerator);
  vm.set_state_reason(row_.state_reason);
  vm.set_created_unix_ms(row_.created_unix_ms);
  vm.set_fence(deps_.fence.level());
  if (notice_.has_value()) vm.set_session_id(notice_->session_id);
  if (!incoming_session_.empty()) vm.set_session_id(incoming_session_);
  if (guest_ != nullptr) {
    uint32_t running = 0;
    for (const auto& process : guest_->processes()) {
      if (!process->exit_status().has_value()) ++running;
    }
    vm.set_processes(running);
    // The clocks of two hosts may differ; 0 would say that it does not run.
    const uint64_t now = NowUnixMs();
    const uint64_t started = guest_->started_unix_ms();
    if (phase_ == Phase::kUp) vm.set_uptime_ms(now > started ? now - started : 1);
  }
  if (const auto record = saved()) *vm.mutable_saved() = ToProto(*record);
  const schema::Topology& now = document_.virtual_machine.compute_topology;
  const bool is_configured =
      now.memory.size_in_mb == spec_.memory_mb() && now.processor.count == spec_.cpus();
  if (!is_configured && (system_ != nullptr || in_file())) {
    vm.mutable_until_boot()->set_memory_mb(now.memory.size_in_mb);
    vm.mutable_until_boot()->set_cpus(now.processor.count);
  }
  if (with_document) vm.set_machine_document_json(schema::ToJson(document_));
  return vm;
}

absl::Status UtilityVm::Refuse(const std::string& operation) const {
  const std::string why = FirstLine(row_.state_reason);
  const std::string text =
      absl::StrCat("VM ", row_.name, " cannot be ", operation, ": it is ", StateName(state()),
                   why.empty() ? "" : " (", why, why.empty() ? "" : ")");
  const VmInState vm{row_.name, state(), session()};
  // Its clients wait for it.
  if (!in_file()) return WrongState(vm, operation, text);
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, text, "vm_saved",
                              NextStep(vm, operation));
}

absl::Status UtilityVm::CheckHere() const {
  if (phase_ == Phase::kGone) {
    // The notice stays with a VM that moved.
    if (notice_.has_value()) {
      return rpc::ErrorOfMove(
          absl::StatusCode::kFailedPrecondition,
          absl::StrCat("VM ", row_.name, " moved to ", notice_->destination, "; go on there"),
          notice_->destination);
    }
    return absl::NotFoundError(
        absl::StrCat("VM ", row_.name, " is not here any more: ", row_.state_reason));
  }
  if (!detached_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("this host's ferryd stops; VM ", row_.name,
                                             " stays as it is; try again when ferryd is back"));
}

absl::Status UtilityVm::NotYet(const std::string& operation) const {
  const VmInState vm{row_.name, state(), session()};
  if (phase_ == Phase::kInDoubt) {
    return WrongState(vm, operation,
                      absl::StrCat("VM ", row_.name, " cannot be ", operation, " until migration ",
                                   session(), " is decided: ", row_.state_reason));
  }
  if (phase_ == Phase::kIncoming) {
    return WrongState(
        vm, operation,
        absl::StrCat("VM ", row_.name, " cannot be ", operation, " here yet: migration ",
                     incoming_session_,
                     " still brings it; it runs at its source until it is handed over"));
  }
  absl::Status held = RefuseIfMigrating(operation);
  return held.ok() ? Refuse(operation) : held;
}

Task<absl::Status> UtilityVm::AwaitWhile(std::function<bool()> holds, milliseconds limit) {
  auto self = shared_from_this();
  auto wait = [](UtilityVm* vm, const std::function<bool()>* pending) -> Task<absl::Status> {
    while (!vm->detached_ && (*pending)()) co_await vm->changed_.Wait();
    co_return absl::OkStatus();
  };
  if (detached_ || !holds()) co_return absl::OkStatus();
  co_return co_await WithDeadline(limit, "the VM", wait(this, &holds));
}

absl::Status UtilityVm::RefuseIfMigrating(const std::string& operation) const {
  if (session().empty()) return absl::OkStatus();
  // Whatever else it is, the migration has the first say.
  VmInState vm{row_.name, v1::VM_STATE_MIGRATING_OUT, session()};
  if (phase_ == Phase::kInDoubt) vm.state = v1::VM_STATE_IN_DOUBT;
  if (!notice_.has_value()) vm.state = v1::VM_STATE_INCOMING;
  return WrongState(vm, operation,
                    absl::StrCat("VM ", row_.name, " cannot be ", operation, " while migration ",
                                 session(), " is under way"));
}

void UtilityVm::SetPhase(Phase phase, std::string reason) {
  phase_ = phase;
  // It may quote the guest, and goes into messages that must be UTF-8.
  row_.state_reason = rpc::Printable(reason, kMaxReasonBytes);
  Pulse();
}

void UtilityVm::Pulse() {
  changed_.Set();
  changed_.Reset();
}

Task<absl::Status> UtilityVm::MakeFirmwareStore(std::string packed) {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
  co_return co_await firmware_.Make(std::move(packed));
}

void UtilityVm::MakeGuest() {
  guest::GuestOptions options;
  options.spool.folder = output_.folder();
  output_.MakeFolder();
  options.log = [name = this->name()](bridge::LogLevel level, const std::string& text) {
    LogOfGuest(name, level, text);
  };
  options.log_allowance = deps_.settings.log_allowance;
  guest_ = guest::Guest::Create(deps_.executor, system_->guest_transport(), options);
  std::weak_ptr<UtilityVm> weak = weak_from_this();
  guest_->set_on_change([weak] {
    if (auto self = weak.lock()) self->PersistSoon();
  });
}

void UtilityVm::StartPump() {
  exited_.Reset();
  disk_failed_.Reset();
  last_exit_.reset();
  Spawn(deps_.executor, PumpEvents(shared_from_this(), system_));
}

Task<void> UtilityVm::PumpEvents(std::shared_ptr<UtilityVm> self,
                                 std::shared_ptr<ComputeSystem> system) {
  while (auto event = co_await system->events().Pop()) {
    // One that was given up has nothing to say of the next.
    if (self->system_ == system) self->OnEvent(*event);
  }
  if (self->system_ == system && !self->last_exit_.has_value()) {
    self->OnExit(SystemExit{SystemExit::Cause::kCrashed, "its supervision ended"});
  }
}

void UtilityVm::OnEvent(const SystemEvent& event) {
  // A session that ends with its VM takes its tap off while the tap runs.
  if (const auto tap = event_tap_) tap(event);
  const bool stops = event.kind == SystemEvent::Kind::kMigration &&
                     event.migration.event == schema::MigrationEventName::kBlackoutStarted;
  if (stops) ++standstills_;
  if (event.kind == SystemEvent::Kind::kDiskTrouble) {
    disk_failed_.Set();
    LookForTroubles();
  }
  if (event.kind == SystemEvent::Kind::kExited) OnExit(event.exit);
}

void UtilityVm::OnExit(const SystemExit& exit) {
  last_exit_ = exit;
  // What is, or may be, another host's goes on there.
  const bool kept = written_ || is_saved() || phase_ == Phase::kRestoring;
  const bool ours = phase_ != Phase::kGone && phase_ != Phase::kInDoubt &&
                    phase_ != Phase::kIncoming && incoming_session_.empty() && !kept;
  spdlog::info("vm {}: {}", row_.name, ExitText(exit));
  if (guest_ != nullptr) {
    last_timeline_ = guest_->timeline();
    guest_->Close(VmEnded(row_.name, exit));
    guest_.reset();
  }
  row_.adoption_record.clear();
  row_.guest_state.clear();
  system_.reset();
  DropAttachedDisks();
  paused_ = false;
  // A daemon that has let go of it does not know that it ended.
  if (!detached_) Spawn(deps_.executor, deps_.fence.Release(row_.id));
  if (phase_ == Phase::kUp || phase_ == Phase::kStopping || (phase_ == Phase::kSaving && !kept)) {
    if (Failed(exit)) {
      SetPhase(Phase::kFailed, WithLastWords(ExitText(exit), exit));
    } else {
      SetPhase(Phase::kStopped, ExitText(exit));
    }
    row_.desired_state = "stopped";
    deps_.events.Publish("vm.stopped", row_.id,
                         {{"name", row_.name}, {"reason", row_.state_reason}});
    PersistSoon();
  }
  frozen_ = false;
  exited_.Set();
  Pulse();
  if (detached_) return;
  // Else whoever decides where it runs says that it has ended, or that it is gone.
  if (ours) TellEnded();
  if (phase_ == Phase::kGone) output_.Remove();
}

Task<absl::Status> UtilityVm::AwaitExit(milliseconds limit) {
  const std::function<bool()> runs = [this] { return !exited_.is_set(); };
  absl::Status ended = co_await AwaitWhile(runs, limit);
  if (exited_.is_set()) co_return absl::OkStatus();
  co_return ended.ok() ? CheckHere() : ended;
}

// A VMM that dies leaves whoever talks to it before anybody is told of its end.
Task<bool> UtilityVm::HasEnded(absl::Status failed) {
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return !detached_ && !called_off();
  const schema::PropertyQuery query;
  const auto properties = co_await system->GetProperties(query);
  const bool is_over = properties.ok() && properties->state == schema::SystemState::kStopped;
  if (!is_over && !GotNoAnswer(failed)) co_return false;
  (void)co_await AwaitExit(kEndIsTold);
  co_return system_ == nullptr && !detached_ && !called_off();
}

Task<absl::StatusOr<schema::Properties>> UtilityVm::GetProperties(
    const schema::PropertyQuery& query) {
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return Refuse("asked for its properties");
  schema::PropertyQuery own = query;
  co_return co_await system->GetProperties(own);
}

Task<absl::StatusOr<std::shared_ptr<guest::Guest>>> UtilityVm::UsableGuest() {
  auto self = shared_from_this();
  const std::function<bool()> open = [this] {
    return phase_ == Phase::kIncoming || phase_ == Phase::kSaving || phase_ == Phase::kRestoring ||
           undecided();
  };
  (void)co_await AwaitWhile(open, deps_.settings.outcome_wait);
  CO_RETURN_IF_ERROR(CheckHere());
  if (in_file()) co_return Refuse("used");
  if (open()) co_return NotYet("used");
  if (phase_ != Phase::kUp || guest_ == nullptr) co_return Refuse("used");
  co_return guest_;
}

Task<void> UtilityVm::AwaitAgent(std::shared_ptr<UtilityVm> self) {
  std::shared_ptr<guest::Guest> guest = self->guest_;
  if (guest == nullptr) co_return;
  // It runs, and nobody has seen its boot to the end: a former daemon went away meanwhile, and may
  // not have come to its network cards. No other guest is told again, for it may have changed them.
  const bool was_booting = self->row_.desired_state == "stopped";
  absl::Status ready = co_await WithDeadline(self->deps_.settings.boot_timeout, "the guest's agent",
                                             guest->WaitReady());
  if (!ready.ok()) {
    spdlog::warn("vm {}: {}", self->row_.name, ready.ToString());
    self->deps_.events.Publish("vm.agent_lost", self->row_.id,
                               {{"error", std::string(ready.message())}});
    co_return;
  }
  const auto still_here = [&self, &guest] {
    return self->guest_ == guest && self->phase_ == Phase::kUp && !self->detached_;
  };
  std::vector<bridge::NetworkAdapter> adapters = GuestAdaptersOf(self->spec_);
  if (!was_booting || adapters.empty() || !still_here()) co_return;
  const absl::Status told = co_await guest->AddAdapters(std::move(adapters));
  // A next daemon tells it again.
  if (!still_here()) co_return;
  if (!told.ok()) {
    spdlog::error("vm {}: its network cards are not set up: {}", self->row_.name, told.ToString());
    self->deps_.events.Publish("vm.network_failed", self->row_.id,
                               {{"error", std::string(told.message())}});
    co_return;
  }
  if (self->row_.desired_state == "stopped") self->row_.desired_state = "running";
  self->PersistSoon();
}

Task<void> UtilityVm::Detach(milliseconds patience) {
  auto self = shared_from_this();
  const std::function<bool()> switches = [this] { return switches_; };
  (void)co_await AwaitWhile(switches, patience);
  detached_ = true;
  Pulse();
  if (guest_ == nullptr) co_return;
  guest_->set_on_change(nullptr);
  // From here on nothing is taken from the guest that the record lacks; the guest keeps the rest.
  guest_->Freeze();
  absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
  if (guest_ == nullptr) co_return;
  guest_->Close(absl::UnavailableError("the daemon stops; the VM runs on"));
  guest_.reset();
}

Task<absl::Status> UtilityVm::Remove() {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  CO_RETURN_IF_ERROR(RefuseIfMigrating("deleted"));
  CO_RETURN_IF_ERROR(CheckArrived("deleted"));
  if (phase_ != Phase::kStopped && phase_ != Phase::kFailed) co_return Refuse("deleted");
  if (is_saved()) co_return Refuse("deleted");
  if (system_ != nullptr) co_return VmmHasNotEnded();
  CO_RETURN_IF_ERROR(co_await SettleMoveNow());
  // Gone first: nothing must write its row again while the store drops it.
  const Phase before = phase_;
  std::string reason = row_.state_reason;
  SetPhase(Phase::kGone, "it was deleted");
  absl::Status deleted = co_await deps_.store.DeleteVm(row_.id);
  if (!deleted.ok()) SetPhase(before, std::move(reason));
  if (deleted.ok()) output_.Remove();
  co_return deleted;
}

VmRow UtilityVm::Row() {
  if (guest_ != nullptr) {
    auto state = guest_->Save();
    if (state.ok() && !deps_.settings.spool_folder.empty()) {
      // The files are newer at any time.
      for (auto* processes : {&state->processes, &state->starting}) {
        for (guest::ProcessState& process : *processes) {
          process.std_out.spool.clear();
          process.std_err.spool.clear();
        }
      }
    }
    // A process that cannot be carried over only lacks its record after a restart.
    auto encoded = state.ok() ? EncodeGuest(*state) : state.status();
    if (encoded.ok()) row_.guest_state = *std::move(encoded);
  }
  if (!saved_is_unreadable_) row_.saved = saved_.has_value() ? saved_->SerializeAsString() : "";
  row_.save_draft = save_draft_.has_value() ? save_draft_->SerializeAsString() : "";
  if (!move_.is_unreadable) row_.disk_move = move_.record ? move_.record->SerializeAsString() : "";
  return row_;
}

Task<absl::Status> UtilityVm::Persist() {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await rows_.Lock();
  if (phase_ == Phase::kGone) co_return absl::OkStatus();
  VmRow row = Row();
  co_return co_await deps_.store.PutVm(row);
}

void UtilityVm::PersistSoon() {
  if (persist_pending_) return;
  persist_pending_ = true;
  Spawn(deps_.executor, PersistLater(shared_from_this()));
}

Task<void> UtilityVm::PersistLater(std::shared_ptr<UtilityVm> self) {
  // Let whatever changes now finish first, so that a burst of changes is one write.
  co_await asio::post(self->deps_.executor, asio::use_awaitable);
  self->persist_pending_ = false;
  absl::Status stored = co_await self->Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", self->row_.name, stored.ToString());
}

void UtilityVm::Notify(MigrationNotice notice) {
  ForEachObserver([&notice](MoveObserver& observer) { observer.OnNotice(notice); });
}

void UtilityVm::TellEnded() {
  ForEachObserver([](MoveObserver& observer) { observer.OnEnded(); });
  // They have taken what they want of them.
  output_.Remove();
}

void UtilityVm::ForEachObserver(const std::function<void(MoveObserver&)>& tell) {
  const std::set<MoveObserver*> observers = observers_;
  for (MoveObserver* observer : observers) {
    if (observers_.contains(observer)) tell(*observer);
  }
}

}  // namespace ferry::vm
