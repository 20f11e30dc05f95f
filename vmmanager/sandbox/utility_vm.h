#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "ferry/v1/common.pb.h"
#include "ferry/v1/vm.pb.h"
#include "guestmanager/guest.h"
#include "vmmanager/backend/compute_system.h"
#include "vmmanager/sandbox/checkpoint_plan.h"
#include "vmmanager/sandbox/checkpoint_steps.h"
#include "vmmanager/sandbox/checkpoint_tree.h"
#include "vmmanager/sandbox/counted.h"
#include "vmmanager/sandbox/disk_move.h"
#include "vmmanager/sandbox/disk_slot.h"
#include "vmmanager/sandbox/migration_hold.h"
#include "vmmanager/sandbox/output_files.h"
#include "vmmanager/sandbox/sandbox_deps.h"
#include "vmmanager/sandbox/saved_machine.h"
#include "vmmanager/sandbox/snapshot_plan.h"
#include "vmmanager/sandbox/snapshot_steps.h"
#include "vmmanager/sandbox/vm_firmware.h"
#include "vmmanager/sandbox/vm_phase.h"

namespace ferry::vm {

// One utility VM: its compute system, its guest, and what may be done to it when (VmPhase).
// Operations are serialised by a lock of the VM; what a state does not allow fails with
// FAILED_PRECONDITION. Thread: the executor's only.
class UtilityVm : public std::enable_shared_from_this<UtilityVm> {
 public:
  UtilityVm(SandboxDeps deps, VmRow row, v1::VmSpec spec, schema::ComputeSystem document);
  ~UtilityVm();

  const std::string& id() const { return row_.id; }
  const std::string& name() const { return row_.name; }
  const v1::VmSpec& spec() const { return spec_; }
  const schema::ComputeSystem& document() const { return document_; }
  // Of its machine, which has what its specification says from its next boot on.
  uint64_t memory_mb() const {
    return document_.virtual_machine.compute_topology.memory.size_in_mb;
  }
  uint64_t epoch() const { return row_.epoch; }
  // 0 for a guest link over virtio-serial.
  uint32_t guest_cid() const;
  std::string guest_link() const { return guest_cid() == 0 ? "virtio-serial" : "vsock"; }
  const std::string& spec_json() const { return row_.spec_json; }
  const std::string& request_id() const { return row_.request_id; }
  v1::VmState state() const;
  // How often its guest was made to stand still so far, for a pause or a switchover.
  uint64_t standstills() const { return standstills_; }
  // Also while it is being paused: what is cut then arrives paused.
  bool paused_by_user() const { return paused_ || pausing_; }
  v1::Vm Describe(bool with_document) const;
  // Whether a former daemon process may have left its system running.
  bool has_adoption_record() const { return !row_.adoption_record.empty(); }
  const std::string& adoption_record() const { return row_.adoption_record; }

  // Whether it is (still) this daemon's: neither gone nor let go of. Says where it went.
  absl::Status CheckHere() const;
  // FAILED_PRECONDITION "arrival_not_recorded" between RunIncoming or MarkLost, and NoteArrived.
  absl::Status CheckArrived(const std::string& operation) const;
  // FAILED_PRECONDITION "vm_stays" if it was made to stay on this host, "vm_has_snapshots" if what
  // is known of those would stay behind, "vm_has_checkpoints" if files of those would.
  absl::Status CheckMayLeave() const;
  // FAILED_PRECONDITION that names its state and why it is in it.
  absl::Status Refuse(const std::string& operation) const;
  // FAILED_PRECONDITION, naming the session, while a migration holds the VM.
  absl::Status RefuseIfMigrating(const std::string& operation) const;

  // Life cycle. Each returns when it has taken effect; repeated calls succeed.
  Task<absl::Status> Start();
  Task<absl::Status> Stop(bool force, milliseconds timeout);
  Task<absl::Status> Pause();
  Task<absl::Status> Resume();
  // The same as the end of a job, which a checkpoint that is asked for meanwhile does not stop.
  Task<absl::Status> ResumeForJob();
  Task<absl::StatusOr<schema::Properties>> GetProperties(const schema::PropertyQuery& query);

