#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "vmmanager/backend/compute_system.h"
#include "vmmanager/backend/fake_guest_link.h"

namespace ferry::vm {

class FakeComputeSystem;

// A snapshot in a fake's disk.
struct FakeDiskSnapshot {
  DiskSnapshot seen;
  uint64_t counter = 0;  // the guest's, if memory is in it
};

// What a test scripts into the fake: failures and stops by verb name, e.g. "Start" or "Transfer".
class FakeScript {
 public:
  explicit FakeScript(Executor executor) : executor_(executor) {}

  // The next call of `verb` fails with `status`.
  void FailNext(const std::string& verb, absl::Status status) { failures_[verb] = status; }
  // Calls of `verb` wait until Release(verb).
  void Block(const std::string& verb);
  void Release(const std::string& verb);
  // Returns when a call of `verb` is waiting.
  Task<void> WaitBlocked(const std::string& verb);

  Task<absl::Status> Pass(std::string verb);

  uint64_t pages = 8;             // that a transfer sends
  uint64_t page_bytes = 64;       // of each
  uint64_t disk_write_limit = 0;  // of a guest whose disks are copied
  // Shapes the numbers that a transfer reports, and those that check_rest is given.
  std::function<void(TransferProgress&)> shape_progress = [](TransferProgress&) {};
  std::vector<std::string> migration_blockers;  // why no system can be migrated
  std::string compatibility_info = "fake-1";
  std::string last_words;  // of each system that ends
  bool ending = false;     // its end is on its way
  // In place of a fake link, for a real agent; outlives the systems. One VM at a time.
  bridge::HostTransport* guest_transport = nullptr;
  // What is in the disks, which outlive their systems; by path.
  std::map<std::string, std::vector<FakeDiskSnapshot>> snapshots;
  // What each of the files on top of others is on top of; by path, as if it stood in them.
  std::map<std::string, std::string> backing_files;
  // Those that were mirrored last without what they lie over.
  std::set<DiskPlace> mirrored_over;
  // A system runs its guest for the first time, so that the guest can dial its host.
  std::function<void(FakeComputeSystem&)> on_first_run;

 private:
  struct Gate {
    explicit Gate(Executor executor) : open(executor), reached(executor) {}
    AsyncEvent open;
    AsyncEvent reached;
  };
  Executor executor_;
  std::map<std::string, absl::Status> failures_;
  std::map<std::string, std::shared_ptr<Gate>> gates_;
};

// The machine itself, which outlives its handle as a VMM process outlives its daemon. Its guest is
// a counter.
struct FakeMachine {
  enum class Stage { kNone, kInitialized, kStarted, kTransferring, kTransferred };

  std::string id;
  std::string token;
  schema::SystemState state = schema::SystemState::kCreated;
  uint64_t counter = 0;
  uint64_t memory_mb = 0;
  schema::ComputeSystem document;                   // as it was made
  std::map<std::string, schema::Attachment> disks;  // that came while it ran, by resource path
  Stage stage = Stage::kNone;                       // of its migration
  schema::MigrationOrigin origin = schema::MigrationOrigin::kSource;
  bool ran_before = false;  // the blackout
  std::vector<DiskTrouble> troubles;
  std::map<DiskPlace, uint64_t> sizes;
  std::map<DiskPlace, UniqueFd> mirrors;  // that reach another host, by their connections
};

class FakeComputeSystem final : public ComputeSystem {
 public:
  FakeComputeSystem(Executor executor, std::shared_ptr<FakeScript> script,
                    std::shared_ptr<FakeMachine> machine);

