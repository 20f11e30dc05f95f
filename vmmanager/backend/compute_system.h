#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/transport/transport.h"
#include "vmmanager/backend/backend_info.h"
#include "vmmanager/backend/disk_copies.h"
#include "vmmanager/backend/disk_trouble.h"
#include "vmmanager/backend/overlays.h"
#include "vmmanager/backend/snapshots.h"
#include "vmmanager/schema/compute_system.h"
#include "vmmanager/schema/migration.h"

// The backend port: HCS's verbs on one utility VM. The QEMU backend and the in-memory fake
// implement it and pass the same conformance suite (backend_conformance.h). A native HCS backend
// must be able to slot in, so nothing here speaks of QEMU.
namespace ferry::vm {

// Type of an error's payload, of no content: the VM did not get to run because another process has
// one of its writable disks open.
inline constexpr char kDiskInUse[] = "ferry.vm/disk_in_use";

// The same of an error of FinalizeLiveMigration on the destination: the guest has not run, and will
// not. Without it, it may have.
inline constexpr char kHasNotRun[] = "ferry.vm/has_not_run";

// Why a compute system is not running any more.
struct SystemExit {
  enum class Cause { kShutdown, kReset, kPanic, kTerminated, kCrashed };
  Cause cause = Cause::kCrashed;
  std::string detail;      // for people, e.g. which signal ended the VMM
  std::string last_words;  // what the VMM and the guest's console printed last; any bytes
};

// Progress of the memory transfer, as far as the backend knows it.
struct TransferProgress {
  uint64_t pass = 0;
  uint64_t transferred_bytes = 0;
  uint64_t remaining_bytes = 0;
  uint64_t total_bytes = 0;
  uint64_t bytes_per_second = 0;
  uint64_t dirty_bytes_per_second = 0;
  uint32_t throttle_percent = 0;  // by which the guest's CPUs are slowed down
  bool forced = false;            // the switchover comes whatever is left to send
  // Of disks that are copied, with what the guest has written since; 0: none are.
  uint64_t disk_done_bytes = 0;
  uint64_t disk_total_bytes = 0;
  uint64_t disk_write_limit =
      0;  // bytes per second that the guest may write to them; 0: any number
};

// What a compute system tells on its own: HCS's live-migration events, exits and run-state changes.
struct SystemEvent {
  enum class Kind {
    kExited,  // exit is set
    kPaused,
    kResumed,
    kDiskTrouble,       // it was paused because of a disk: ListDiskTroubles() says which
    kMigration,         // migration is set: an HCS live-migration event
    kTransferProgress,  // progress is set
  };
  Kind kind = Kind::kExited;
  std::chrono::steady_clock::time_point when;  // as exact as the backend can tell
  SystemExit exit;
  schema::MigrationEvent migration;
  TransferProgress progress;
};

// Where the VM's memory goes to or comes from. Local names only: the session connection carries the
// bytes between hosts.
struct MigrationEndpoint {
  // A Unix stream socket. On the source the backend connects to it, once per channel; on the
  // destination the backend listens there.
  std::string unix_path;
};

// Lets the migration controller take part in the source's switchover.
struct TransferHooks {
  // If set: called once the VM is stopped for the switchover, before on_stopped, with what is left
  // to send then. An error calls the switchover off.
  std::function<absl::Status(const TransferProgress&)> check_rest;
  // Awaited once the VM is stopped for the switchover and before its last state is sent. An error
  // calls the switchover off and the VM runs on.
  std::function<Task<absl::Status>()> on_stopped;
};

// How a transfer that does not come to its end is brought there.
enum class SwitchoverForce {
  kPauseGuest,  // the guest is paused, so that the rest can move
  kLiftLimits,  // the guest is stopped as soon as may be, whatever is left to send
};

class ComputeSystem {
 public:
  virtual ~ComputeSystem() = default;

  virtual const std::string& id() const = 0;

  // Runs a created system. With destination migration options it only gets ready to receive
  // (kIncoming) and runs no guest code. Its network cards are plugged in, and carry nothing but
  // while it runs, or is paused without having been sent; when it has come or come back from
  // elsewhere, it announces where it is.
  virtual Task<absl::Status> Start(const schema::StartOptions& options,
                                   const MigrationEndpoint* endpoint) = 0;
  virtual Task<absl::Status> Pause() = 0;
  virtual Task<absl::Status> Resume() = 0;

  // Asks the guest to power off (ACPI); Terminate ends it at once and returns when it has ended.
  virtual Task<absl::Status> Shutdown() = 0;
  virtual Task<absl::Status> Terminate() = 0;

