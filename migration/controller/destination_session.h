#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "migration/controller/migration_session.h"
#include "vmmanager/sandbox/arriving_disks.h"
#include "vmmanager/schema/migration.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {

// Whether somebody may say that the source was forced: its daemon may, and an admin.
enum class MayForce { kNo, kYes };

// The destination's side of one migration.
class DestinationSession final : public MigrationSession {
 public:
  // Only the host `peer_name` may open its session connection, if that is given.
  DestinationSession(const ControllerDeps& deps, std::string session_id, std::string peer_name = "")
      : MigrationSession(deps, std::move(session_id), v1::MIGRATION_ORIGIN_DESTINATION),
        layers_settled_(deps.executor()),
        layers_called_off_(deps.executor()),
        layers_over_(deps.executor()),
        cut_arrived_(deps.executor()),
        word_arrived_(deps.executor()) {
    peer_name_ = std::move(peer_name);
    layers_settled_.Set();
    layers_over_.Set();
  }

  // Goes on with what a former daemon process left; see Recover().
  DestinationSession(const ControllerDeps& deps, const FormerSession& former);

  // Opens the sealed plan and checks that this host can run what it describes. All or nothing.
  Task<absl::Status> Import(v1::ImportSandboxRequest request);
  // For a caller that lost the answer. ALREADY_EXISTS if it brings another plan.
  Task<absl::Status> ImportAgain(v1::ImportSandboxRequest request);

  // The containers that come with it.
  std::vector<v1::IncomingContainer> Incoming() const;
  // Says what one of them is on this host.
  Task<absl::StatusOr<v1::BindContainerResponse>> Bind(v1::BindContainerRequest request);
  // Expects the layers that this host lacks; a connection that does not come, or breaks, is given
  // up, and may be asked for again. As long as none has come, that has the same answer; while the
  // layers come, it waits for their end.
  Task<absl::StatusOr<v1::ReceiveLayersResponse>> ReceiveLayers();

  // The disks whose content comes with it.
  std::vector<v1::IncomingDisk> IncomingDisks() const;
  // Expects their content, once the VM is prepared; has the same answer as long as that has not
  // come.
  Task<absl::StatusOr<v1::ReceiveDisksResponse>> ReceiveDisks();

  // Makes the VM's system ready to receive. Absent options are the source's; given ones must not
  // contradict those.
  Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(
      std::optional<v1::InitializeOptions> options);

  Task<absl::Status> Transfer(v1::TransferSandboxRequest request) override;
  Task<absl::StatusOr<std::string>> Finalize(v1::FinalizeAction action, std::string proof) override;
  Task<absl::Status> Cancel(std::string reason) override;
  Task<void> AwaitWork() override;
  vm::AdoptionClaim Claim() const override;
  Task<void> Recover(std::shared_ptr<vm::UtilityVm> vm) override;

  // The source's GO, ABORT or FORCED; returns the DONE or REFUSED that follows from it.
  Task<absl::StatusOr<std::string>> Settle(std::string proof, MayForce may_force);
  static absl::Status CheckMayForce(MayForce may_force);

  // Was a mere record, and is there again for the source's FORCED only.
  void Revive();
  bool revived() const { return revived_; }

 protected:
  Role role() const override { return Role::kDestination; }
  void LetGo() override;
  bool may_expire() const override;
  Task<void> Expire(EndReason why) override;
  Task<void> ForgetVm() override;

 private:
  using Self = std::shared_ptr<DestinationSession>;
  Self self() { return std::static_pointer_cast<DestinationSession>(shared_from_this()); }

  absl::StatusOr<schema::MigrationInitializeOptions> AgreedOptions(
      const std::optional<v1::InitializeOptions>& options) const;
  absl::Status CheckRoom() const;
  // Containers can be bound: the VM was imported, and is not prepared yet.
  absl::Status CheckBinds(const std::string& call) const;
  void MakeArrivals(const vm::PlanState& plan);
  absl::StatusOr<std::string> MakeToken() const;
  // ReceiveLayers while deciding_ is held and none are coming.
  Task<absl::StatusOr<v1::ReceiveLayersResponse>> ExpectLayers();
  Task<absl::Status> CheckLayerRoom(std::map<std::string, uint64_t> wanted);
  static Task<void> TakeLayers(Self self, std::map<std::string, uint64_t> wanted);
  Task<absl::Status> TakeLayersFrom(std::shared_ptr<SessionConnection> connection,
                                    std::map<std::string, uint64_t> wanted);
  // Whether there is somebody to take layers for.
  bool wants_layers() const;
  // What came is the containers', or nobody's if the session has ended.
  Task<absl::Status> KeepLayers();
  // All that they consist of is here, and stays.
  Task<absl::Status> PrepareContainers();
  vm::ArrivalFolder Arrivals() const;
  // All disks that come, containers' too, as both ends call them, and where they are in the VM.
  std::map<std::string, vm::DiskPlace> DisksToCome() const;
  absl::Status PlaceDisks(std::vector<vm::ArrivingDisk> copies, schema::ComputeSystem* document,
                          v1::VmSpec* spec, std::string* spec_json);
  std::set<std::string> AwaitedDisks() const;
  Task<absl::Status> CheckDiskRoom();
  Task<absl::Status> MakeDisks();
  static Task<void> TakeDisks(Self self, std::string socket_path);
  // The source says that it sent all of them, and it is so; no more comes.
  Task<absl::Status> TakeLastOfDisks(std::vector<std::string> copied);
  // They are no drafts any more. Until that is so, the session has not ended.
  Task<absl::Status> KeepDisks();
  // Who has the layers that come until their containers have.
  std::string LayerOwner() const;
  Task<void> DropLayerPin();
  Task<absl::Status> TakeStep(absl::StatusOr<std::optional<DestinationStep>> step);
  Task<DestinationCommit::Copy> LookAtCopy();
  static Task<void> AwaitDecision(Self self);
  static Task<void> RefuseEnded(Self self);

