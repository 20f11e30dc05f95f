#include "vmmanager/sandbox/checkpoint_moves.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/checkpoint_plan.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/schema/compute_system.h"
#include "vmmanager/state/saved_state.h"
#include "vmmanager/state/unknown_fields.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointDisk;
using state::v1::CheckpointPayload;
using state::v1::CheckpointRecord;

constexpr size_t kMostCheckpoints = 10'000;

absl::Status HoldsBack(const std::string& vm_name, const std::string& checkpoint,
                       const std::string& why, const std::string& instead) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("VM ", vm_name, " cannot be migrated: its checkpoint ", checkpoint, " ", why),
      "vm_has_checkpoints",
      absl::StrCat("Delete it (ferryctl checkpoint delete ", vm_name, " ", checkpoint, ")",
                   instead));
}

std::set<std::string> FilesNeededBy(const CheckpointRecord& record) {
  std::set<std::string> files;
  for (const CheckpointDisk& disk : record.disks()) files.insert(disk.file());
  if (!record.memory_file().empty()) files.insert(record.memory_file());
  return files;
}

absl::Status NotSeenHere(const std::string& checkpoint, const std::string& file,
                         const std::string& why) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("of checkpoint ", checkpoint, " the file ", file,
                   " is not what its source sees: ", why),
      "checkpoint_not_seen",
      "Put it on storage that both hosts see under that path, or delete the checkpoint.");
}

absl::StatusOr<CheckpointRecord> ReadCarried(const CheckpointPayload& payload) {
  CheckpointRecord record;
  const bool readable = record.ParseFromString(payload.record()) &&
                        record.schema_version() == kStateSchemaVersion &&
                        record.stage() == state::v1::CHECKPOINT_STAGE_WHOLE;
  if (!readable) {
    return absl::InvalidArgumentError(
        absl::StrCat("the config's checkpoint ", payload.name(), " cannot be read"));
  }
  RETURN_IF_ERROR(CheckCheckpointName(payload.name()));
  RETURN_IF_ERROR(RefuseUnknownCritical(record));
  // The source has said of each of them what it is.
  std::set<std::string> described;
  for (const state::v1::DiskGeneration& file : payload.files()) described.insert(file.path());
  if (described != FilesNeededBy(record)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the config does not describe the files of checkpoint ", payload.name()));
  }
  return record;
}

absl::Status NotOfACheckpoint(const std::string& file) {
  return absl::InvalidArgumentError(
      absl::StrCat("the config's checkpoints have a file that none can have: ", file));
}

// A host removes what it takes for a checkpoint's, so every file that is named must be one. Returns
// all that are, with the checkpoint that names them.
absl::StatusOr<std::map<std::string, std::string>> CheckNames(const CheckpointRecords& records,
                                                              std::set<std::string> known) {
  std::map<std::string, std::string> named;
  for (const auto& [name, record] : records) {
    for (const std::string& file : FilesNeededBy(record)) named.emplace(file, name);
    known.merge(FilesNeededBy(record));
  }
  size_t current = 0;
  for (const auto& [name, record] : records) {
    current += record.current() ? 1 : 0;
    bool good = record.parent().empty() || records.contains(record.parent());
    for (const CheckpointDisk& disk : record.disks()) {
      for (const std::string& file : {disk.below(), disk.overlay()}) {
        good = good && (file.empty() || known.contains(file));
        if (!file.empty()) named.emplace(file, name);
      }
    }
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrCat("the config's checkpoint ", name, " names what is no part of it"));
    }
  }
  if (current > 1) {
    return absl::InvalidArgumentError("the config has several current checkpoints");
  }
  return named;
}

