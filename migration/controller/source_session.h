#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "migration/controller/convergence_watch.h"
#include "migration/controller/migration_session.h"
#include "migration/controller/stall_watchdog.h"
#include "migration/controller/time_limit.h"
#include "migration/layers/layer_sender.h"
#include "vmmanager/sandbox/disk_marks.h"
#include "vmmanager/schema/migration.h"

namespace ferry::migration {

// The source's side of one migration.
class SourceSession final : public MigrationSession {
 public:
  SourceSession(const ControllerDeps& deps, std::string session_id)
      : MigrationSession(deps, std::move(session_id), v1::MIGRATION_ORIGIN_SOURCE),
        vm_end_seen_(deps.executor()),
        vote_settled_(deps.executor()),
        commit_settled_(deps.executor()),
        released_(deps.executor()) {}

  // Goes on with what a former daemon process left; see Recover().
  SourceSession(const ControllerDeps& deps, const FormerSession& former);

  // What the session is asked to do; remembered for a caller that asks again.
  void set_request(const v1::PrepareAndExportSandboxRequest& request) {
    request_ = request.SerializeAsString();
  }
  // The same answer to the same request, for a caller that lost it. ALREADY_EXISTS if it asks for
  // something else.
  Task<absl::StatusOr<std::string>> ExportAgain(v1::PrepareAndExportSandboxRequest request);
  // Makes the VM ready and returns the sealed plan. The VM runs on and stays usable.
  // Absent options are the defaults.
  Task<absl::StatusOr<std::string>> PrepareAndExport(std::string vm, std::string destination,
                                                     std::optional<v1::InitializeOptions> options);

  // Sends layers of the VM's containers to the destination, over a connection of their own, and
  // returns when they are there. Between the export and the transfer.
  Task<absl::Status> SendLayers(v1::SendLayersRequest request);

  // Copies disks of the VM to the destination, over a connection of their own, and returns when
  // both have the same. Between the destination's preparation and the transfer.
  Task<absl::Status> SendDisks(v1::SendDisksRequest request);

  Task<absl::Status> Transfer(v1::TransferSandboxRequest request) override;
  Task<absl::StatusOr<std::string>> Finalize(v1::FinalizeAction action, std::string proof) override;
  Task<absl::Status> Cancel(std::string reason) override;
  vm::AdoptionClaim Claim() const override;
  Task<void> Recover(std::shared_ptr<vm::UtilityVm> vm) override;

  // Whoever runs the whole migration wants the commit as soon as the destination has voted, with
  // the proofs going over the session connection.
  void set_commit_when_ready() { commit_when_ready_ = true; }
  // From now on the whole may take `limit`; 0: any time. What then becomes of it is `action`,
  // unless the guest has been stopped for the switchover before.
  void LimitTime(milliseconds limit, v1::TimeoutAction action);
  void set_request_id(std::string request_id) { request_id_ = std::move(request_id); }

  // Returns when the memory has moved and the destination has voted, or with why not.
  Task<absl::Status> AwaitTransfer();
  // Returns when the commit that follows the vote is decided; an error means that the VM runs on
  // here.
  Task<absl::Status> AwaitCommit();
  // A failure outside this session's own steps, at the destination, for its record.
  void NoteError(const absl::Status& status);
  // After COMMIT: returns when the destination's DONE or REFUSED has taken effect here. False if it
  // did not come within `limit`.
  Task<bool> AwaitRelease(milliseconds limit);

  // Tells the destination what was decided, again and again, until its DONE or REFUSED has taken
  // effect here.
  Task<void> Settle(std::shared_ptr<PeerClient> peer);
  // A person's decision about a VM that is in doubt, without the destination's word: see
  // SourceCommit::Force and GiveUp. FAILED_PRECONDITION if it is not in doubt.
  Task<absl::Status> Force(v1::ForcedDecision decision);
  bool in_doubt() const { return core_ != nullptr && core_->in_doubt(); }
  // After ABORT: tells a destination that may have voted, until it has heard.
  Task<void> TellAbort(std::shared_ptr<PeerClient> peer);
  bool over() const override { return info_.done() && !telling_; }
  void StopTelling() override;

 protected:
  Role role() const override { return Role::kSource; }
  void LetGo() override;
  // Whoever asked for layers or disks to be sent waits for that.
  bool may_expire() const override {
    return !commit_when_ready_ && !sends_layers_ && !sends_disks_;
  }
  Task<void> Expire(EndReason why) override;
  Task<void> ForgetVm() override;

