// The part of UtilityVm that goes into a file and comes back.
#include <spdlog/spdlog.h>

#include <chrono>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/checkpoint_tree.h"
#include "vmmanager/sandbox/disk_lock.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/utility_vm.h"
#include "vmmanager/sandbox/wrong_state.h"
#include "vmmanager/schema/attachments.h"

namespace ferry::vm {
namespace {

schema::MigrationFinalizedOptions RunRestored(bool paused) {
  schema::MigrationFinalizedOptions run;
  run.origin = schema::MigrationOrigin::kDestination;
  run.finalized_operation = schema::MigrationFinalOperation::kResume;
  run.leave_paused = paused;
  return run;
}

// Whether a machine has the VM's own disks in the files in which they are now, and would write to
// none that a checkpoint has.
bool HasDisksOfNow(const schema::ComputeSystem& document, const v1::VmSpec& spec,
                   const CheckpointRecords& checkpoints) {
  for (int i = 0; i < spec.disks_size(); ++i) {
    const schema::Attachment* found =
        schema::FindAttachment(document, kDiskController, absl::StrCat(LunOf(spec, i)));
    if (found == nullptr || found->path != spec.disks(i).file()) return false;
  }
  const std::set<std::string> kept = FilesOf(checkpoints);
  for (const auto& [controller, scsi] : document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      if (!disk.read_only && kept.contains(disk.path)) return false;
    }
  }
  return true;
}

// What a save leaves behind goes, however long its disk takes for that.
Task<void> DiscardLater(std::shared_ptr<UtilityVm> vm, SaveSteps steps, absl::Status cause) {
  (void)co_await steps.discard(std::move(cause));
  (void)co_await vm->ForgetSaveDraft(steps.draft);
}

}  // namespace

absl::Status UtilityVm::CheckSavable() const {
  RETURN_IF_ERROR(RefuseIfMigrating("saved"));
  // Without its guest's connection nobody knows its processes.
  if (phase_ != Phase::kUp || guest_ == nullptr) return Refuse("saved");
  RETURN_IF_ERROR(CheckArrived("saved"));
  RETURN_IF_ERROR(CheckCheckpointsRest("saved"));
  return CheckSharesNothing(spec_,
                            absl::StrCat("Shut it down: ferryctl stop --no-save ", row_.name));
}

std::optional<state::v1::SavedRecord> UtilityVm::saved() const {
  if (phase_ != Phase::kStopped || !is_saved()) return std::nullopt;
  return saved_.value_or(state::v1::SavedRecord());
}

std::optional<state::v1::SavedRecord> UtilityVm::used_up() const {
  return saved_.has_value() && saved_->consumed() ? saved_ : std::nullopt;
}

bool UtilityVm::in_file() const {
  return phase_ == Phase::kSaving || phase_ == Phase::kRestoring ||
         (phase_ == Phase::kStopped && is_saved());
}

absl::Status UtilityVm::VmmHasNotEnded() const {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("a VMM of VM ", row_.name, " has not ended yet"),
                              "vmm_not_ended", "Try again in a moment.");
}

absl::Status UtilityVm::CalledOff(const std::string& what) const {
  if (!called_off()) return absl::DeadlineExceededError("it took too long");
  return absl::CancelledError(
      absl::StrCat("VM ", row_.name, " was told to stop at once while it was being ", what));
}

