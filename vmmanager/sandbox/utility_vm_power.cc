// What makes a VM run, and what ends or halts that.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/counted.h"
#include "vmmanager/sandbox/disk_lock.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/sandbox/system_end.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/sandbox/vm_nics.h"
#include "vmmanager/sandbox/wrong_state.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kExitLimit{10'000};

}  // namespace

Task<absl::Status> UtilityVm::Start() {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  if (phase_ == Phase::kUp && !paused_) co_return absl::OkStatus();
  if (phase_ != Phase::kStopped && phase_ != Phase::kFailed) co_return NotYet("started");
  CO_RETURN_IF_ERROR(RefuseIfMigrating("started"));
  (void)co_await WriteDoubtful();
  CO_RETURN_IF_ERROR(co_await SettleMoveNow());
  CO_RETURN_IF_ERROR(CheckHere());
  CO_RETURN_IF_ERROR(CheckCheckpointsRest("started"));
  if (is_saved()) co_return Refuse("booted");
  if (system_ != nullptr) co_return VmmHasNotEnded();
  SetPhase(Phase::kStarting);
  deps_.events.Publish("vm.starting", row_.id, {{"name", row_.name}});
  absl::Status booted = co_await deps_.fence.Prepare(row_.id);
  if (booted.ok()) booted = co_await ClaimFence(row_.epoch);
  // The fence may have taken its time.
  if (booted.ok()) booted = CheckHere();
  if (booted.ok()) booted = co_await SettleSnapshots();
  if (booted.ok()) booted = co_await Boot();
  if (booted.ok()) co_await DropHalfSnapshots();
  if (booted.ok() && system_ == nullptr) {
    booted = VmEndedAtBoot(row_.name, last_exit_.value_or(SystemExit()));
  }
  // A daemon that stops leaves the booting VM to the next one.
  if (detached_) co_return CheckHere();
  if (!booted.ok()) {
    co_await EndSystem();
    co_await deps_.fence.Release(row_.id);
    SetPhase(Phase::kFailed, std::string(booted.message()));
    deps_.events.Publish("vm.start_failed", row_.id, {{"error", row_.state_reason}});
    (void)co_await Persist();
    co_return booted;
  }
  SetPhase(Phase::kUp);
  paused_ = false;
  ForgetSaved();
  row_.desired_state = "running";
  deps_.events.Publish("vm.started", row_.id, {{"name", row_.name}});
  co_return co_await Persist();
}

Task<absl::Status> UtilityVm::Boot() {
  // The backend gives each folder that hangs a thread which is never seen again; here there are
  // only so many of them.
  for (const v1::ShareSpec& share : spec_.shares()) {
    CO_RETURN_IF_ERROR((co_await FindRealPath(&deps_.reads, share.host_path())).status());
  }
  std::string empty;
  CO_RETURN_IF_ERROR(co_await firmware_.Ensure(std::move(empty)));
  // They may have taken their time.
  CO_RETURN_IF_ERROR(CheckHere());
  // Until now it was as when it ran last, or as what it went on from.
  SetSize(spec_, &document_);
  row_.document_json = schema::ToJson(document_);
  auto system = co_await deps_.backend.Create(row_.id, document_);
  if (!system.ok()) co_return system.status();
  system_ = *std::move(system);
  StartPump();
  output_.Clear();
  MakeGuest();
  CO_RETURN_IF_ERROR(guest_->Listen());
  const schema::StartOptions options;
  CO_RETURN_IF_ERROR(AsFenceHeld(co_await system_->Start(options, nullptr)));
  row_.adoption_record = system_->adoption_record();
  CO_RETURN_IF_ERROR(co_await Persist());

  // Whichever comes first: it is ready, the system ends, a disk fails, or patience ends.
  using asio::experimental::awaitable_operators::operator||;
  std::shared_ptr<guest::Guest> guest = guest_;
  bool has_agent = false;
  auto first = co_await (GetReady(guest, &has_agent) || exited_.Wait() || AwaitDiskFailure());
  if (first.index() == 1) {
    co_return VmEndedAtBoot(row_.name, last_exit_.value_or(SystemExit()));
  }
  if (first.index() == 2) co_return std::get<2>(std::move(first));
  const absl::Status ready = std::get<0>(first);
  if (has_agent || !absl::IsDeadlineExceeded(ready) || detached_) co_return ready;
  // What the guest said last is known once its system has ended.
  co_await EndSystem();
  co_return AgentNotReady(row_.name, ready, system_ == nullptr, last_exit_.value_or(SystemExit()));
}