  // Writes the whole state into `stream`, a pipe or a connected socket that somebody reads, and
  // closes it; the system must be paused, and stays so. Start() as a migration's destination takes
  // it back. options.save_state_file_path only says where it goes from there.
  virtual Task<absl::Status> Save(const schema::SaveOptions& options, UniqueFd stream) = 0;

  // The same while the guest runs. The system must be paused, and the state is of that instant:
  // once what changes at once is safe it runs (`on_running` is called then, at most once), and its
  // memory is written behind its back. Returns when all is written. It can be paused meanwhile, and
  // stays so; whatever else is asked of it waits. An error with the payload kNothingChanged has
  // left it paused and the stream empty, and says that this cannot be done here (UNIMPLEMENTED) or
  // not now; after any other it may run, or have ended.
  virtual Task<absl::Status> SaveBehind(const schema::SaveOptions& options, UniqueFd stream,
                                        std::function<void()> on_running) = 0;

  // Lets disks go on in their overlays, all of them at one instant or none. The system runs or is
  // paused. The document has the new files from then on. After an error none has changed, unless
  // there was no answer (DEADLINE_EXCEEDED, UNAVAILABLE).
  virtual Task<absl::Status> AddOverlays(std::vector<DiskOverlay> overlays) = 0;
  // The reverse, of one disk: what is in the file on top goes into the one below, which the disk
  // goes on in (of that format: "qcow2" or "raw"). The system runs or is paused; it takes as long
  // as what there is to be written. Once both files have the same content the system stands still
  // for a moment: place(true) is awaited, and then the disk goes on in the file below. If either
  // fails the disk stays in its overlay, and place(false) is awaited, before the system goes on. If
  // there was no answer (DEADLINE_EXCEEDED, UNAVAILABLE) neither may have happened, and the system
  // may stand still: ListDiskFiles() says where the disk is.
  // May be repeated after an error. FAILED_PRECONDITION if there is nothing below.
  virtual Task<absl::Status> MergeOverlay(DiskPlace disk, std::string format, PlaceDiskFile place,
                                          MergeProgress progress) = 0;
  // The same of a file that lies further below, while the disk goes on in what it has on top: what
  // lay over it lies over the file under it then, and it is closed. The system runs or is paused.
  // It may be repeated after an error: what was done is not done again. Whether all of it has
  // reached the disk is for the caller to see.
  virtual Task<absl::Status> MergeLowerOverlay(LowerOverlay lower, MergeProgress progress) = 0;
  // Lets a disk that is written to go on in another file, without what is below it: copied while
  // the system runs or is paused, and changed over as MergeOverlay does, with place(true) for the
  // new file. FAILED_PRECONDITION if it holds snapshots. Nothing is to be taken from the target
  // before it has ended.
  virtual Task<absl::Status> MoveDisk(DiskPlace disk, DiskTarget target, PlaceDiskFile place,
                                      MergeProgress progress) = 0;
  // Which file each writable disk is written to now. Ends what a former call left on its way, so
  // that it stays true.
  virtual Task<absl::StatusOr<DiskFiles>> ListDiskFiles() = 0;
  // Where it has one now.
  virtual Task<absl::StatusOr<std::set<DiskPlace>>> ListDisks() = 0;
  // Makes a disk that can be written to larger; its guest is told.
  virtual Task<absl::Status> ResizeDisk(DiskPlace disk, uint64_t bytes) = 0;
  // Those that it has stood still for since it was resumed last.
  virtual Task<absl::StatusOr<std::vector<DiskTrouble>>> ListDiskTroubles() = 0;

  // Snapshots inside the system's disks. Each call takes as long as the disks do, cannot be
  // cancelled, and stops everything else that is asked of the system meanwhile. An error with the
  // payload kNothingChanged left all as it was.
  // The system must be paused, and stays so. A failed call leaves nothing of the tag, unless it got
  // no answer (DEADLINE_EXCEEDED, UNAVAILABLE).
  virtual Task<absl::Status> SaveSnapshot(SnapshotOptions options) = 0;
  // Puts disks and memory back to that instant. The system must be paused, and stays so. After an
  // error without kNothingChanged the disks may be of that time and the memory of this one: the
  // system must be ended, and not resumed.
  virtual Task<absl::Status> LoadSnapshot(SnapshotOptions options) = 0;
  // NOT_FOUND if none of these disks has it; where only some do it goes from those.
  virtual Task<absl::Status> DeleteSnapshot(std::string tag, std::vector<DiskPlace> disks) = 0;
  // Of all disks that can have any, also those of other makers.
  virtual Task<absl::StatusOr<std::vector<DiskSnapshots>>> ListSnapshots() = 0;

  virtual Task<absl::Status> Modify(const schema::ModifySettingRequest& request) = 0;
  virtual Task<absl::StatusOr<schema::Properties>> GetProperties(
      const schema::PropertyQuery& query) = 0;