  // Puts a disk into the VM while it runs, at a place of its own, until DetachDisk or until the VM
  // ends. FAILED_PRECONDITION while a migration holds the VM.
  Task<absl::StatusOr<DiskSlot>> AttachDisk(schema::Attachment disk);
  // NOT_FOUND if there is none. The guest must have let go of what is detached.
  Task<absl::Status> DetachDisk(DiskSlot slot);
  Task<absl::Status> ResizeDisk(DiskSlot slot, uint64_t bytes);

  // The same of a disk of its own: its specification has it from then on, whether the VM runs or
  // not. FAILED_PRECONDITION also while it is saved, or has checkpoints or snapshots.
  Task<absl::Status> AttachOwnDisk(v1::DiskSpec disk);
  Task<absl::Status> DetachOwnDisk(std::string name);
  // Makes one larger. FAILED_PRECONDITION "disk_is_larger" if it is already.
  Task<absl::Status> ResizeOwnDisk(std::string name, uint64_t bytes);
  // Copies one to another file, and goes on in that. ABORTED if it is not what it was any more.
  Task<absl::Status> MoveOwnDisk(DiskMoveWish wish);
  void CallOffDiskMove(DiskMoveControl* control);
  void SettleDiskMove();  // what a former daemon was at
  bool moves_disk() const { return move_.is_unreadable || move_.record.has_value(); }

  // Returns when no migration holds the VM, so that it can be resumed. FAILED_PRECONDITION if it
  // moved, or if that takes longer than HostSettings::outcome_wait. May be cancelled.
  Task<absl::Status> AwaitMigrationsEnd();

  // Returns when no switchover is being decided, so that it can be paused; or after
  // HostSettings::outcome_wait, whatever then holds. May be cancelled.
  Task<void> AwaitSwitchover();

  // The guest of a VM that runs here. While a switchover decides where it runs, this waits for the
  // outcome, at most HostSettings::outcome_wait; FAILED_PRECONDITION, with where the VM is and what
  // to do, if it moved or is not decided by then; UNAVAILABLE if the daemon stops. May be
  // cancelled.
  Task<absl::StatusOr<std::shared_ptr<guest::Guest>>> UsableGuest();
  // The guest without waiting, nullptr if there is none.
  std::shared_ptr<guest::Guest> guest() const { return guest_; }
  // The file with what a detached process has written to this stdio port; empty if none is kept.
  // It goes with the VM's boot, after the observers were told of that.
  std::string OutputFile(uint32_t port) const { return output_.PathOf(port); }

  void AddObserver(MoveObserver* observer) { observers_.insert(observer); }
  void RemoveObserver(MoveObserver* observer) { observers_.erase(observer); }
  // The open session's notice, for a client that attaches while it is open.
  std::optional<MigrationNotice> current_notice() const { return notice_; }

  // --- A file that it is saved in ---

  // FAILED_PRECONDITION, with what to do, unless it could be saved now.
  absl::Status CheckSavable() const;
  // Stands still, is written by the steps, and ends; or runs on as before, if that fails or it is
  // to live on.
  Task<absl::Status> Save(SaveSteps steps);
  // Of the file that it goes on from when it is started; nullopt if it is not saved.
  std::optional<state::v1::SavedRecord> saved() const;
  // Of a file that was used up, by a VM of which nobody can say whether it has run since.
  std::optional<state::v1::SavedRecord> used_up() const;
  // Of a file that a former daemon was writing it to, which may have its name by now, and be of no
  // use; nullopt if there is none.
  std::optional<state::v1::SaveDraftRecord> save_draft() const { return save_draft_; }
  // That file, if it is still this one, is gone or whole.
  Task<absl::Status> ForgetSaveDraft(std::optional<state::v1::SaveDraftRecord> draft);
  // Whether it is saved, or on its way into its file or out of it: it is nobody's to use, and has
  // not ended either.
  bool in_file() const;
  // Goes on as it was saved. Where that fails it has not run, and is as it was.
  Task<absl::Status> Restore(SavedMachine machine, RestoreSteps steps);
  // What was saved in the file of that digest is of no use any more; its containers have ended.
  // FAILED_PRECONDITION if it is not saved in that.
  Task<absl::Status> DiscardSaved(std::string sha256);
  // Returns when nobody is about to change whether it runs.
  Task<void> AwaitOperation();
  // Returns when `holds` does not any more, or the daemon lets go; DEADLINE_EXCEEDED after `limit`.
  Task<absl::Status> AwaitWhile(std::function<bool()> holds, milliseconds limit);

