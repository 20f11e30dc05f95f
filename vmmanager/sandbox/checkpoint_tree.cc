#include "vmmanager/sandbox/checkpoint_tree.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointRecord;

v1::VmState StateOf(const std::string& text) {
  if (text == "running") return v1::VM_STATE_RUNNING;
  return text == "paused" ? v1::VM_STATE_PAUSED : v1::VM_STATE_STOPPED;
}

v1::Checkpoint Describe(const std::string& name, const CheckpointRecord& record) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name(name);
  checkpoint.set_description(record.description());
  checkpoint.set_taken_unix_ms(record.taken_unix_ms());
  checkpoint.set_parent(record.parent());
  checkpoint.set_current(record.current());
  checkpoint.set_state(StateOf(record.state()));
  checkpoint.set_whole(record.stage() == state::v1::CHECKPOINT_STAGE_WHOLE);
  for (const state::v1::CheckpointDisk& its : record.disks()) {
    v1::CheckpointDisk* disk = checkpoint.add_disks();
    disk->set_name(its.name());
    disk->set_file(its.file());
    disk->set_format(its.format());
  }
  checkpoint.set_memory_file(record.memory_file());
  checkpoint.set_memory_bytes(record.memory_bytes());
  checkpoint.set_file_bytes(record.file_bytes());
  checkpoint.set_method(record.method());
  checkpoint.set_stood_still_us(record.stood_still_us());
  checkpoint.set_processes(record.processes());
  checkpoint.set_containers(record.containers());
  checkpoint.set_quiesced(record.quiesced());
  return checkpoint;
}

void AddFollowers(const CheckpointRecords& records, const std::string& of,
                  std::vector<v1::Checkpoint>& all) {
  for (const std::string& name : FollowersOf(records, of)) {
    all.push_back(Describe(name, records.at(name)));
    AddFollowers(records, name, all);
  }
}

absl::Status HasBranches(const std::string& vm_name, const std::string& name,
                         const std::string& disk, size_t ways) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("checkpoint ", name, " of VM ", vm_name, " cannot be deleted: ", ways,
                   " ways go on from its disk ", disk),
      "checkpoint_has_branches",
      absl::StrCat("Delete what comes after it on all but one of them first; see: ferryctl "
                   "checkpoint tree ",
                   vm_name));
}

// The overlays over a file: other checkpoints' files, and perhaps the VM's.
std::set<std::string> Above(const CheckpointRecords& records, const std::set<std::string>& vm_files,
                            const std::string& file) {
  std::set<std::string> above;
  for (const auto& [name, record] : records) {
    for (const state::v1::CheckpointDisk& disk : record.disks()) {
      if (disk.below() == file) above.insert(disk.file());
      if (disk.file() == file && vm_files.contains(disk.overlay())) above.insert(disk.overlay());
    }
  }
  return above;
}

// Whoever had the overlay has the file instead.
void Rename(CheckpointRecords& records, const state::v1::CheckpointDisk& merged,
            const std::string& overlay) {
  for (auto& [name, record] : records) {
    for (state::v1::CheckpointDisk& disk : *record.mutable_disks()) {
      if (disk.below() == overlay) disk.set_below(merged.file());
      if (disk.file() != overlay) continue;
      if (disk.taken_as().empty()) disk.set_taken_as(disk.file());
      disk.set_file(merged.file());
      disk.set_format(merged.format());
      disk.set_file_is_overlay(merged.file_is_overlay());
      disk.set_below(merged.below());
    }
  }
}

// What is below the file is below the VM then; whose the file was, it still is.
void GoesOnIn(CheckpointRecords& records, const state::v1::CheckpointDisk& merged) {
  if (merged.below().empty()) return;
  for (auto& [name, record] : records) {
    for (state::v1::CheckpointDisk& disk : *record.mutable_disks()) {
      if (disk.file() != merged.below()) continue;
      disk.set_overlay(merged.file());
      disk.set_overlay_kept(!merged.file_is_overlay());
    }
  }
}

// An overlay that is put over another file is another generation of itself.
void NoteRewritten(CheckpointRecords& records, const std::set<std::string>& files) {
  for (auto& [name, record] : records) {
    for (state::v1::CheckpointDisk& disk : *record.mutable_disks()) {
      if (files.contains(disk.file()) && disk.taken_as().empty()) disk.set_taken_as(disk.file());
    }
  }
}

}  // namespace

std::string CurrentCheckpoint(const CheckpointRecords& records) {
  for (const auto& [name, record] : records) {
    if (record.current()) return name;
  }
  return "";
}

std::string UnsettledCheckpoint(const CheckpointRecords& records) {
  for (const auto& [name, record] : records) {
    if (record.stage() != state::v1::CHECKPOINT_STAGE_WHOLE) return name;
  }
  return "";
}

std::vector<std::string> FollowersOf(const CheckpointRecords& records, const std::string& name) {
  std::vector<std::string> followers;
  for (const auto& [each, record] : records) {
    if (record.parent() == name && each != name) followers.push_back(each);
  }
  std::stable_sort(followers.begin(), followers.end(),
                   [&records](const std::string& a, const std::string& b) {
                     return records.at(a).taken_unix_ms() < records.at(b).taken_unix_ms();
                   });
  return followers;
}