Task<absl::Status> UtilityVm::Save(SaveSteps steps) {
  using asio::experimental::awaitable_operators::operator||;
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  CO_RETURN_IF_ERROR(CheckSavable());
  if (called_off()) co_return CalledOff("saved");
  CO_RETURN_IF_ERROR(co_await NoteDraft(steps.draft));
  const bool was_paused = paused_;
  SetPhase(Phase::kSaving);
  deps_.events.Publish("vm.saving", row_.id, {{"name", row_.name}});
  // A daemon that stops leaves it standing still, and the next one lets it run on.
  const std::function<bool()> stays = [this] { return !detached_ && !called_off(); };
  bool went_on = false;
  auto first = co_await (WriteAll(&steps, &went_on) || AwaitWhile(stays, kAsLongAsItTakes));
  if (detached_) co_return CheckHere();
  absl::Status written = CalledOff("saved");
  if (first.index() == 0) written = std::get<0>(std::move(first));
  written_ = false;
  if (written.ok() && !steps.live_on) written = co_await LeaveForFile();
  if (written.ok() && !steps.live_on) co_return written;
  if (detached_) co_return CheckHere();
  if (!written.ok()) {
    ForgetSaved();
    if (steps.draft.has_value()) save_draft_ = steps.draft;
  }
  // First of all, for a disk that fails may take its time.
  if (!went_on || called_off()) co_await RunOnUnsaved(was_paused);
  if (written.ok()) {
    written = co_await ForgetSaveDraft(steps.draft);
    if (!written.ok()) written = co_await steps.discard(std::move(written));
  } else if (called_off()) {
    Spawn(deps_.executor, DiscardLater(self, steps, written));
  } else {
    written = co_await steps.discard(std::move(written));
    (void)co_await ForgetSaveDraft(steps.draft);
  }
  deps_.events.Publish(written.ok() ? "vm.saved" : "vm.save_failed", row_.id,
                       {{"name", row_.name}, {"error", std::string(written.message())}});
  co_return NotSaved(written);
}

Task<absl::Status> UtilityVm::NoteDraft(std::optional<state::v1::SaveDraftRecord> draft) {
  if (!draft.has_value()) co_return absl::OkStatus();
  // One of a former save whose disk hangs is not remembered any more.
  auto former = std::exchange(save_draft_, draft);
  const absl::Status noted = co_await Persist();
  if (!noted.ok()) save_draft_ = std::move(former);
  CO_RETURN_IF_ERROR(noted);
  // What was asked before may have changed meanwhile.
  absl::Status savable = CheckHere();
  savable.Update(CheckSavable());
  if (!savable.ok()) (void)co_await ForgetSaveDraft(std::move(draft));
  co_return savable;
}

Task<absl::Status> UtilityVm::ForgetSaveDraft(std::optional<state::v1::SaveDraftRecord> draft) {
  const bool is_it =
      draft.has_value() && save_draft_.has_value() && draft->inode() == save_draft_->inode() &&
      draft->born_ns() == save_draft_->born_ns() && draft->file() == save_draft_->file();
  if (!is_it) co_return absl::OkStatus();
  save_draft_.reset();
  const absl::Status stored = co_await Persist();
  // Otherwise the next daemon looks for it again.
  if (!stored.ok() && !save_draft_.has_value()) save_draft_ = std::move(draft);
  co_return stored;
}

// From here on nothing is taken from its guest.
Task<absl::StatusOr<guest::GuestState>> UtilityVm::HoldStill(const char* point) {
  std::shared_ptr<ComputeSystem> system = system_;
  std::shared_ptr<guest::Guest> guest = guest_;
  if (system == nullptr || guest == nullptr) co_return absl::AbortedError("its VMM ended");
  ++standstills_;
  guest->StandsStill();
  CO_RETURN_IF_ERROR(co_await system->Pause());
  FreezeGuest();
  Reached(point);
  co_return guest->Save();
}

// Up to a whole file.
Task<absl::Status> UtilityVm::WriteAll(SaveSteps* steps, bool* went_on) {
  std::shared_ptr<ComputeSystem> system = system_;
  CO_ASSIGN_OR_RETURN(guest::GuestState state, co_await HoldStill("SAVE.stopped"));
  CO_ASSIGN_OR_RETURN(UniqueFd memory, co_await steps->begin(std::move(state)));
  schema::SaveOptions options;
  CO_RETURN_IF_ERROR(co_await system->Save(options, std::move(memory)));
  // A VMM that ends now is not missed any more, unless the file does not become whole.
  if (system_ == nullptr) co_return absl::AbortedError("its VMM ended");
  written_ = !steps->live_on;
  Reached("SAVE.written");
  // Nothing more is wanted of it, and the disk may take its time.
  if (steps->live_on && !detached_ && !called_off()) {
    co_await RunOnUnsaved(paused_);
    *went_on = true;
  }
  absl::StatusOr<state::v1::SavedRecord> record = co_await steps->seal();
  Reached("SAVE.sealed");
  if (record.ok() && !steps->live_on) {
    saved_ = *std::move(record);
    if (steps->draft.has_value()) save_draft_.reset();
  }
  written_ = false;
  co_return record.status();
}