Task<absl::Status> UtilityVm::GetReady(std::shared_ptr<guest::Guest> guest, bool* has_agent) {
  CO_RETURN_IF_ERROR(
      co_await WithDeadline(deps_.settings.boot_timeout, "the guest's agent", guest->WaitReady()));
  *has_agent = true;
  if (detached_) co_return absl::OkStatus();
  co_return co_await guest->AddAdapters(GuestAdaptersOf(spec_));
}

Task<void> UtilityVm::EndSystem() {
  if (system_ == nullptr) co_return;
  std::shared_ptr<ComputeSystem> system = system_;
  absl::Status ended = co_await system->Terminate();
  if (!ended.ok()) spdlog::warn("vm {}: {}", row_.name, ended.ToString());
  (void)co_await AwaitExit(kExitLimit);
}

Task<absl::Status> UtilityVm::Stop(bool force, milliseconds timeout) {
  auto self = shared_from_this();
  // While its files are merged there is nothing to end, and nobody can start it.
  const bool stands = phase_ == Phase::kStopped || phase_ == Phase::kFailed;
  const bool merges = stands && system_ == nullptr &&
                      (move_.record.has_value() || !UnsettledCheckpoint(checkpoints_).empty());
  if (merges) co_return CheckHere();
  // Its disk may hang, and whoever holds the lock with it.
  std::optional<Counted> order;
  if (force) order.emplace(&orders_to_end_);
  if (force) Pulse();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  order.reset();
  CO_RETURN_IF_ERROR(CheckHere());
  CO_RETURN_IF_ERROR(RefuseIfMigrating("stopped"));
  co_return co_await StopNow(force, timeout);
}

Task<absl::Status> UtilityVm::StopNow(bool force, milliseconds timeout) {
  if (phase_ == Phase::kStopped || phase_ == Phase::kFailed) co_return absl::OkStatus();
  if (phase_ != Phase::kUp) co_return Refuse("stopped");
  if (!force && writes_checkpoint_) co_return CheckCheckpointsRest("stopped");
  if (!force && paused_) {
    co_return WrongState(
        {row_.name, state(), session()}, "stopped",
        absl::StrCat("VM ", row_.name, " is paused, so it cannot shut down in order"));
  }
  SetPhase(Phase::kStopping);
  absl::Status ended;
  if (force) {
    std::shared_ptr<ComputeSystem> system = system_;
    ended = co_await system->Terminate();
    if (ended.ok()) ended = co_await AwaitExit(kExitLimit);
  } else {
    ended = co_await ShutDownInOrder(timeout);
  }
  if (!ended.ok() && phase_ == Phase::kStopping) SetPhase(Phase::kUp);
  // Whoever looks next finds it given up.
  if (system_ == nullptr && !detached_) co_await deps_.fence.Release(row_.id);
  co_return ended;
}