std::set<std::string> FilesOf(const CheckpointRecords& records) {
  std::set<std::string> files;
  for (const auto& [name, record] : records) {
    for (const state::v1::CheckpointDisk& disk : record.disks()) {
      files.insert(disk.file());
      if (!disk.below().empty()) files.insert(disk.below());
    }
  }
  return files;
}

std::vector<v1::Checkpoint> DescribeCheckpoints(const CheckpointRecords& records) {
  std::vector<v1::Checkpoint> all;
  AddFollowers(records, "", all);
  return all;
}

state::v1::SavedRecord MemoryOf(const std::string& name, const CheckpointRecord& record) {
  state::v1::SavedRecord saved;
  saved.set_schema_version(kStateSchemaVersion);
  saved.set_file(record.memory_file());
  saved.set_sha256(record.memory_sha256());
  saved.set_kept(true);
  saved.set_saved_unix_ms(record.taken_unix_ms());
  saved.set_file_bytes(record.file_bytes());
  saved.set_memory_bytes(record.memory_bytes());
  saved.set_key_file(record.key_file());
  saved.set_checkpoint(name);
  for (const state::v1::CheckpointDisk& disk : record.disks()) {
    state::v1::SavedOverlay* its = saved.add_overlays();
    its->set_file(disk.taken_as().empty() ? disk.file() : disk.taken_as());
    its->set_overlay(disk.overlay());
    if (disk.has_generation()) *its->mutable_below() = disk.generation();
    its->set_format(disk.format());
  }
  return saved;
}

std::string CheckpointOfMemory(const CheckpointRecords& records, const std::string& sha256) {
  for (const auto& [name, record] : records) {
    const bool has_memory = !record.memory_file().empty();
    if (has_memory && record.memory_sha256() == sha256) return name;
  }
  return "";
}

absl::Status NoSuchCheckpoint(const std::string& vm_name, const std::string& name) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kNotFound, absl::StrCat("VM ", vm_name, " has no checkpoint ", name),
      "no_such_checkpoint",
      absl::StrCat("See those there are: ferryctl checkpoint list ", vm_name));
}

std::string BelowOf(const CheckpointRecords& records, const std::string& vm_file) {
  for (const auto& [name, record] : records) {
    for (const state::v1::CheckpointDisk& disk : record.disks()) {
      if (disk.overlay() == vm_file) return disk.file();
    }
  }
  return "";
}

std::vector<std::string> ChainBelow(const CheckpointRecords& records, const std::string& vm_file) {
  std::map<std::string, std::string> below;
  for (const auto& [name, record] : records) {
    for (const state::v1::CheckpointDisk& disk : record.disks()) {
      below.emplace(disk.file(), disk.below());
    }
  }
  std::vector<std::string> chain;
  std::string next = BelowOf(records, vm_file);
  // Records that contradict each other must not make it endless.
  while (!next.empty() && chain.size() < below.size()) {
    chain.push_back(next);
    next = below[next];
  }
  return chain;
}

CheckpointRecords WithoutOverlays(const CheckpointRecords& records,
                                  const std::set<std::string>& files) {
  CheckpointRecords changed;
  for (const auto& [name, record] : records) {
    CheckpointRecord without = record;
    bool named = false;
    for (state::v1::CheckpointDisk& disk : *without.mutable_disks()) {
      if (!files.contains(disk.overlay())) continue;
      disk.clear_overlay();
      disk.clear_overlay_kept();
      named = true;
    }
    if (named) changed[name] = std::move(without);
  }
  return changed;
}

absl::StatusOr<CheckpointDeletion> PlanDeletion(const std::string& vm_name,
                                                const CheckpointRecords& records,
                                                const std::set<std::string>& vm_files,
                                                const std::string& name) {
  const auto found = records.find(name);
  if (found == records.end()) return NoSuchCheckpoint(vm_name, name);
  const CheckpointRecord& record = found->second;
  CheckpointDeletion deletion;
  CheckpointRecords after = records;
  after.erase(name);
  for (auto& [other, its] : after) {
    if (its.parent() == name) its.set_parent(record.parent());
    if (record.current() && other == record.parent()) its.set_current(true);
  }
  std::set<std::string> left;  // files over which nothing goes on
  for (const state::v1::CheckpointDisk& disk : record.disks()) {
    const std::set<std::string> above = Above(records, vm_files, disk.file());
    if (above.size() > 1) return HasBranches(vm_name, name, disk.name(), above.size());
    // What is merged already, and written down as the VM's.
    if (above.empty() && vm_files.contains(disk.file())) GoesOnIn(after, disk);
    if (above.empty() && !vm_files.contains(disk.file())) left.insert(disk.file());
    if (above.empty()) continue;
    OverlayMerge& merge = deletion.merges.emplace_back();
    merge.disk = disk;
    merge.overlay = *above.begin();
    merge.is_vms = vm_files.contains(merge.overlay);
    const std::set<std::string> higher = Above(records, vm_files, merge.overlay);
    merge.above.assign(higher.begin(), higher.end());
    Rename(after, disk, merge.overlay);
    if (merge.is_vms) GoesOnIn(after, disk);
    NoteRewritten(after, higher);
  }
  // Others may come to be called so.
  for (auto& [other, its] : WithoutOverlays(after, left)) after[other] = its;
  for (const auto& [other, its] : after) {
    if (its.SerializeAsString() != records.at(other).SerializeAsString()) {
      deletion.changed[other] = its;
    }
  }
  return deletion;
}

}  // namespace ferry::vm