// From the moment that this is written down it is the file, and what still stands here is not.
Task<absl::Status> UtilityVm::LeaveForFile() {
  const std::string desired = std::exchange(row_.desired_state, "stopped");
  absl::Status stored = co_await Persist();
  // With its VMM gone the file is all that there is of it.
  if (!stored.ok() && system_ == nullptr) {
    spdlog::error("vm {}: it is saved in {}, and that is not written down: {}", row_.name,
                  saved_->file(), stored.ToString());
  } else if (!stored.ok()) {
    row_.desired_state = desired;
    co_return stored;
  }
  Reached("SAVE.recorded");
  if (guest_ != nullptr) {
    last_timeline_ = guest_->timeline();
    guest_->set_on_change(nullptr);
    guest_->Close(absl::UnavailableError(absl::StrCat("VM ", row_.name, " was saved")));
    guest_.reset();
  }
  ForEachObserver([](MoveObserver& observer) { observer.OnSaved(); });
  co_await EndSystem();
  if (system_ != nullptr) {
    spdlog::error("vm {}: it was saved, and its VMM does not end", row_.name);
  }
  Reached("SAVE.ended");
  frozen_ = false;
  paused_ = false;
  SetPhase(Phase::kStopped);
  deps_.events.Publish("vm.saved", row_.id, {{"name", row_.name}});
  // What has changed since is only that its VMM is gone, which the next daemon sees.
  stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
  co_return absl::OkStatus();
}

// As it was before anybody tried to save it.
Task<void> UtilityVm::RunOnUnsaved(bool was_paused) {
  if (system_ == nullptr) {
    // Either its end was told already, or it was not missed until now.
    if (phase_ != Phase::kSaving) co_return;
    row_.desired_state = "stopped";
    SetPhase(Phase::kFailed, "its VMM ended while it was being saved");
    TellEnded();
    co_return;
  }
  SetPhase(Phase::kUp);
  if (called_off()) {
    co_await EndSystem();
    co_return;
  }
  absl::Status runs;
  if (!was_paused) runs = co_await RunOn();
  if (system_ == nullptr) co_return;
  if (guest_ != nullptr && !was_paused) guest_->RunsAgain();
  UnfreezeGuest();
  if (!runs.ok()) NoteStandsStill(runs);
  // The reason that it had went with its phase.
  if (was_paused) Spawn(deps_.executor, RecallTroubles(shared_from_this()));
  absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
}

std::string UtilityVm::WhatItDoes() const {
  if (state() != v1::VM_STATE_RUNNING) return absl::StrCat("is ", StateName(state()));
  return waits_to_run() ? row_.state_reason : "runs on as before";
}

absl::Status UtilityVm::NotSaved(const absl::Status& cause) const {
  if (cause.ok()) return cause;
  return rpc::ErrorWithReason(cause.code(),
                              absl::StrCat("VM ", row_.name, " could not be saved, and it ",
                                           WhatItDoes(), ": ", cause.message()),
                              "not_saved", rpc::NextStepOf(cause));
}

