#include "vmmanager/qemu/qemu_snapshot.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/open_images.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/snapshot_job.h"

namespace ferry::vm {
namespace {

using schema::SystemState;

using DiskNodes = std::map<DiskPlace, DiskNode>;

absl::StatusOr<SnapshotJob> JobFor(const DiskNodes& nodes, SnapshotJob::Kind kind,
                                   const SnapshotOptions& options) {
  SnapshotJob job;
  job.kind = kind;
  job.tag = options.tag;
  if (options.disks.empty()) {
    return absl::InvalidArgumentError("a snapshot needs at least one disk");
  }
  for (const DiskPlace& place : options.disks) {
    ASSIGN_OR_RETURN(DiskNode node, NodeAt(nodes, place));
    job.nodes.push_back(std::move(node.name));
  }
  if (kind == SnapshotJob::Kind::kDelete) return job;
  const auto& disks = options.disks;
  if (std::find(disks.begin(), disks.end(), options.vm_state) == disks.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the disk at ", ToText(options.vm_state),
                     " is to take the memory, and is not in the snapshot"));
  }
  ASSIGN_OR_RETURN(DiskNode memory, NodeAt(nodes, options.vm_state));
  job.vm_state = std::move(memory.name);
  return job;
}

absl::Status CheckDisksTakeSnapshots(const DiskNodes& nodes, const SnapshotOptions& options) {
  for (const DiskPlace& place : options.disks) {
    const DiskNode& disk = nodes.at(place);
    const bool is_whole = disk.data_file.empty();
    if (disk.driver == "qcow2" && !disk.read_only && is_whole) continue;
    // QEMU 7.2 dies of memory that it is to put into such a one.
    const std::string why = is_whole ? "" : absl::StrCat(": its data is in ", disk.data_file);
    return absl::FailedPreconditionError(
        absl::StrCat("the disk at ", ToText(place), " cannot hold snapshots", why));
  }
  return absl::OkStatus();
}

std::vector<DiskSnapshots> SnapshotsIn(const DiskNodes& nodes) {
  std::vector<DiskSnapshots> all;
  for (const auto& [place, node] : nodes) {
    if (node.driver == "qcow2") all.push_back({place, node.snapshots});
  }
  return all;
}

// QEMU writes what came with a state into a firmware's variable store when the guest runs next. It
// waits for that once for each state (pflash_post_load), forgets all but the last, and dies of the
// others.
absl::Status CheckTakesAState(QemuMachine& machine) {
  const bool has_store = machine.document().virtual_machine.chipset.uefi.has_value();
  if (!has_store || !machine.took_state()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "it has not run since it was restored, moved or taken back, or since ferryd was restarted, "
      "and QEMU cannot take another state for a machine with UEFI firmware before it has; resume "
      "it for a moment first");
}

}  // namespace

Task<absl::StatusOr<std::vector<DiskSnapshots>>> ListQemuSnapshots(
    std::shared_ptr<QemuMachine> machine) {
  if (machine->state() != SystemState::kRunning && machine->state() != SystemState::kPaused) {
    co_return machine->WrongState("list its snapshots");
  }
  CO_ASSIGN_OR_RETURN(const DiskNodes nodes, co_await DiskNodesOf(machine));
  co_return SnapshotsIn(nodes);
}

Task<absl::Status> SaveQemuSnapshot(std::shared_ptr<QemuMachine> machine, SnapshotOptions options) {
  if (machine->state() != SystemState::kPaused) {
    co_return AsNothingChanged(machine->WrongState("save a snapshot of it (pause it first)"));
  }
  const auto nodes = co_await DiskNodesOf(machine);
  CO_RETURN_IF_ERROR(AsNothingChanged(nodes.status()));
  auto job = JobFor(*nodes, SnapshotJob::Kind::kSave, options);
  CO_RETURN_IF_ERROR(AsNothingChanged(job.status()));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckDisksTakeSnapshots(*nodes, options)));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckTagIsNew(SnapshotsIn(*nodes), options.tag)));
  // A migration's settings would shape what a snapshot's memory looks like, and QEMU 7.2 dies of
  // multifd.
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await machine->SetPlainMigration()));
  // Of one that came paused, and has not run since.
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await OpenImages(machine.get(), job->nodes)));
  const SnapshotJobEnd end = co_await RunSnapshotJob(machine, *std::move(job));
  co_return end.status;
}

Task<absl::Status> LoadQemuSnapshot(std::shared_ptr<QemuMachine> machine, SnapshotOptions options) {
  if (machine->state() != SystemState::kPaused) {
    co_return AsNothingChanged(machine->WrongState("load a snapshot of it (pause it first)"));
  }
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckTakesAState(*machine)));
  const auto nodes = co_await DiskNodesOf(machine);
  CO_RETURN_IF_ERROR(AsNothingChanged(nodes.status()));
  auto job = JobFor(*nodes, SnapshotJob::Kind::kLoad, options);
  CO_RETURN_IF_ERROR(AsNothingChanged(job.status()));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckDisksTakeSnapshots(*nodes, options)));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckCanBeLoaded(SnapshotsIn(*nodes), options)));
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await machine->SetPlainMigration()));
  // Of one that came paused, and has not run since.
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await OpenImages(machine.get(), job->nodes)));
  const bool took = machine->took_state();
  machine->set_took_state(true);
  const SnapshotJobEnd end = co_await RunSnapshotJob(machine, *std::move(job));
  if (end.status.GetPayload(kNothingChanged)) machine->set_took_state(took);
  CO_RETURN_IF_ERROR(end.status);
  co_return machine->RenewLink();
}

Task<absl::Status> DeleteQemuSnapshot(std::shared_ptr<QemuMachine> machine, std::string tag,
                                      std::vector<DiskPlace> disks) {
  if (machine->state() != SystemState::kRunning && machine->state() != SystemState::kPaused) {
    co_return AsNothingChanged(machine->WrongState("delete a snapshot of it"));
  }
  const auto nodes = co_await DiskNodesOf(machine);
  CO_RETURN_IF_ERROR(AsNothingChanged(nodes.status()));
  auto with = DisksWithTag(SnapshotsIn(*nodes), disks, tag);
  CO_RETURN_IF_ERROR(AsNothingChanged(with.status()));
  SnapshotOptions options;
  options.tag = std::move(tag);
  // For each time that a disk is named QEMU deletes one of its states of that tag.
  options.disks = *std::move(with);
  auto job = JobFor(*nodes, SnapshotJob::Kind::kDelete, options);
  CO_RETURN_IF_ERROR(AsNothingChanged(job.status()));
  // Of one that came paused, and has not run since.
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await OpenImages(machine.get(), job->nodes)));
  const SnapshotJobEnd end = co_await RunSnapshotJob(machine, *std::move(job));
  co_return end.status;
}

}  // namespace ferry::vm