// Asks the agent, and waits for the end; both together take no longer than `timeout`.
Task<absl::Status> UtilityVm::ShutDownInOrder(milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point until = Clock::now() + timeout;
  const auto refused = [this](absl::StatusCode code, const std::string& why) {
    return rpc::ErrorWithReason(
        code, absl::StrCat("VM ", row_.name, " did not shut down: ", why, "; it still runs"),
        "did_not_shut_down",
        absl::StrCat("Try again, or end it at once: ferryctl stop --force ", row_.name));
  };
  std::shared_ptr<guest::Guest> guest = guest_;
  const milliseconds patience = std::min(timeout, deps_.settings.agent_wait);
  absl::Status ready = co_await WithDeadline(patience, "the guest's agent", guest->WaitReady());
  if (exited_.is_set()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(CheckHere());
  if (!ready.ok()) {
    co_return refused(absl::StatusCode::kDeadlineExceeded, "its agent is not connected");
  }
  absl::Status asked = co_await WithDeadline(timeout, "the guest's agent", guest->Shutdown(false));
  if (exited_.is_set()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(CheckHere());
  // Without an answer, or with a lost link, it may be about to end all the same.
  const bool may_end = asked.ok() || absl::IsUnavailable(asked) || absl::IsDeadlineExceeded(asked);
  if (!may_end) co_return refused(asked.code(), std::string(asked.message()));
  const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now());
  absl::Status ended = co_await AwaitExit(std::max(left, milliseconds(0)));
  if (!absl::IsDeadlineExceeded(ended)) co_return ended;
  co_return refused(absl::StatusCode::kDeadlineExceeded,
                    asked.ok() ? absl::StrCat("it was not done within ", timeout.count(), " ms")
                               : std::string(asked.message()));
}

Task<absl::Status> UtilityVm::Pause() {
  auto self = shared_from_this();
  if (stands_for_them_ > 0 && phase_ == Phase::kSaving && system_ != nullptr) {
    // It stands still, and will not run on.
    if (paused_) co_return absl::OkStatus();
    pause_wanted_ = true;
    row_.desired_state = "paused";
    co_return co_await Persist();
  }
  co_await AwaitSwitchover();
  const Counted waiting(&pauses_waiting_);
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  if (undecided()) co_return NotYet("paused");
  if (phase_ != Phase::kUp) co_return Refuse("paused");
  if (paused_) co_return absl::OkStatus();
  std::shared_ptr<ComputeSystem> system = system_;
  pausing_ = true;
  ++standstills_;
  if (guest_ != nullptr) guest_->StandsStill();
  absl::Status paused = co_await system->Pause();
  pausing_ = false;
  if (!paused.ok() && guest_ != nullptr) guest_->RunsAgain();
  CO_RETURN_IF_ERROR(CheckHere());
  CO_RETURN_IF_ERROR(paused);
  paused_ = true;
  row_.desired_state = "paused";
  deps_.events.Publish("vm.paused", row_.id);
  co_return co_await Persist();
}

// What the cut says of it goes with the VM; a pause that came after it would be lost.
Task<void> UtilityVm::AwaitSwitchover() {
  auto self = shared_from_this();
  const std::function<bool()> open = [this] { return undecided(); };
  (void)co_await AwaitWhile(open, deps_.settings.outcome_wait);
}

Task<absl::Status> UtilityVm::Resume() {
  if (checkpoints_in_work_ > 0) co_return CheckpointInWork("resumed");
  co_return co_await ResumeForJob();
}

Task<absl::Status> UtilityVm::ResumeForJob() {
  auto self = shared_from_this();
  CO_RETURN_IF_ERROR(co_await AwaitMigrationsEnd());
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  if (notice_.has_value()) co_return NotYet("resumed");
  if (phase_ != Phase::kUp) co_return Refuse("resumed");
  if (writes_checkpoint_) co_return CheckCheckpointsRest("resumed");
  // It may stand still although nobody has paused it.
  if (!paused_ && co_await Executes()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await MayRun());
  CO_RETURN_IF_ERROR(CheckHere());
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return Refuse("resumed");
  CO_RETURN_IF_ERROR(AsFenceHeld(co_await system->Resume()));
  if (guest_ != nullptr) guest_->RunsAgain();
  paused_ = false;
  SetPhase(Phase::kUp);
  row_.desired_state = "running";
  deps_.events.Publish("vm.resumed", row_.id);
  co_return co_await Persist();
}

// The source must not run what may run elsewhere.
Task<absl::Status> UtilityVm::AwaitMigrationsEnd() {
  const std::function<bool()> held = [this] {
    return notice_.has_value() && phase_ != Phase::kGone;
  };
  (void)co_await AwaitWhile(held, deps_.settings.outcome_wait);
  CO_RETURN_IF_ERROR(CheckHere());
  if (held()) co_return NotYet("resumed");
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
