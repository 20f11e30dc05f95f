#include "vmmanager/qemu/qemu_snapshot.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/qemu/json_text.h"
#include "vmmanager/qemu/qemu_command_line.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_migration_settings.h"
#include "vmmanager/qemu/snapshot_job.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;
using schema::SystemState;

uint64_t WholeNumberAt(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  boost::system::error_code error;
  const uint64_t number = value == nullptr ? 0 : value->to_number<uint64_t>(error);
  return error ? 0 : number;
}

DiskSnapshot SnapshotOf(const json::object& fields) {
  constexpr uint64_t kMsPerSecond = 1000;
  constexpr uint64_t kNsPerMs = 1'000'000;
  DiskSnapshot snapshot;
  snapshot.tag = TextAt(fields, "name");
  snapshot.vm_state_bytes = WholeNumberAt(fields, "vm-state-size");
  snapshot.taken_unix_ms = WholeNumberAt(fields, "date-sec") * kMsPerSecond +
                           WholeNumberAt(fields, "date-nsec") / kNsPerMs;
  return snapshot;
}

// By the names of the nodes; those that can have none are not in it.
std::map<std::string, std::vector<DiskSnapshot>> SnapshotsOfNodes(const json::value& answer) {
  std::map<std::string, std::vector<DiskSnapshot>> nodes;
  const json::array* list = answer.if_array();
  if (list == nullptr) return nodes;
  for (const json::value& item : *list) {
    const json::object* node = item.if_object();
    const json::value* image = node == nullptr ? nullptr : node->if_contains("image");
    const json::object* info = image == nullptr ? nullptr : image->if_object();
    if (info == nullptr || TextAt(*node, "drv") != "qcow2") continue;
    std::vector<DiskSnapshot>& snapshots = nodes[TextAt(*node, "node-name")];
    const json::value* all = info->if_contains("snapshots");
    const json::array* entries = all == nullptr ? nullptr : all->if_array();
    if (entries == nullptr) continue;
    for (const json::value& entry : *entries) {
      if (const json::object* fields = entry.if_object()) snapshots.push_back(SnapshotOf(*fields));
    }
  }
  return nodes;
}

absl::StatusOr<SnapshotJob> JobFor(QemuMachine& machine, SnapshotJob::Kind kind,
                                   const SnapshotOptions& options) {
  SnapshotJob job;
  job.kind = kind;
  job.tag = options.tag;
  if (options.disks.empty()) {
    return absl::InvalidArgumentError("a snapshot needs at least one disk");
  }
  for (const DiskPlace& place : options.disks) {
    ASSIGN_OR_RETURN(std::string node, SnapshotNodeOf(machine, place));
    job.nodes.push_back(std::move(node));
  }
  if (kind == SnapshotJob::Kind::kDelete) return job;
  const auto& disks = options.disks;
  if (std::find(disks.begin(), disks.end(), options.vm_state) == disks.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the disk at ", ToText(options.vm_state),
                     " is to take the memory, and is not in the snapshot"));
  }
  ASSIGN_OR_RETURN(job.vm_state, SnapshotNodeOf(machine, options.vm_state));
  return job;
}

absl::Status CheckDisksTakeSnapshots(QemuMachine& machine, const SnapshotOptions& options) {
  const auto& scsi = machine.document().virtual_machine.devices.scsi;
  for (const DiskPlace& place : options.disks) {
    const schema::Attachment& disk = scsi.at(place.controller).attachments.at(place.lun);
    if (disk.format == "qcow2" && !disk.read_only) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the disk at ", ToText(place), " cannot hold snapshots"));
  }
  return absl::OkStatus();
}

// A migration's settings would shape what a snapshot's memory looks like.
Task<absl::Status> SetPlain(std::shared_ptr<QemuMachine> machine) {
  json::object plain = PlainCapabilities(machine->host().capabilities);
  CO_RETURN_IF_ERROR(co_await machine->SetMigrationCapabilities(std::move(plain)));
  json::object parameters = ParametersFor({});
  co_return co_await machine->SetMigrationParameters(std::move(parameters));
}

}  // namespace