  // --- Snapshots inside its disks ---
  // Each call waits for its turn, and then holds the guest still for as long as the disks take.

  // One that the store has; before anything else is done to the VM.
  void AddSnapshot(const SnapshotRow& row);
  // As it says in snapshot.proto.
  Task<absl::StatusOr<v1::Snapshot>> SaveSnapshot(SnapshotWish wish, TakingSteps steps);
  Task<absl::StatusOr<v1::Snapshot>> LoadSnapshot(std::string tag, GoingBackSteps steps);
  Task<absl::Status> DeleteSnapshot(std::string tag);
  // Of a VM that does not run, what is remembered.
  Task<absl::StatusOr<std::vector<v1::Snapshot>>> ListSnapshots();
  // The one that a former daemon was loading when it died; empty: none.
  std::string HalfLoadedSnapshot() const;
  const SnapshotRecords& snapshots() const { return snapshots_; }

  // Of the guest that it had last, since this daemon knows the VM; see guest::BeginTimeline.
  uint32_t last_timeline() const { return last_timeline_; }

  // --- Checkpoints ---

  // One that the store has; before anything else is done to the VM.
  void AddCheckpoint(const CheckpointRow& row);
  const CheckpointRecords& checkpoints() const { return checkpoints_; }
  CheckpointScene checkpoint_scene() const;
  // Where that disk is now; empty if it is not there any more.
  std::string DiskFile(const state::v1::CheckpointDisk& disk) const;
  // Its disks' own files, and its containers' as far as checkpoints know of them.
  std::set<std::string> FilesInUse() const;
  // One is in work as long as it lives, and nobody resumes the VM, which must outlive it.
  Counted CountCheckpointInWork() { return Counted(&checkpoints_in_work_); }
  // Takes it as planned; its overlays are there. If that fails it is as before, and they are gone.
  Task<absl::Status> TakeCheckpoint(std::string name, state::v1::CheckpointRecord planned,
                                    CheckpointSteps steps);
  // One of files that were made elsewhere, and found to be right for it when its disks were in
  // `files` and it had `known`: ABORTED if that is not so any more. `check` is the last word before
  // it is written down.
  Task<absl::Status> DefineCheckpoint(std::string name, state::v1::CheckpointRecord record,
                                      std::set<std::string> files, std::set<std::string> known,
                                      std::function<Task<absl::Status>()> check);
  // Goes back to its disks, and ends. With its memory the VM is saved in that then, so that the
  // next start goes on from there. Returns the record as it is then.
  Task<absl::StatusOr<state::v1::CheckpointRecord>> GoBackToCheckpoint(std::string name,
                                                                       CheckpointReturn how);
  // What came after it goes into its files, once `check` says so with nobody else at the VM.
  // Returns the record as it was, whose other files are nobody's then.
  Task<absl::StatusOr<state::v1::CheckpointRecord>> DeleteCheckpoint(std::string name,
                                                                     MergeCheck check,
                                                                     MergeProgress progress);
  // One that a former daemon did not come to the end of: drops it, or goes on deleting it.
  Task<absl::Status> SettleCheckpoint(std::string name);

  // Changes what may be changed at any time.
  Task<absl::Status> Set(v1::SetVmRequest changes);

  // Makes its firmware's variable store, if it has such firmware, of what is packed; of a new one.
  Task<absl::Status> MakeFirmwareStore(std::string packed);

  // Takes over the system that a former daemon process left running, if it still does. A VM that a
  // migration claims is not touched, and nobody may use it, until its session has decided.
  Task<absl::Status> Adopt(AdoptionClaim claim);

  // Records where the guest's streams stand, ends the guest connection and lets go of the system
  // without ending it (the daemon stops). Whoever waits, and every later call, gets UNAVAILABLE.
  // Waits as long as `patience` for a disk that is just changing over, for its guest stands still.
  Task<void> Detach(milliseconds patience);
  // Whether one is.
  bool switches() const { return switches_; }

  // Takes a stopped VM out of the store; nothing can be done to it any more.
  Task<absl::Status> Remove();

  // --- A migration's source ---