// None of them may be the daemon's own.
Task<absl::Status> CheckNoneOfThemIn(std::string state_folder,
                                     std::map<std::string, std::string> files, FileReads* reads) {
  for (const auto& [file, checkpoint] : files) {
    if (!CheckFolderPath("a checkpoint's file", file).ok()) co_return NotOfACheckpoint(file);
    const auto ours = co_await LiesWithin(reads, file, state_folder);
    if (!ours.ok()) {
      co_return NotSeenHere(checkpoint, file, std::string(ours.status().message()));
    }
    if (*ours) co_return NotOfACheckpoint(file);
  }
  co_return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> DiskFilesOf(const state::v1::VmPayload& vm) {
  ASSIGN_OR_RETURN(const schema::ComputeSystem document,
                   schema::ComputeSystemFromJson(vm.hcs_document_json()));
  std::set<std::string> files;
  for (const auto& [controller, scsi] : document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) files.insert(disk.path);
  }
  return files;
}

}  // namespace

absl::Status CheckCheckpointsMayMove(const std::string& vm_name, const CheckpointRecords& records) {
  for (const auto& [name, record] : records) {
    if (!record.memory_file().empty() && !record.memory_kept()) {
      return HoldsBack(
          vm_name, name, "keeps its memory in this host's own folder",
          "; the memory of those that are to move with their VM goes where both hosts see "
          "it (--memspec), or is left out (--disk-only).");
    }
    for (const CheckpointDisk& disk : record.disks()) {
      if (disk.container_id().empty()) continue;
      return HoldsBack(vm_name, name, "has the scratch disk of a container in it", ".");
    }
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<std::vector<CheckpointPayload>>> DescribeForMove(CheckpointRecords records,
                                                                     std::set<std::string> vm_files,
                                                                     FileReads* reads) {
  for (const auto& [name, record] : records) vm_files.merge(FilesNeededBy(record));
  std::vector<CheckpointPayload> all;
  for (auto& [name, record] : records) {
    for (CheckpointDisk& disk : *record.mutable_disks()) {
      // Where the VM once went on and does not any more.
      if (!vm_files.contains(disk.overlay())) disk.clear_overlay();
    }
    CheckpointPayload& payload = all.emplace_back();
    payload.set_name(name);
    payload.set_record(record.SerializeAsString());
    for (std::string file : FilesNeededBy(record)) {
      CO_ASSIGN_OR_RETURN(*payload.add_files(), co_await ReadGeneration(std::move(file), reads));
    }
  }
  co_return all;
}

Task<absl::StatusOr<CheckpointRecords>> FitCheckpoints(state::v1::VmPayload vm,
                                                       std::string state_folder, FileReads* reads) {
  CheckpointRecords records;
  if (vm.checkpoints_size() == 0) co_return records;
  if (static_cast<size_t>(vm.checkpoints_size()) > kMostCheckpoints) {
    co_return absl::InvalidArgumentError("the config has too many checkpoints");
  }
  for (const CheckpointPayload& one : vm.checkpoints()) {
    CO_ASSIGN_OR_RETURN(CheckpointRecord record, ReadCarried(one));
    if (!records.emplace(one.name(), std::move(record)).second) {
      co_return absl::InvalidArgumentError(
          absl::StrCat("the config has two checkpoints ", one.name()));
    }
  }
  CO_RETURN_IF_ERROR(CheckCheckpointsMayMove(vm.vm_name(), records));
  CO_ASSIGN_OR_RETURN(const std::set<std::string> disks, DiskFilesOf(vm));
  CO_ASSIGN_OR_RETURN(auto files, CheckNames(records, disks));
  CO_RETURN_IF_ERROR(co_await CheckNoneOfThemIn(std::move(state_folder), std::move(files), reads));
  for (const CheckpointPayload& one : vm.checkpoints()) {
    for (const state::v1::DiskGeneration& there : one.files()) {
      const auto here = co_await ReadGeneration(there.path(), reads);
      if (!here.ok()) {
        co_return NotSeenHere(one.name(), there.path(), std::string(here.status().message()));
      }
      const bool same = here->inode() == there.inode() && here->bytes() == there.bytes() &&
                        here->modified_ns() == there.modified_ns();
      if (!same) co_return NotSeenHere(one.name(), there.path(), "it is another one, or a copy");
    }
  }
  co_return records;
}

}  // namespace ferry::vm