  const std::string& id() const override { return machine_->id; }
  Task<absl::Status> Start(const schema::StartOptions& options,
                           const MigrationEndpoint* endpoint) override;
  Task<absl::Status> Pause() override;
  Task<absl::Status> Resume() override;
  Task<absl::Status> Shutdown() override;
  Task<absl::Status> Terminate() override;
  Task<absl::Status> Save(const schema::SaveOptions& options, UniqueFd stream) override;
  Task<absl::Status> SaveBehind(const schema::SaveOptions& options, UniqueFd stream,
                                std::function<void()> on_running) override;
  Task<absl::Status> AddOverlays(std::vector<DiskOverlay> overlays) override;
  Task<absl::Status> MergeOverlay(DiskPlace disk, std::string format, PlaceDiskFile place,
                                  MergeProgress progress) override;
  Task<absl::Status> MergeLowerOverlay(LowerOverlay lower, MergeProgress progress) override;
  Task<absl::Status> MoveDisk(DiskPlace disk, DiskTarget target, PlaceDiskFile place,
                              MergeProgress progress) override;
  Task<absl::StatusOr<DiskFiles>> ListDiskFiles() override;
  Task<absl::StatusOr<std::set<DiskPlace>>> ListDisks() override;
  Task<absl::Status> ResizeDisk(DiskPlace disk, uint64_t bytes) override;
  Task<absl::StatusOr<std::vector<DiskTrouble>>> ListDiskTroubles() override;
  Task<absl::Status> SaveSnapshot(SnapshotOptions options) override;
  Task<absl::Status> LoadSnapshot(SnapshotOptions options) override;
  Task<absl::Status> DeleteSnapshot(std::string tag, std::vector<DiskPlace> disks) override;
  Task<absl::StatusOr<std::vector<DiskSnapshots>>> ListSnapshots() override;
  Task<absl::Status> Modify(const schema::ModifySettingRequest& request) override;
  Task<absl::StatusOr<schema::Properties>> GetProperties(
      const schema::PropertyQuery& query) override;
  Task<absl::Status> InitializeLiveMigrationOnSource(
      const schema::MigrationInitializeOptions& options) override;
  Task<absl::Status> StartLiveMigrationOnSource(const schema::MigrationStartOptions& options,
                                                const MigrationEndpoint& endpoint) override;
  Task<absl::Status> StartLiveMigrationTransfer(const schema::MigrationTransferOptions& options,
                                                TransferHooks hooks) override;
  Task<absl::Status> ForceSwitchover(SwitchoverForce how) override;
  Task<absl::Status> OpenDisks(std::vector<DiskPlace> disks, std::string unix_path) override;
  Task<absl::Status> CloseDisks() override;
  Task<absl::Status> MirrorDisks(std::vector<DiskMirror> disks, std::string unix_path,
                                 TellCopied tell) override;
  Task<absl::Status> SealMirrors(std::vector<DiskPlace> disks) override;
  Task<absl::Status> FinalizeLiveMigration(
      const schema::MigrationFinalizedOptions& options) override;
  Task<absl::Status> CancelLiveMigration(const schema::MigrationCancelOptions& options) override;
  AsyncQueue<SystemEvent>& events() override { return events_; }
  bridge::HostTransport& guest_transport() override {
    return script_->guest_transport != nullptr ? *script_->guest_transport : link_;
  }
  std::string adoption_record() const override { return machine_->token; }

  // The guest's own doing. Step() is refused (false) unless the guest runs.
  bool Step(uint64_t steps = 1);
  uint64_t counter() const { return machine_->counter; }
  const std::map<std::string, schema::Attachment>& disks() const { return machine_->disks; }
  // Of those that were made larger.
  const std::map<DiskPlace, uint64_t>& sizes() const { return machine_->sizes; }
  schema::SystemState state() const { return machine_->state; }
  size_t mirrors() const { return machine_->mirrors.size(); }
  bool disks_open() const { return disks_listener_.valid(); }
  // How the switchover was forced, if it was.
  std::optional<SwitchoverForce> forced() const { return forced_; }
  FakeGuestLink& link() { return link_; }
  // As a VMM looks to which a migration has brought everything.
  void PretendArrived() {
    machine_->origin = schema::MigrationOrigin::kDestination;
    machine_->stage = Stage::kTransferred;
  }
  void Exit(SystemExit::Cause cause, std::string detail);
  // A disk does not do what the guest wants of it.
  void Fail(DiskTrouble trouble);

 private:
  using Stage = FakeMachine::Stage;