  static Task<void> RunTransfer(Self self, v1::TransferSandboxRequest request);
  Task<absl::Status> Receive(const v1::TransferSandboxRequest& request);
  Task<absl::Status> Vote();
  static Task<void> ReadMessages(Self self, std::shared_ptr<SessionConnection> connection);
  Task<void> HandleProof(std::string bytes);
  void OnSystemEvent(const vm::SystemEvent& event);

  Task<EndReason> WhyFailed(absl::Status status);
  absl::StatusOr<v1::PrepareSandboxResponse> PreparedAs(const std::string& options) const;
  Task<absl::StatusOr<std::string>> Stop(std::string proof);
  enum class GoCame {
    kBySession,  // at once, over the session connection
    kByOthers    // a caller carried it, or the source has brought it again
  };
  Task<absl::StatusOr<std::string>> Run(Proof go, GoCame came);
  // The fence lets this host run the VM. Until GRANTED, refuses the session if it does not; what
  // runs already is not refused any more.
  Task<absl::Status> ClaimFence();
  // Until GRANTED, refuses the session if what was voted for has ended.
  Task<void> RefuseIfGone();
  // GRANTED is in the journal, and the daemon was restarted or cannot record that it runs. The
  // second one tries again until both are so; TryAgainLater starts it, once.
  Task<absl::Status> GoOnGranted();
  static Task<void> GoOnGrantedLater(Self self);
  void TryAgainLater();
  // GRANTED is written.
  Task<absl::StatusOr<std::string>> RunGranted(Proof go, GoCame came,
                                               Clock::time_point go_received);
  // It runs here, or is lost, whether or not that can be recorded: its containers' users do not
  // wait for that. Once.
  void TellContainers();
  static Task<void> VmArrived(Self self);
  // Those that go with their VM could not, as long as it had not been recorded that it came.
  void RemoveDoneContainers();
  // RUNNING is written.
  void FinishRunning(std::optional<v1::BlackoutExitedDetails> blackout);
  Task<absl::StatusOr<std::string>> Refuse(EndReason why);
  // The same while deciding_ is held; on the source's word if `abort` is given.
  Task<absl::StatusOr<std::string>> RefuseNow(EndReason why, std::optional<Proof> abort);
  // REFUSED is written.
  Task<void> FinishRefuse();
  // The source was forced to run the VM: ends what there is of it here, also if it was granted.
  Task<absl::StatusOr<std::string>> OnForced(Proof forced);
  // The copy that this session brought here; nullptr if it is gone, or if what is here of the VM
  // came later.
  std::shared_ptr<vm::UtilityVm> StaleCopy() const;
  // FAILED_PRECONDITION, naming where it is, if the VM that was granted has moved on since.
  Task<absl::Status> CheckStillHere();
  Task<absl::StatusOr<std::string>> DestinationOf(std::string session_id);
  absl::Status HoldStale();
  Task<absl::Status> EndStale();
  Task<absl::Status> FinishSupersede();
  EndReason Failed(std::string word, std::string message) const;
  // Notices, by the source's word, if this host's journal was put back. deciding_ is held.
  Task<void> NoteIfPutBack(Proof word);
  EndReason PutBack() const;

  std::unique_ptr<DestinationCommit> core_;
  DestinationRecord former_record_ = DestinationRecord::kNone;  // before this daemon process
  JournalTrust former_trust_ = JournalTrust::kWhole;
  std::unique_ptr<SessionListener::Expectation> expectation_;
  std::shared_ptr<vm::ContainerArrivals> arrivals_;  // nullptr: no containers come
  AsyncEvent layers_settled_;                        // none are coming
  AsyncEvent layers_called_off_;                     // nor will any come
  AsyncEvent layers_over_;                           // nobody awaits, takes or keeps any
  std::unique_ptr<SessionListener::Expectation> layers_expected_;
  v1::ReceiveLayersResponse layers_answer_;    // as long as they are expected
  std::shared_ptr<SessionConnection> layers_;  // while they come
  std::vector<vm::ArrivingDisk> arriving_disks_;
  bool disks_taken_ = false;  // all that was to come has
  std::unique_ptr<SessionListener::Expectation> disks_expected_;
  std::optional<v1::ReceiveDisksResponse> disks_answer_;
  std::shared_ptr<SessionConnection> disks_;  // from when they begin to come
  std::string incoming_path_;
  std::string sealed_plan_;
  std::string sealed_cut_;
  AsyncEvent cut_arrived_;   // or it never will
  AsyncEvent word_arrived_;  // refused, or the source is gone
  std::string prepared_options_;
  std::optional<v1::PrepareSandboxResponse> prepared_;
  std::string done_proof_;
  std::string refused_proof_;
  std::string said_;  // why what was granted does not go on, as it was told last
  bool containers_told_ = false;
  bool running_ = false;  // DONE is made
  bool tries_again_ = false;
  bool verify_ = false;  // the vote says what was received
  bool revived_ = false;
  std::string lost_;  // why there is no VM any more although it was granted; else empty
  std::optional<Clock::time_point> vote_sent_at_;
  Clock::time_point resumed_at_;
};

}  // namespace ferry::migration