  // Marks the VM as being migrated: what would change the machine is refused from here on.
  // ALREADY_EXISTS, naming the session, if a migration holds it; FAILED_PRECONDITION if it does not
  // run.
  absl::Status OpenMigration(const std::string& session_id, const std::string& destination);
  // nullptr once it has ended.
  std::shared_ptr<ComputeSystem> system() const { return system_; }
  // Sees every event of the system while a migration is on.
  void set_event_tap(std::function<void(const SystemEvent&)> tap) { event_tap_ = std::move(tap); }
  // The switchover: nothing is taken from the guest any more until it is decided.
  void FreezeGuest();
  // It was called off.
  void UnfreezeGuest();
  // The source gave the VM up: it does not run here unless Reclaim follows.
  void MarkInDoubt();
  // Whether its VMM does not show that it is still here: it has sent all of it, or it is gone.
  Task<bool> MayHaveLeft();
  // Tells attached clients where to go on.
  void AnnounceMove();
  // Asks the fence, before a copy may run here with that epoch. Cheap where it was asked before.
  Task<absl::Status> ClaimFence(uint64_t epoch);
  // The same for a copy that runs here already: there it is too late to be refused, so somebody is
  // told.
  Task<void> ClaimWhatRuns(uint64_t epoch);
  // Until the next ClaimFence another host may.
  Task<void> YieldFence();
  // Whether the guest runs at this moment. False if that cannot be told.
  Task<bool> Executes();
  // Sees to it that it runs, unless its user paused it: a VMM that lost its stream may have left it
  // stopped.
  Task<absl::Status> RunOn();
  // It runs here again, as before; `epoch` is raised after a reclaim.
  void ReturnFromMigration(uint64_t epoch);
  // It runs at the destination: ends what is left here. The registry forgets it afterwards.
  Task<absl::Status> Relinquish();

  // --- A migration's destination ---

  // It is the session's from here on, until RunIncoming or Discard; the source runs it meanwhile.
  void ExpectMigration(const std::string& session_id) { incoming_session_ = session_id; }
  // Before that: those that come with it. They are written down with it.
  void SetCheckpoints(CheckpointRecords records) { checkpoints_ = std::move(records); }
  // Before that: what its firmware's variable store is to begin with.
  void SetFirmwareStore(std::string packed) { firmware_.Expect(std::move(packed)); }
  // Before that: where this host has a disk of the machine. NOT_FOUND if there is no such disk.
  // FAILED_PRECONDITION if it is part of a checkpoint, whose files name each other by their paths.
  absl::Status BindDisk(DiskSlot slot, const std::string& path);
  // Makes the system ready to receive. The VM is INCOMING until RunIncoming or Discard.
  Task<absl::Status> PrepareIncoming(const schema::MigrationInitializeOptions& options,
                                     const MigrationEndpoint& endpoint);
  absl::Status RestoreGuest(const guest::GuestState& state);
  // Runs it here (or leaves it paused), once the commit protocol granted it. Until NoteArrived it
  // can neither be deleted, nor may a migration take it on: its records would come between those of
  // the one that brought it.
  Task<absl::Status> RunIncoming(uint64_t epoch, bool paused);
  // That it came is in the journal.
  void NoteArrived() { arriving_session_.clear(); }
  // It was granted to this host, and is no more: lists it as failed. Only while it is INCOMING.
  Task<void> MarkLost(uint64_t epoch, const std::string& why);
  // Ends what was prepared.
  Task<void> Discard(const absl::Status& reason);
  // Another host was forced to run it, so the copy here is that session's, to be ended: nobody else
  // does anything with it, and its end is not that of its containers. FAILED_PRECONDITION if a
  // migration holds it. Repeating it does no harm.
  absl::Status HoldStale(const std::string& session_id);
  // Ends a copy that is held so.
  Task<absl::Status> EndStale();

  // The VM as the store knows it, with where the guest's streams stand now.
  VmRow Row();
  // Writes the VM's row; called by the registry and after every change.
  Task<absl::Status> Persist();

 private:
  using Phase = VmPhase;

  bool is_saved() const {
    return saved_is_unreadable_ || (saved_.has_value() && !saved_->consumed());
  }
  void ForgetSaved() {
    saved_.reset();
    saved_is_unreadable_ = false;
  }
  // What disks have; their own deadlines are the backend's.
  static constexpr milliseconds kAsLongAsItTakes{std::chrono::hours(24)};

