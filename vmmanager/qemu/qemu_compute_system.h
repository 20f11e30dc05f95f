#pragma once

#include <memory>
#include <string>
#include <vector>

#include "vmmanager/backend/compute_system.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_migration.h"

namespace ferry::vm {

// HCS's verbs on one QEMU. Destroying it leaves QEMU running, to be adopted later; what runs is
// ended by Terminate.
class QemuComputeSystem : public ComputeSystem {
 public:
  QemuComputeSystem(std::shared_ptr<const QemuHost> host, const std::string& id,
                    const schema::ComputeSystem& document);
  ~QemuComputeSystem() override;

  // Takes over a running QEMU; see Backend::Adopt.
  Task<absl::Status> Adopt(std::string record);

  const std::string& id() const override;
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
  AsyncQueue<SystemEvent>& events() override;
  bridge::HostTransport& guest_transport() override;
  std::string adoption_record() const override;

 private:
  // The machine with its migration. Running calls hold it, so it may outlive this object.
  struct Parts : std::enable_shared_from_this<Parts> {
    Parts(std::shared_ptr<QemuMachine> m)
        : machine(std::move(m)), migration(*machine), jobs(machine->host().executor) {}
    std::shared_ptr<QemuMachine> machine;
    QemuMigration migration;
    AsyncMutex jobs;  // one at a time: what works on the disks, or writes the state
    // Set while SaveBehind() runs: once QEMU has let the guest go, or will not.
    std::shared_ptr<AsyncEvent> let_go;
    bool may_mirror = false;  // there may be mirrors of its disks to end
  };
  // Whatever copies its disks ends, also what a former daemon left.
  static Task<absl::Status> EndMirrors(std::shared_ptr<Parts> parts);

  std::shared_ptr<Parts> parts_;
};

}  // namespace ferry::vm