  absl::Status WrongState(const char* verb) const;
  std::map<DiskPlace, schema::Attachment> Disks() const;
  // nullptr if there is none.
  schema::Attachment* DiskAt(const DiskPlace& place);
  absl::Status CheckWritable(const std::vector<DiskPlace>& disks);
  Task<absl::Status> ChangeOver(std::string verb, PlaceDiskFile put);
  absl::Status WriteState(const UniqueFd& stream, uint64_t counter);
  std::vector<DiskSnapshots> Snapshots() const;
  absl::Status CheckSnapshotDisks(const SnapshotOptions& options) const;
  void Tell(schema::MigrationEventName name,
            schema::MigrationResult result = schema::MigrationResult::kSuccess);
  void Emit(SystemEvent event);
  void SetRunning(bool running);
  void StopForBlackout();
  TransferProgress ProgressAfter(uint64_t pages) const;
  Task<absl::Status> TransferOut(TransferHooks hooks);
  Task<absl::Status> SendMemory(bridge::Connection& channel);
  Task<absl::Status> SwitchOver(bridge::Connection& channel, TransferHooks& hooks);
  Task<absl::Status> TransferIn();
  Task<absl::Status> ReceiveAll(bridge::Connection& channel);
  Task<absl::Status> RunTransfer(TransferHooks hooks);
  absl::Status RollBack(absl::Status reason);

  Executor executor_;
  std::shared_ptr<FakeScript> script_;
  std::shared_ptr<FakeMachine> machine_;
  AsyncQueue<SystemEvent> events_;
  FakeGuestLink link_;
  std::string unix_path_;
  UniqueFd listener_;
  UniqueFd disks_listener_;  // valid while disks are open for what comes
  AsyncEvent cancel_;
  AsyncEvent ended_;
  AsyncEvent transfer_over_;
  bool exited_ = false;
  bool cancelled_ = false;
  bool guest_ran_ = false;
  bool blackout_told_ = false;
  // Set while SaveBehind() runs: once the guest has been let go, or will not be.
  std::shared_ptr<AsyncEvent> let_go_;
  std::optional<SwitchoverForce> forced_;
};

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(Executor executor);

  const BackendInfo& info() const override { return info_; }
  absl::StatusOr<HostMemory> memory() const override { return memory_; }
  Task<absl::Status> CheckAdapter(schema::NetworkAdapter adapter) override;
  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Create(
      const std::string& id, const schema::ComputeSystem& document) override;
  Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Adopt(
      const std::string& id, const schema::ComputeSystem& document,
      const std::string& adoption_record) override;
  Task<void> EndAllBut(std::vector<std::string> adoption_records) override;

  FakeScript& script() { return *script_; }
  BackendInfo& mutable_info() { return info_; }
  HostMemory& mutable_memory() { return memory_; }
  std::set<std::string>& mutable_bridges() { return bridges_; }
  // The newest system of that id, or nullptr; valid as long as its owner keeps it.
  FakeComputeSystem* Find(const std::string& id) const;
  // Whether a machine of that id runs its guest, whether or not somebody still keeps its handle.
  bool Runs(const std::string& id) const;

 private:
  std::unique_ptr<ComputeSystem> Hand(std::shared_ptr<FakeMachine> machine);

  Executor executor_;
  BackendInfo info_{.name = "fake",
                    .version = "1",
                    .accelerator = "none",
                    .accelerator_reason = "the fake runs no guest code",
                    .machine_type = "fake-1",
                    .cpu_model = "any",
                    .machine_types = {"fake-1"},
                    .cpu_models = {{"any", {}, {"add", "sub"}}, {"plain", {}, {}}}};
  HostMemory memory_{64 * 1024, 32 * 1024};
  std::set<std::string> bridges_;  // of its host, which has no taps
  std::shared_ptr<FakeScript> script_;
  std::map<std::string, std::shared_ptr<FakeMachine>> machines_;
  std::map<std::string, FakeComputeSystem*> systems_;
  uint64_t made_ = 0;
};

}  // namespace ferry::vm