 private:
  static constexpr char kAfterALostLink[] =
      "See whether ferryd runs on the destination and can be reached, then migrate again.";

  using Self = std::shared_ptr<SourceSession>;
  Self self() { return std::static_pointer_cast<SourceSession>(shared_from_this()); }

  absl::StatusOr<std::vector<LayerFile>> FindLayers(const v1::SendLayersRequest& request) const;
  Task<absl::Status> SendOver(v1::SendLayersRequest request, std::vector<LayerFile> files,
                              std::string socket_path);
  absl::Status CheckSendsDisks() const;
  // A disk that the plan says can be sent.
  struct OfferedDisk {
    vm::DiskPlace place;
    uint64_t used_bytes = 0;
    std::string measured;    // the file that may need more room than it has; empty: none
    bool over_same = false;  // as vm::DiskMirror
  };
  absl::StatusOr<std::map<std::string, OfferedDisk>> OfferedDisks() const;
  absl::StatusOr<std::vector<vm::DiskMirror>> FindDisks(const v1::SendDisksRequest& request) const;
  Task<absl::Status> CheckTheyFit(v1::SendDisksRequest request);
  Task<absl::Status> MirrorOver(v1::SendDisksRequest request, std::vector<vm::DiskMirror> disks);
  Task<absl::Status> MirrorWatched(std::shared_ptr<vm::ComputeSystem> system,
                                   std::vector<vm::DiskMirror> disks, std::string path);
  Task<absl::Status> WhyDisksFailed(absl::Status mirrored);
  void OnDiskProgress(const vm::CopiedBytes& now);
  // The guest stands still: the destination has all of the disks that were copied.
  Task<absl::Status> SealDisks();
  Task<absl::StatusOr<std::string>> Export();
  Task<absl::StatusOr<std::string>> MakePlan(std::string compat_info);
  Task<absl::Status> TakeStep(absl::StatusOr<std::optional<SourceStep>> step);

  static Task<void> RunTransfer(Self self, v1::TransferSandboxRequest request);
  Task<absl::Status> Connect(const v1::TransferSandboxRequest& request);
  Task<absl::Status> MoveMemory();
  vm::TransferHooks MakeHooks();
  // What the end of the VMM's transfer means for this session.
  Task<absl::Status> JudgeTransfer(absl::Status moved, bool stalled);
  Task<absl::Status> AwaitVote();
  void WatchForStall();
  static Task<void> CallOffStalled(std::weak_ptr<SourceSession> weak);
  Task<absl::Status> OnStopped();
  static Task<void> ReadMessages(Self self, std::shared_ptr<SessionConnection> connection);
  Task<void> HandleProof(std::string bytes);
  Task<absl::Status> OnRefused(Proof refused);
  void NoteInFlight(const guest::GuestState& state);
  void OnSystemEvent(const vm::SystemEvent& event);
  void OnMigrationEvent(const vm::SystemEvent& event);
  void OnProgress(const vm::TransferProgress& progress);
  void TraceProgress(const vm::TransferProgress& progress);
  void OnBlackout(Clock::time_point when);
  absl::Status CheckRest(const vm::TransferProgress& rest);
  absl::Status CheckVote(const Proof& prepared);
  static EndReason Refusal(const Proof& refused);
  void FinishTransfer(const absl::Status& status);
  // Where a step failed that nobody else can be blamed for.
  absl::Status AtDestination(absl::Status status);
  // No byte of that moved any more.
  absl::Status Stalled(const char* what);
  EndReason WhyFailed(const absl::Status& status) const;
  Task<void> AwaitReason();
  static Task<void> EndWithItsVm(Self self);

  // Called off by the session's own limits, with a word for machines; nothing after COMMIT.
  static Task<void> CallOffByLimit(std::weak_ptr<SourceSession> weak, std::string why,
                                   std::string word);
  Task<absl::Status> CancelBecause(EndReason why);
  static Task<void> OnTimeLimit(std::weak_ptr<SourceSession> weak, milliseconds limit,
                                v1::TimeoutAction action);
  static Task<void> ForceSwitchover(Self self, vm::SwitchoverForce how);