// Somebody else may have let it go on, and saved it again, since its file was read.
absl::Status UtilityVm::CheckRestorable(const SavedMachine& machine) const {
  RETURN_IF_ERROR(RefuseIfMigrating("restored"));
  RETURN_IF_ERROR(CheckCheckpointsRest("restored"));
  if (phase_ != Phase::kStopped && phase_ != Phase::kFailed) return Refuse("restored");
  if (system_ != nullptr) return VmmHasNotEnded();
  if (machine.record.has_value() && is_saved()) return Refuse("restored from another file");
  const auto adapters = [](const schema::ComputeSystem& document) {
    return document.virtual_machine.devices.network_adapters;
  };
  // Whoever wrote the file has no say in which networks of this host a VM is in.
  if (adapters(machine.document) != adapters(document_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "what was saved has other network cards than VM ", row_.name, " has on this host"));
  }
  if (!HasOwnDisks(machine.document, spec_)) {
    return absl::FailedPreconditionError(
        absl::StrCat("what was saved has other disks, or has them elsewhere, than VM ", row_.name));
  }
  if (!HasDisksOfNow(machine.document, spec_, checkpoints_)) {
    return rpc::ErrorWithReason(absl::StatusCode::kAborted,
                                absl::StrCat("the disks of VM ", row_.name, " changed meanwhile"),
                                "disks_changed", "Try again.");
  }
  if (machine.record.has_value()) return absl::OkStatus();
  if (is_saved() && !saved_is_unreadable_ && saved_->sha256() == machine.sha256) {
    return absl::OkStatus();
  }
  return rpc::ErrorWithReason(absl::StatusCode::kAborted,
                              absl::StrCat("VM ", row_.name, " is not in that file any more"),
                              "saved_meanwhile", "Try again.");
}

Task<absl::Status> UtilityVm::Restore(SavedMachine machine, RestoreSteps steps) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  (void)co_await WriteDoubtful();
  CO_RETURN_IF_ERROR(CheckHere());
  absl::Status may = CheckRestorable(machine);
  if (!may.ok()) {
    may.SetPayload(kHasNotRun, absl::Cord());
    co_return may;
  }
  const std::optional<state::v1::SavedRecord> before = saved_;
  const schema::ComputeSystem document = document_;
  if (machine.record.has_value()) saved_ = machine.record;
  SetPhase(Phase::kRestoring);
  deps_.events.Publish("vm.restoring", row_.id, {{"name", row_.name}});
  absl::Status loaded = co_await deps_.fence.Prepare(row_.id);
  if (loaded.ok()) loaded = co_await ClaimFence(row_.epoch);
  if (loaded.ok()) loaded = CheckHere();
  if (loaded.ok()) loaded = co_await Load(&machine, &steps);
  if (loaded.ok()) loaded = co_await steps.before_run();
  // Its VMM writes it only when it runs, and it may be ended before.
  if (loaded.ok() && machine.paused) {
    co_await firmware_.Rewrite(std::move(machine.firmware_store));
  }
  if (loaded.ok()) loaded = co_await RunLoaded(machine.paused);
  if (phase_ == Phase::kUp && loaded.ok()) co_return loaded;
  if (detached_) co_return CheckHere();
  if (phase_ != Phase::kRestoring) co_return loaded;
  const bool has_run = saved_->consumed();
  if (!has_run) {
    co_await steps.put_back();
    loaded.SetPayload(kHasNotRun, absl::Cord());
  }
  co_await GiveUpRestore(before, document, std::string(loaded.message()));
  co_return loaded;
}

Task<void> UtilityVm::GiveUpRestore(std::optional<state::v1::SavedRecord> before,
                                    schema::ComputeSystem document, std::string why) {
  co_await EndSystem();
  co_await deps_.fence.Release(row_.id);
  DropAttachedDisks();
  document_ = std::move(document);
  row_.document_json = schema::ToJson(document_);
  // What may have run is newer than its file.
  if (!saved_->consumed()) saved_ = std::move(before);
  row_.desired_state = "stopped";
  SetPhase(Phase::kStopped, absl::StrCat("it could not go on: ", why));
  deps_.events.Publish("vm.restore_failed", row_.id, {{"error", row_.state_reason}});
  if (!is_saved()) TellEnded();
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
}