absl::StatusOr<std::string> SnapshotNodeOf(QemuMachine& machine, const DiskPlace& place) {
  const auto& scsi = machine.document().virtual_machine.devices.scsi;
  const auto controller = scsi.find(place.controller);
  if (controller != scsi.end()) {
    const auto disk = controller->second.attachments.find(place.lun);
    if (disk != controller->second.attachments.end()) {
      return absl::StrCat(DiskStem(place.controller, place.lun, disk->second), "-fmt");
    }
  }
  return absl::NotFoundError(absl::StrCat("there is no disk at ", ToText(place)));
}

Task<absl::StatusOr<std::vector<DiskSnapshots>>> ListQemuSnapshots(
    std::shared_ptr<QemuMachine> machine) {
  if (machine->state() != SystemState::kRunning && machine->state() != SystemState::kPaused) {
    co_return machine->WrongState("list its snapshots");
  }
  json::object flat = {{"flat", true}};
  CO_ASSIGN_OR_RETURN(const json::value answer,
                      co_await machine->Command("query-named-block-nodes", std::move(flat)));
  auto nodes = SnapshotsOfNodes(answer);
  std::vector<DiskSnapshots> all;
  for (const auto& [controller, scsi] : machine->document().virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      const auto found = nodes.find(absl::StrCat(DiskStem(controller, lun, disk), "-fmt"));
      if (found == nodes.end()) continue;
      all.push_back({{controller, lun}, std::move(found->second)});
    }
  }
  co_return all;
}

Task<absl::Status> SaveQemuSnapshot(std::shared_ptr<QemuMachine> machine, SnapshotOptions options) {
  if (machine->state() != SystemState::kPaused) {
    co_return AsNothingChanged(machine->WrongState("save a snapshot of it (pause it first)"));
  }
  auto job = JobFor(*machine, SnapshotJob::Kind::kSave, options);
  CO_RETURN_IF_ERROR(AsNothingChanged(job.status()));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckDisksTakeSnapshots(*machine, options)));
  auto present = co_await ListQemuSnapshots(machine);
  CO_RETURN_IF_ERROR(AsNothingChanged(present.status()));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckTagIsNew(*present, options.tag)));
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await SetPlain(machine)));
  const SnapshotJobEnd end = co_await RunSnapshotJob(machine, *std::move(job));
  co_return end.status;
}

Task<absl::Status> LoadQemuSnapshot(std::shared_ptr<QemuMachine> machine, SnapshotOptions options) {
  if (machine->state() != SystemState::kPaused) {
    co_return AsNothingChanged(machine->WrongState("load a snapshot of it (pause it first)"));
  }
  auto job = JobFor(*machine, SnapshotJob::Kind::kLoad, options);
  CO_RETURN_IF_ERROR(AsNothingChanged(job.status()));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckDisksTakeSnapshots(*machine, options)));
  auto present = co_await ListQemuSnapshots(machine);
  CO_RETURN_IF_ERROR(AsNothingChanged(present.status()));
  CO_RETURN_IF_ERROR(AsNothingChanged(CheckCanBeLoaded(*present, options)));
  CO_RETURN_IF_ERROR(AsNothingChanged(co_await SetPlain(machine)));
  const SnapshotJobEnd end = co_await RunSnapshotJob(machine, *std::move(job));
  CO_RETURN_IF_ERROR(end.status);
  co_return machine->RenewLink();
}

Task<absl::Status> DeleteQemuSnapshot(std::shared_ptr<QemuMachine> machine, std::string tag,
                                      std::vector<DiskPlace> disks) {
  auto present = co_await ListQemuSnapshots(machine);
  CO_RETURN_IF_ERROR(AsNothingChanged(present.status()));
  auto with = DisksWithTag(*present, disks, tag);
  CO_RETURN_IF_ERROR(AsNothingChanged(with.status()));
  SnapshotOptions options;
  options.tag = std::move(tag);
  options.disks = *std::move(with);
  auto job = JobFor(*machine, SnapshotJob::Kind::kDelete, options);
  CO_RETURN_IF_ERROR(AsNothingChanged(job.status()));
  const SnapshotJobEnd end = co_await RunSnapshotJob(machine, *std::move(job));
  co_return end.status;
}

}  // namespace ferry::vm