  // The decisions; deciding_ is held.
  Task<absl::StatusOr<std::string>> Decide(v1::FinalizeAction action, std::string proof);
  Task<absl::StatusOr<std::string>> Commit();
  // Cancels with that reason, unless it is too late.
  Task<absl::Status> CallOff(EndReason why);
  // Makes sure that nothing commits any more, and tells the destination.
  Task<void> WriteAbort();
  Task<absl::StatusOr<std::string>> Stop(std::string proof);
  Task<absl::StatusOr<std::string>> Resume(std::string proof);
  absl::Status TooLateToCancel() const;
  Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> DialDestination(std::string session_id,
                                                                           std::string address,
                                                                           std::string token);
  Task<absl::Status> Release(const Proof& done);
  Task<absl::Status> Reclaim(const Proof& refused);
  Task<absl::Status> RemoveVm();
  Task<absl::Status> FinishRelease();
  Task<absl::Status> FinishReclaim(uint64_t epoch);
  // It is decided that the VM is this host's, with head_.epoch. The fence's refusal is final.
  Task<absl::Status> RunHereAgain();
  // What stands still may run again only if the fence lets it.
  Task<absl::Status> ClaimIfStopped();
  // The VMM takes the VM back after its state lies at the destination.
  Task<absl::Status> TakeBack();
  // FORCED is written: it runs here, and the session is done. What the destination may have of it
  // is told to end.
  Task<absl::Status> FinishForced();
  // The destination's REFUSED after FORCED: it need not be told any more.
  absl::Status EndForced(const Proof& refused);
  static Task<void> TellForced(Self self);
  std::string ForcedText() const;
  // GIVEN_UP is written.
  Task<absl::Status> FinishGivenUp();
  Task<absl::Status> Offer(std::shared_ptr<PeerClient> peer);
  static Task<void> FindDestination(Self self);
  // By its record the VM is this host's: lets it run. The second one tries again until it does.
  Task<absl::Status> GoOnHere();
  static Task<void> GoOnHereLater(Self self);
  Task<void> RecoverUndecided();
  EndReason Restarted() const;
  // Why the session is called off, for the destination.
  std::string DetailToOffer() const;
  // Called off by the daemon's restart: the VM is this host's, as far as its journal knows.
  Task<absl::Status> RollBackRestarted();
  Task<absl::Status> RollBack(EndReason why);

  schema::MigrationInitializeOptions options_;
  std::string request_;
  std::string sealed_plan_;
  v1::CopyStorage copy_storage_ = v1::COPY_STORAGE_UNSPECIFIED;
  std::vector<vm::DiskMark> disk_marks_;
  std::unique_ptr<SourceCommit> core_;
  std::string go_proof_;
  std::string resumed_proof_;  // of a VM that was given back
  bool abort_told_ = false;
  bool settling_ = false;        // Settle runs
  bool forced_through_ = false;  // FORCED has taken effect on the VM
  bool tell_begun_ = false;      // TellForced was begun, or there is nobody to be told
  bool telling_ = false;         // the destination has yet to be told of FORCED
  bool commit_when_ready_ = false;
  bool commit_started_ = false;
  bool sends_layers_ = false;                  // SendLayers runs
  std::shared_ptr<SessionConnection> layers_;  // while they are sent
  bool sends_disks_ = false;                   // SendDisks runs
  std::shared_ptr<SessionConnection> disks_;   // as long as some are copied
  std::vector<std::string> copied_disks_;      // both hosts have the same of these
  std::vector<vm::DiskPlace> copied_places_;   // of those
  absl::Status transfer_status_;
  std::unique_ptr<StallWatchdog> watchdog_;  // while memory moves
  std::unique_ptr<TimeLimit> time_limit_;    // of the whole
  std::unique_ptr<TimeLimit> blackout_limit_;
  bool memory_moves_ = false;
  std::optional<vm::SwitchoverForce> force_;  // asked for
  ConvergenceWatch convergence_;
  AsyncEvent vm_end_seen_;     // vm_ended_ is set
  AsyncEvent vote_settled_;    // the vote arrived, or there will be none
  AsyncEvent commit_settled_;  // the commit that follows it took place, or failed
  absl::Status commit_status_;
  AsyncEvent released_;

  Clock::time_point stopped_at_;
  Clock::time_point voted_at_;
  bool voted_ = false;
  absl::Status vote_error_;      // why its vote does not count
  bool may_have_voted_ = false;  // the destination: there was a transfer
  bool lost_there_ = false;      // the destination was granted the VM, and it ended there
  v1::MigrationOrigin failed_at_ = v1::MIGRATION_ORIGIN_SOURCE;
  std::optional<EndReason> refused_;  // before the commit
  std::optional<vm::SystemExit> vm_ended_;
};

}  // namespace ferry::migration