// Up to a guest that could run.
Task<absl::Status> UtilityVm::Load(SavedMachine* machine, RestoreSteps* steps) {
  using asio::experimental::awaitable_operators::operator||;
  document_ = machine->document;
  row_.document_json = schema::ToJson(document_);
  std::string store = machine->firmware_store;
  CO_RETURN_IF_ERROR(co_await firmware_.Ensure(std::move(store)));
  auto made = co_await deps_.backend.Create(row_.id, document_);
  if (!made.ok()) co_return made.status();
  system_ = *std::move(made);
  std::shared_ptr<ComputeSystem> system = system_;
  StartPump();
  MakeGuest();
  schema::StartOptions start;
  start.destination_migration_options.emplace().origin = schema::MigrationOrigin::kDestination;
  CO_RETURN_IF_ERROR(co_await system->Start(start, &machine->endpoint));
  row_.adoption_record = system->adoption_record();
  if (machine->record.has_value()) row_.desired_state = kFromElsewhere;
  CO_RETURN_IF_ERROR(co_await Persist());
  Reached("RESTORE.listening");
  steps->send();
  Spawn(deps_.executor, EndUnlessSent(shared_from_this(), steps->sent));
  const std::function<bool()> stays = [this] { return !detached_ && !called_off(); };
  auto first = co_await (TakeMemory(system, steps) || AwaitWhile(stays, kAsLongAsItTakes));
  CO_RETURN_IF_ERROR(CheckHere());
  if (first.index() != 0) co_return CalledOff("restored");
  CO_RETURN_IF_ERROR(std::get<0>(std::move(first)));
  if (guest_ == nullptr) co_return absl::AbortedError("the VMM ended when it had everything");
  // Until here nothing of what it has printed so far is lost.
  output_.Clear();
  CO_RETURN_IF_ERROR(guest_->Restore(machine->guest));
  co_return guest_->Listen();
}

Task<absl::Status> UtilityVm::TakeMemory(std::shared_ptr<ComputeSystem> system,
                                         RestoreSteps* steps) {
  const schema::MigrationTransferOptions incoming{schema::MigrationOrigin::kDestination};
  const TransferHooks hooks;
  const absl::Status taken = co_await system->StartLiveMigrationTransfer(incoming, hooks);
  const absl::Status sent = co_await steps->sent();
  // A stream that ended early is the reader's to explain.
  if (!sent.ok() && !absl::IsAborted(sent)) co_return sent;
  CO_RETURN_IF_ERROR(taken);
  co_return sent;
}

// A VMM waits for its memory for ever.
Task<void> UtilityVm::EndUnlessSent(std::shared_ptr<UtilityVm> self,
                                    std::function<Task<absl::Status>()> sent) {
  std::shared_ptr<ComputeSystem> system = self->system_;
  const absl::Status all = co_await sent();
  if (all.ok() || self->system_ != system || self->phase_ != Phase::kRestoring) co_return;
  (void)co_await system->Terminate();
}

// Once it has run, its memory in the file is older than its disks. That must be written down
// before, whatever happens in between.
Task<absl::Status> UtilityVm::RunLoaded(bool paused) {
  CO_RETURN_IF_ERROR(CheckHere());
  std::shared_ptr<ComputeSystem> system = system_;
  if (system == nullptr) co_return absl::AbortedError("the VMM ended when it had everything");
  Reached("RESTORE.loaded");
  if (called_off()) co_return CalledOff("restored");
  saved_->set_consumed(true);
  // A user's file is what its user goes on from, whatever became of the save that wrote it.
  if (saved_->kept()) save_draft_.reset();
  row_.desired_state = paused ? "paused" : "running";
  absl::Status ran = co_await Persist();
  if (ran.ok()) Reached("RESTORE.consumed");
  if (ran.ok()) ran = CheckHere();
  if (ran.ok() && called_off()) ran = CalledOff("restored");
  bool may_have_run = ran.ok() && !paused;
  const schema::MigrationFinalizedOptions run = RunRestored(paused);
  if (ran.ok()) ran = co_await system->FinalizeLiveMigration(run);
  may_have_run = may_have_run && !ran.GetPayload(kHasNotRun).has_value();
  // One that ended as soon as it went on is no error of the VMM's.
  if (ran.ok() && system_ == nullptr) ran = absl::AbortedError("it ended as soon as it went on");
  const bool is_certain = ran.ok() || !may_have_run || system_ == nullptr;
  if (!is_certain) {
    // It may run, or do so in a moment: then it must not be ended, for its file is too old by now.
    spdlog::error("vm {}: its VMM does not say that it runs: {}", row_.name, ran.ToString());
    const schema::MigrationCancelOptions source{schema::MigrationOrigin::kSource};
    (void)co_await system->CancelLiveMigration(source);
    if (system_ == nullptr) ran = absl::AbortedError("it ended as soon as it went on");
  }
  if (!ran.ok() && (is_certain || system_ == nullptr)) {
    saved_->set_consumed(may_have_run);
    co_return AsFenceHeld(ran);
  }
  Reached("RESTORE.ran");
  paused_ = paused;
  // Until it is known to run, its file is put aside, and not removed.
  if (is_certain) ForgetSaved();
  SetPhase(Phase::kUp, is_certain ? "" : kSilent);
  if (!is_certain) Spawn(deps_.executor, SettleAdopted(shared_from_this()));
  if (!paused) Spawn(deps_.executor, AwaitAgent(shared_from_this()));
  if (paused) Spawn(deps_.executor, RecallTroubles(shared_from_this()));
  deps_.events.Publish("vm.restored", row_.id, {{"name", row_.name}});
  // It runs; the next daemon finds it as it is.
  const absl::Status stored = co_await Persist();
  if (!stored.ok()) spdlog::error("vm {}: {}", row_.name, stored.ToString());
  co_return absl::OkStatus();
}