  // The migration that holds it; empty if none does.
  const std::string& session() const {
    return notice_.has_value() ? notice_->session_id : incoming_session_;
  }
  // A switchover decides, or has not begun to, whether it runs here.
  bool undecided() const { return phase_ == Phase::kInDoubt || (phase_ == Phase::kUp && frozen_); }
  // What somebody is told whose patience ended before a migration did.
  absl::Status NotYet(const std::string& operation) const;
  // With the lock of operations, where it may be stopped.
  Task<absl::Status> StopNow(bool force, milliseconds timeout);
  Task<absl::Status> ShutDownInOrder(milliseconds timeout);
  absl::Status CheckDisksMayChange(const std::string& operation) const;
  // FAILED_PRECONDITION if it would be made smaller; false if it is as large already.
  Task<absl::StatusOr<bool>> CheckGrows(std::string name, std::string file, std::string format,
                                        uint64_t bytes) const;
  absl::Status CheckOwnDisksMayChange(const std::string& operation) const;
  // Its number in the specification.
  absl::StatusOr<int> FindOwnDisk(const std::string& name) const;
  Task<absl::Status> WriteOwnDisks();
  void DropOwnDisk(const std::string& name, const std::string& lun);
  absl::Status CheckFileIsNew(const std::string& file) const;
  absl::Status MayHaveCome(const std::string& disk, const absl::Status& silence) const;
  absl::Status CheckMayMove(const DiskMoveWish& wish) const;
  Task<absl::Status> CopyUnlessCalledOff(DiskMoveWish* wish);
  Task<absl::Status> CopyAndChangeOver(DiskMoveWish* wish);
  Task<absl::Status> EndMove(DiskMoveWish* wish, absl::Status moved);
  Task<absl::Status> RemoveFormer(const DiskMoveWish* wish);
  Task<absl::Status> PlaceOwnDisk(std::string name, std::string file);
  // What its VMM has is where the disk is that is being moved.
  Task<absl::Status> BelieveMovedDisk();
  // It is moved, or not; what is half a copy then goes. With the lock of operations.
  Task<absl::Status> SettleMoveNow();
  static Task<void> SettleMoveLater(std::shared_ptr<UtilityVm> self);
  // Of those that a former daemon was attaching or detaching its machine decides.
  Task<void> SettleOwnDisks();
  absl::StatusOr<uint32_t> FreeLun() const;
  Task<absl::Status> PersistDisks();
  // What is not in its specification is gone with the system that it was put into.
  void DropAttachedDisks();
  Task<absl::Status> Boot();
  // With the agent, up to its network cards.
  Task<absl::Status> GetReady(std::shared_ptr<guest::Guest> guest, bool* has_agent);
  // Ends what runs of it, however that goes.
  Task<void> EndSystem();
  void MakeGuest();
  Task<absl::Status> TakeOver(const AdoptionClaim& claim);
  // Of one that is saved and has a VMM. NOT_FOUND if that is at an end, and the file is the VM.
  Task<absl::Status> EndIfInFile();
  // Lets it go on if it stands still though nobody wants that, as soon as that can be done.
  static Task<void> SettleAdopted(std::shared_ptr<UtilityVm> self);
  Task<absl::Status> LetGoOn(absl::Status may_run);
  // It could not be let run: that is tried again if its VMM is silent, and else its user may.
  void NoteStandsStill(const absl::Status& runs);
  // Whether what stands still may run: it is written down where its disks are, and the fence is
  // ours.
  Task<absl::Status> MayRun();
  // UNAVAILABLE "disks_not_known".
  Task<absl::Status> DisksAreKnown();
  // For a message: what becomes of it where something else failed.
  std::string WhatItDoes() const;
  // It goes on as soon as that can be done, and its user need do nothing.
  bool waits_to_run() const;
  // It waited, and goes on.
  void NoteRuns();
  // FAILED_PRECONDITION: a second one must not be made beside it.
  absl::Status VmmHasNotEnded() const;
  // The parts of Save and Restore, with the lock of operations.
  Task<absl::StatusOr<guest::GuestState>> HoldStill(const char* point);
  Task<absl::Status> NoteDraft(std::optional<state::v1::SaveDraftRecord> draft);
  // `went_on`: whether it has been let run again.
  Task<absl::Status> WriteAll(SaveSteps* steps, bool* went_on);
  Task<absl::Status> LeaveForFile();
  // Whether somebody waits to end it at once: what could hang lets go of it then.
  bool called_off() const { return orders_to_end_ > 0; }
  // What whoever asked for what was called off is told; DEADLINE_EXCEEDED if it was not.
  absl::Status CalledOff(const std::string& what) const;
  Task<void> RunOnUnsaved(bool was_paused);
  // What its user is told, who sees what became of it.
  absl::Status NotSaved(const absl::Status& cause) const;
  absl::Status CheckRestorable(const SavedMachine& machine) const;
  static Task<void> EndUnlessSent(std::shared_ptr<UtilityVm> self,
                                  std::function<Task<absl::Status>()> sent);
  Task<absl::Status> Load(SavedMachine* machine, RestoreSteps* steps);
  static Task<absl::Status> TakeMemory(std::shared_ptr<ComputeSystem> system, RestoreSteps* steps);
  Task<absl::Status> RunLoaded(bool paused);
  // What is left when it could not go on; nothing of it runs then.
  Task<void> GiveUpRestore(std::optional<state::v1::SavedRecord> before,
                           schema::ComputeSystem document, std::string why);
  absl::Status CheckSnapshotsMayChange(const std::string& operation) const;
  Task<absl::Status> PutSnapshot(std::string tag, state::v1::SnapshotRecord record);
  Task<absl::Status> ForgetSnapshot(std::string tag);
  // With the lock of operations.
  Task<absl::StatusOr<std::vector<v1::Snapshot>>> DescribeAllSnapshots();
  Task<absl::StatusOr<v1::Snapshot>> FindSnapshot(std::string tag);
  Task<absl::Status> CheckTagIsFree(std::string tag);
  Task<absl::Status> TakeSnapshot(const SnapshotOptions* options, TakingSteps* steps);
  Task<absl::StatusOr<state::v1::SnapshotRecord>> LoadableSnapshot(std::string tag,
                                                                   GoingBackSteps* steps);
  Task<absl::Status> GoBack(const std::string* tag, state::v1::SnapshotRecord* record,
                            GoingBackSteps* steps);
  absl::Status BringBackGuest(const std::string& tag, const state::v1::SnapshotRecord& record);
  Task<void> EndHalfLoaded(std::string tag, absl::Status why);
  Task<void> DropHalfSnapshots();
  // A boot is no half-loaded VM, whatever was written down of the last one.
  Task<absl::Status> SettleSnapshots();
  // The same, as often as it takes.
  static Task<void> SettleSnapshotsLater(std::shared_ptr<UtilityVm> self);
  Task<absl::Status> GiveUpHalfLoaded(std::string tag);
  struct CheckpointBeingTaken;
  // `half`: that checkpoint may be unsettled, for it is to be.
  absl::Status CheckCheckpointsMayChange(const std::string& operation,
                                         const std::string& half = "") const;
  // FAILED_PRECONDITION while a checkpoint is written, or half of one is left.
  absl::Status CheckCheckpointsRest(const std::string& operation) const;
  absl::Status CheckpointInWork(const std::string& operation) const;
  // It stays as it stands, for its user or whoever takes a checkpoint.
  Task<void> LeavePaused();
  // FAILED_PRECONDITION "vm_has_snapshots" or "vm_has_checkpoints", and why that is in the way.
  absl::Status CheckHasNoSnapshots(const std::string& operation, const std::string& why) const;
  absl::Status CheckHasNoCheckpoints(const std::string& operation, const std::string& why) const;
  Task<absl::Status> PutCheckpoints(CheckpointRecords changed);
  // Tries to write down again what is doubtful. Until that is done checkpoints stay as they are,
  // and the VM neither starts nor leaves; so where it fails it is tried again, later.
  Task<absl::Status> WriteDoubtful();
  static Task<void> WriteDoubtfulLater(std::shared_ptr<UtilityVm> self);
  Task<absl::Status> WriteDoubtfulOnce();
  Task<absl::Status> BeginCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking);
  Task<absl::Status> PutDisksAside(std::shared_ptr<CheckpointBeingTaken> taking);
  Task<absl::Status> GoOnInOverlays(std::shared_ptr<CheckpointBeingTaken> taking);
  // Whether its guest can freeze its filesystems. Waits for an agent that is just coming back.
  Task<absl::Status> CheckCanQuiesce();
  // Between the two nobody in the guest writes to its filesystems on disks.
  Task<absl::Status> FreezeFilesystems();
  // Whatever came of it before. An error if they were not frozen all the time.
  Task<absl::Status> ThawFilesystems();
  Task<absl::Status> WriteBehind(std::shared_ptr<CheckpointBeingTaken> taking, UniqueFd memory);
  static Task<void> RunBehind(std::shared_ptr<UtilityVm> self,
                              std::shared_ptr<CheckpointBeingTaken> taking, UniqueFd memory);
  Task<absl::Status> WriteStandingStill(UniqueFd memory);
  Task<absl::Status> EndCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking,
                                   absl::Status taken);
  Task<void> RunAfterCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking, bool taken);
  Task<void> LeaveCheckpoint(std::shared_ptr<CheckpointBeingTaken> taking, bool taken);
  Task<absl::Status> NoteWholeCheckpoint(std::string name, state::v1::CheckpointRecord record);
  // Its record alone; whose its files are then is its caller's affair.
  Task<absl::Status> ForgetCheckpoint(std::string name);
  Task<absl::Status> UndoCheckpoint(std::string name);
  Task<absl::Status> MergeBackAll(state::v1::CheckpointRecord record);
  // Whether it is the disk of a container that is not there any more.
  bool IsGone(const state::v1::CheckpointDisk& disk) const;
  // FAILED_PRECONDITION "overlay_missing".
  Task<absl::Status> CheckAllThere(CheckpointDeletion plan);
  Task<absl::Status> CheckMayBeMerged(CheckpointDeletion plan, MergeCheck check);
  Task<absl::Status> DeleteNow(std::string name);
  // Of what lies below what its disk goes on in, or beside that.
  Task<absl::Status> MergeBelow(OverlayMerge merge);
  // Whether the VMM has that file as a disk of its. FAILED_PRECONDITION if it has another one in
  // its place.
  Task<absl::StatusOr<bool>> HasOpen(std::shared_ptr<ComputeSystem> system,
                                     state::v1::CheckpointDisk disk, std::string file);
  // Of a disk that goes on in its overlay; what is merged already is passed over.
  Task<absl::Status> MergeBack(state::v1::CheckpointDisk disk);
  Task<absl::Status> MergeLower(std::shared_ptr<ComputeSystem> system, LowerOverlay lower);
  Task<absl::Status> MergeOffline(std::string overlay);
  Task<absl::Status> MergeOnline(std::shared_ptr<ComputeSystem> system, DiskPlace disk,
                                 std::string format, PlaceDiskFile place);
  // So that what is written down of the disks of a checkpoint that is not whole is what its VMM
  // does. An error if that cannot be known.
  Task<absl::Status> BelieveVmmsDisks();
  Task<void> GoOnAfterMerge();
  // Where its VMM has stopped it because of a disk, it is paused until its user resumes it. Whoever
  // decides whether it runs has it looked at again.
  void LookForTroubles();
  static Task<void> StandStillForDisk(std::shared_ptr<UtilityVm> self);
  // Whether it stands still, and is paused now.
  Task<bool> PauseIfStopped();
  // With the lock of operations.
  Task<void> PauseForDisk(std::shared_ptr<ComputeSystem> system);
  void NoteTroubles(const std::vector<DiskTrouble>& troubles);
  void TellTroubles();
  std::string DescribeTroubles(const std::vector<DiskTrouble>& troubles) const;
  // Of one that is paused, which may be for a disk.
  static Task<void> RecallTroubles(std::shared_ptr<UtilityVm> self);
  // With the lock of operations. The disk may have failed while no daemon was there.
  Task<void> AdoptTroubles();
  // While it boots; says which one it is.
  Task<absl::Status> AwaitDiskFailure();
  absl::Status CheckReturnFits(const state::v1::CheckpointRecord& record,
                               const CheckpointReturn& how) const;
  Task<absl::Status> MergeAll(std::string name);
  // Writes down that it goes on in the file below, or in its overlay. If that fails nothing has
  // changed.
  Task<absl::Status> PlaceDisk(state::v1::CheckpointDisk disk, bool below);
  // nullptr: it is not in the VM now.
  schema::Attachment* AttachmentOf(const state::v1::CheckpointDisk& disk);
  void SetDiskFile(const state::v1::CheckpointDisk& disk, const std::string& file,
                   const std::string& format);
  bool IsUnused(const std::string& file) const;
  Task<void> RemoveUnused(std::set<std::string> files);
  Task<void> RemoveOverlays(state::v1::CheckpointRecord record);
  Task<absl::Status> EndForReturn(std::string name, bool memory);
  absl::Status AdoptGuest();
  void StartPump();
  static Task<void> PumpEvents(std::shared_ptr<UtilityVm> self,
                               std::shared_ptr<ComputeSystem> system);
  void OnEvent(const SystemEvent& event);
  void OnExit(const SystemExit& exit);
  Task<absl::Status> AwaitExit(milliseconds limit);
  // Whether it ended, of which what `failed` may be the first sign.
  Task<bool> HasEnded(absl::Status failed);
  void PersistSoon();
  static Task<void> PersistLater(std::shared_ptr<UtilityVm> self);
  static Task<void> AwaitAgent(std::shared_ptr<UtilityVm> self);
  void Notify(MigrationNotice notice);
  void TellEnded();
  void ForEachObserver(const std::function<void(MoveObserver&)>& tell);
  void SetPhase(Phase phase, std::string reason = "");
  void Pulse();
  void Reached(const char* point) const {
    if (deps_.failpoint) deps_.failpoint(point);
  }

  SandboxDeps deps_;
  VmRow row_;
  v1::VmSpec spec_;
  schema::ComputeSystem document_;
  VmFirmware firmware_;
  OutputFiles output_;

  Phase phase_ = Phase::kStopped;
  uint64_t standstills_ = 0;
  bool paused_ = false;
  bool pausing_ = false;   // asked for, not yet done
  bool detached_ = false;  // the daemon has let go of it
  std::shared_ptr<ComputeSystem> system_;
  std::shared_ptr<guest::Guest> guest_;
  std::optional<SystemExit> last_exit_;
  // Once consumed it is no state to go on from, and stays until the next one or the next boot only
  // so that its file is put aside instead of removed.
  std::optional<state::v1::SavedRecord> saved_;
  // Of a file of its user's that it is being written to, or was by a former daemon.
  std::optional<state::v1::SaveDraftRecord> save_draft_;
  SnapshotRecords snapshots_;
  uint32_t last_timeline_ = 0;
  CheckpointRecords checkpoints_;
  // Those of which something else may be written down, as they are; or that there is none.
  std::map<std::string, std::optional<state::v1::CheckpointRecord>> doubtful_;
  bool writes_doubtful_ = false;    // WriteDoubtfulLater() is at it
  bool writes_checkpoint_ = false;  // its memory is being written while it runs
  size_t checkpoints_in_work_ = 0;  // from the beginning of their jobs
  size_t stands_for_them_ = 0;      // those for which it stands still until their memory is written
  size_t pauses_waiting_ = 0;       // for the lock
  bool pause_wanted_ = false;       // once it need not stand still for a checkpoint
  bool switches_ = false;           // a disk of it is just changing over
  // Overlays of disks of which it is not known what is written down.
  std::set<std::string> unwritten_;
  MergeProgress merge_progress_;  // of a checkpoint that is being deleted
  DiskMoveState move_;
  std::shared_ptr<ComputeSystem> settling_;  // what SettleAdopted() is at
  bool saved_is_unreadable_ = false;         // row_.saved is of a newer ferryd
  bool written_ = false;                     // all of it is in a file that is not whole yet
  size_t orders_to_end_ = 0;                 // stop --force that wait for whoever holds the lock
  AsyncMutex operation_;
  AsyncMutex rows_;      // its row is being written down
  AsyncMutex settings_;  // what may be changed at any time is
  AsyncEvent exited_;    // the system is gone; changed_ is pulsed too
  // Its VMM has stopped it because of a disk, and nobody has looked at that yet.
  AsyncEvent disk_failed_;
  AsyncEvent changed_;  // pulsed when phase, hold, freeze or detached_ changed
  bool looks_ = false;  // StandStillForDisk() is at it
  bool looks_again_ = false;
  bool frozen_ = false;  // a switchover is being decided
  bool fenced_ = false;  // decided that it is this host's, but the fence does not let it run
  bool persist_pending_ = false;

  std::optional<MigrationNotice> notice_;  // the open migration, on the source
  std::string incoming_session_;           // on the destination; or it is stale, see HoldStale
  std::string arriving_session_;           // brought it, and has not recorded that yet
  bool runs_already_ = false;              // what was adopted as incoming had been told to run
  std::set<MoveObserver*> observers_;
  std::function<void(const SystemEvent&)> event_tap_;
};

}  // namespace ferry::vm