  // The migration verbs, in the order of a migration. Each returns FAILED_PRECONDITION out of
  // order. Source: Initialize, Start, Transfer, Finalize. Destination: Start (above), Transfer,
  // Finalize.
  virtual Task<absl::Status> InitializeLiveMigrationOnSource(
      const schema::MigrationInitializeOptions& options) = 0;
  virtual Task<absl::Status> StartLiveMigrationOnSource(
      const schema::MigrationStartOptions& options, const MigrationEndpoint& endpoint) = 0;

  // Source: moves memory until both sides are stopped and the destination has confirmed that it
  // loaded everything. Destination: waits for the same. On the source an error means that the guest
  // runs on there. Progress and phases come as events meanwhile.
  virtual Task<absl::Status> StartLiveMigrationTransfer(
      const schema::MigrationTransferOptions& options, TransferHooks hooks) = 0;

  // Source, while Transfer moves memory: forces the switchover. The guest runs again afterwards,
  // here or there, if it ran before.
  virtual Task<absl::Status> ForceSwitchover(SwitchoverForce how) = 0;

  // Disks that the other host does not see. They are copied while the guest runs, once the source
  // is initialized and the destination started, and before the source's Start.
  // Destination: takes what is written to these disks at `unix_path`, where it listens until
  // CloseDisks(). Their files are empty disks of the source's sizes, and nobody else's.
  virtual Task<absl::Status> OpenDisks(std::vector<DiskPlace> disks, std::string unix_path) = 0;
  // What was written there is on the disk, and no more can be. Idempotent; before Finalize.
  virtual Task<absl::Status> CloseDisks() = 0;
  // Source: writes these disks to the ones of the same places at `unix_path`, once for each a
  // connection, and returns when both have the same content, or nearly; what the guest writes from
  // then on follows, and never fails for that. That is not limited; those that have not been the
  // same yet keep to what it leaves of the migration's bandwidth, an eighth at least. A guest that
  // writes more than can be followed is slowed down until the migration ends, if it may be
  // throttled. An error leaves nothing behind; it may have a payload (disk_copies.h).
  virtual Task<absl::Status> MirrorDisks(std::vector<DiskMirror> disks, std::string unix_path,
                                         TellCopied tell) = 0;
  // Source, once the system is stopped for the switchover: the other host has all that was written,
  // on its disks, and gets no more. An error if one does not, with a payload as above;
  // CancelLiveMigration ends mirrors, too.
  virtual Task<absl::Status> SealMirrors(std::vector<DiskPlace> disks) = 0;

  // Stop ends the system here, Resume runs it here. The caller has made sure that only one side
  // does the latter.
  virtual Task<absl::Status> FinalizeLiveMigration(
      const schema::MigrationFinalizedOptions& options) = 0;

  // Calls off a migration that has not been finalized. The source's guest runs on (if it ran); the
  // destination's system ends. Legal at any time during a migration, also while Transfer runs,
  // which then returns CANCELLED. Idempotent. With the source's origin, one that came by a
  // migration is left as it is, running or not, and nothing is left to be finalized: that migration
  // is over for whoever adopted it.
  virtual Task<absl::Status> CancelLiveMigration(const schema::MigrationCancelOptions& options) = 0;

  // Events in order. One reader; the queue closes after kExited.
  virtual AsyncQueue<SystemEvent>& events() = 0;

  // The host's end of the guest link; owned by the system and valid as long as it. On a migration's
  // destination it may be listened on before the guest runs.
  virtual bridge::HostTransport& guest_transport() = 0;

  // Opaque text from which Backend::Adopt finds the running system again after this process died.
  virtual std::string adoption_record() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;

  // The memory that VMs of this host share with whatever else runs in the same place.
  virtual absl::StatusOr<HostMemory> memory() const = 0;

  // Whether this host could plug that card in now. FAILED_PRECONDITION says why not and what to do
  // about it, for people; nothing stays of the attempt.
  virtual Task<absl::Status> CheckAdapter(schema::NetworkAdapter adapter) = 0;

  // Makes a system from its document without running it. `id` is the VM's UUID text.
  virtual Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Create(
      const std::string& id, const schema::ComputeSystem& document) = 0;

  // Takes over a system that a former process of this daemon left running. NOT_FOUND if it has
  // ended meanwhile.
  virtual Task<absl::StatusOr<std::unique_ptr<ComputeSystem>>> Adopt(
      const std::string& id, const schema::ComputeSystem& document,
      const std::string& adoption_record) = 0;

  // Ends what former processes of this daemon left running and none of these adoption records
  // names: a daemon may die between starting a system and remembering it. Call it before anything
  // is created.
  virtual Task<void> EndAllBut(std::vector<std::string> adoption_records) = 0;
};

}  // namespace ferry::vm