Task<absl::Status> UtilityVm::DiscardSaved(std::string sha256) {
  auto self = shared_from_this();
  AsyncMutex::Guard lock = co_await operation_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  if (phase_ != Phase::kStopped || !is_saved()) co_return Refuse("discarded");
  if (!saved_is_unreadable_ && saved_->sha256() != sha256) {
    co_return absl::AbortedError(
        absl::StrCat("VM ", row_.name, " was saved anew meanwhile; try again"));
  }
  const std::optional<state::v1::SavedRecord> before = saved_;
  const bool was_unreadable = saved_is_unreadable_;
  const std::string record = row_.saved;
  // What a newer ferryd saved may still stand beside its file.
  co_await EndSystem();
  if (system_ != nullptr) co_return VmmHasNotEnded();
  ForgetSaved();
  absl::Status stored = co_await Persist();
  if (!stored.ok()) {
    saved_ = before;
    saved_is_unreadable_ = was_unreadable;
    row_.saved = record;
    co_return stored;
  }
  SetPhase(Phase::kStopped, "what was saved of it was discarded");
  deps_.events.Publish("vm.saved_discarded", row_.id, {{"name", row_.name}});
  TellEnded();
  co_return absl::OkStatus();
}

Task<void> UtilityVm::AwaitOperation() {
  auto self = shared_from_this();
  const AsyncMutex::Guard lock = co_await operation_.Lock();
}

Task<absl::Status> UtilityVm::Set(v1::SetVmRequest changes) {
  auto self = shared_from_this();
  // Whoever fails puts back what he found.
  const AsyncMutex::Guard lock = co_await settings_.Lock();
  CO_RETURN_IF_ERROR(CheckHere());
  CO_RETURN_IF_ERROR(RefuseIfMigrating("changed"));
  const v1::VmSpec before = spec_;
  // Where its disks are may not be written down yet.
  const auto write_alone = [this]() -> absl::Status {
    v1::VmSpec written;
    RETURN_IF_ERROR(ReadSpec(row_.spec_json, &written));
    CopySettings(spec_, &written);
    return WriteSpec(written, &row_.spec_json);
  };
  if (changes.has_save_on_stop()) spec_.set_save_on_stop(changes.save_on_stop());
  if (changes.has_autostart()) spec_.set_autostart(changes.autostart());
  if (changes.has_memory_mb()) spec_.set_memory_mb(changes.memory_mb());
  if (changes.has_cpus()) spec_.set_cpus(changes.cpus());
  absl::Status stored = CompleteSize(&spec_);
  if (stored.ok()) stored = CheckSaveOnStop(spec_);
  if (stored.ok()) stored = write_alone();
  if (stored.ok()) stored = co_await Persist();
  if (stored.ok()) co_return stored;
  CopySettings(before, &spec_);
  (void)write_alone();
  co_return stored;
}

}  // namespace ferry::vm
