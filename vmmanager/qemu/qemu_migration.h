#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "vmmanager/qemu/bandwidth_share.h"
#include "vmmanager/qemu/mirror_watch.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_migration_settings.h"

namespace ferry::vm {

// The migration verbs on one QEMU, as source or as destination. Calls hold the machine alive.
class QemuMigration : public MigrationObserver {
 public:
  explicit QemuMigration(QemuMachine& machine);
  ~QemuMigration() override;

  // Gets a QEMU that was started with -incoming ready to receive at the endpoint.
  Task<absl::Status> Listen(schema::MigrationInitializeOptions options, MigrationEndpoint endpoint);

  Task<absl::Status> Initialize(schema::MigrationInitializeOptions options);
  Task<absl::Status> Start(MigrationEndpoint endpoint);
  Task<absl::Status> Transfer(schema::MigrationTransferOptions options, TransferHooks hooks);
  Task<absl::Status> ForceSwitchover(SwitchoverForce how);
  Task<absl::Status> Finalize(schema::MigrationFinalizedOptions options);
  Task<absl::Status> Cancel(schema::MigrationOrigin origin);

  // Finds out where the migration of an adopted QEMU stands.
  Task<absl::Status> Recover();

  // The user pauses the guest: its stop is no blackout, and it stays paused on both sides.
  void NoteUserPause();
  bool active() const { return stage_ != Stage::kNone; }
  // Disks are mirrored to the other host beside it, from now until it ends.
  void NoteMirrors() { mirrors_ = true; }
  MirrorLimits mirror_limits() const { return {max_bandwidth(), write_limit_}; }
  // All of the VM has been sent, and it has not run here since.
  bool state_sent() const { return stage_ == Stage::kTransferred && origin_ == Origin::kSource; }

  bool OnRunState(bool running, std::chrono::steady_clock::time_point when) override;
  void OnMigrationEvent(const QmpEvent& event, std::chrono::steady_clock::time_point when) override;
  void OnExit() override;

 private:
  using Origin = schema::MigrationOrigin;
  enum class Stage { kNone, kInitialized, kStarted, kTransferring, kTransferred };

  // What Transfer reacts to.
  struct Signal {
    enum class Kind { kStatus, kPass, kSample, kExited, kCancel };
    Kind kind = Kind::kSample;
    std::string status;
    uint64_t pass = 0;
    std::chrono::steady_clock::time_point when{};
  };

  Task<absl::Status> ForgetArrival();
  static Task<void> Sample(std::shared_ptr<AsyncQueue<Signal>> signals);
  Task<absl::Status> Configure(boost::json::object parameters);
  Task<absl::Status> TransferOut(TransferHooks hooks);
  Task<absl::Status> DriveOut(TransferHooks& hooks);
  Task<absl::Status> React(const Signal& signal, TransferHooks& hooks);
  Task<absl::Status> TransferIn();
  Task<absl::Status> SwitchOver(TransferHooks& hooks, std::chrono::steady_clock::time_point when);
  Task<absl::Status> RunHook(TransferHooks& hooks);
  Task<absl::Status> Abort(absl::Status reason);
  Task<absl::Status> StopStream();
  Task<absl::Status> AwaitStreamEnd();
  Task<absl::Status> RunOnHere();
  Task<absl::Status> FailureOf(const std::string& status);
  Task<void> OnPass(uint64_t pass);
  // The numbers as they are now; nullopt if there are none yet.
  Task<std::optional<TransferProgress>> Measure();
  Task<std::optional<TransferProgress>> ReportProgress();
  // Leaves disks that are mirrored what they take of the bandwidth, and slows the guest's writes to
  // them down if nothing else helps.
  Task<void> KeepLimits(std::optional<TransferProgress> progress);
  // The same without this object, which may be gone before QEMU has answered.
  static Task<std::optional<TransferProgress>> MeasureAt(std::shared_ptr<QemuMachine> machine,
                                                         bool forced);
  static Task<void> ReportLast(std::shared_ptr<QemuMachine> machine, bool forced);
  Task<absl::Status> FinalizeSource(schema::MigrationFinalOperation operation);
  Task<absl::Status> FinalizeDestination(const schema::MigrationFinalizedOptions& options);
  static Task<void> ResetSettings(std::shared_ptr<QemuMachine> machine);
  void Tell(schema::MigrationEventName name,
            schema::MigrationResult result = schema::MigrationResult::kSuccess,
            std::chrono::steady_clock::time_point when = std::chrono::steady_clock::now());
  void TellBlackout(std::chrono::steady_clock::time_point when);
  bool StreamOver() const;
  // In bytes per second; 0: no limit.
  uint64_t max_bandwidth() const { return options_.max_bandwidth.value_or(0); }

  QemuMachine& machine_;
  Stage stage_ = Stage::kNone;
  Origin origin_ = Origin::kSource;
  schema::MigrationInitializeOptions options_;
  MigrationEndpoint endpoint_;
  bool ran_before_ = false;
  bool user_paused_ = false;
  bool blackout_told_ = false;
  bool cancelled_ = false;
  bool mirrors_ = false;
  std::optional<BandwidthShare> share_;                  // of a limited bandwidth
  std::shared_ptr<WriteLimit> write_limit_;              // if the guest may be slowed down
  bool forced_ = false;                                  // the switchover is being forced
  bool lifted_ = false;                                  // whatever is left to send
  std::string status_;                                   // of this run, from events only
  std::chrono::steady_clock::time_point reported_at_{};  // its progress, last
  std::optional<std::chrono::steady_clock::time_point> resumed_at_;
  std::shared_ptr<AsyncQueue<Signal>> signals_;
  AsyncEvent cancel_;
  AsyncEvent transfer_over_;
};

}  // namespace ferry::vm
