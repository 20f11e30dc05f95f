#include "vmmanager/sandbox/checkpoint_plan.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/wrong_state.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

constexpr size_t kMaxName = 64;
constexpr size_t kMaxDescription = 4096;

absl::Status Contradiction(const std::string& text) { return absl::InvalidArgumentError(text); }

absl::Status Refused(const CheckpointScene& scene, const std::string& why,
                     const std::string& reason, const std::string& next_step) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("no such checkpoint of VM ", scene.vm, " can be taken: ", why), reason,
      next_step);
}

absl::Status CheckHostFile(const std::string& what, const std::string& file) {
  if (file.empty() || file[0] == '/') return absl::OkStatus();
  return Contradiction(absl::StrCat(what, " must be an absolute path on the VM's host"));
}

const v1::CheckpointDiskWish* WishOf(const v1::CreateCheckpointRequest& request,
                                     const std::string& disk) {
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    if (wish.name() == disk) return &wish;
  }
  return nullptr;
}

bool IsUp(v1::VmState state) {
  return state == v1::VM_STATE_RUNNING || state == v1::VM_STATE_PAUSED;
}

// Its agent freezes its filesystems.
absl::Status CheckCanAnswer(const CheckpointScene& scene,
                            const v1::CreateCheckpointRequest& request) {
  const std::string without = absl::StrCat("take it without --quiesce: ferryctl checkpoint create ",
                                           scene.vm, " ", request.name(), " --disk-only");
  if (scene.state == v1::VM_STATE_PAUSED) {
    return Refused(scene, "it is paused, and its guest cannot freeze its filesystems", "vm_paused",
                   absl::StrCat("Resume it (ferryctl vm resume ", scene.vm, "), or ", without));
  }
  if (scene.state == v1::VM_STATE_STOPPED || scene.state == v1::VM_STATE_FAILED) {
    return Refused(scene, "it is stopped, and has no guest that could freeze its filesystems",
                   "vm_not_running",
                   absl::StrCat("Start it (ferryctl start ", scene.vm, "), or ", without));
  }
  return absl::OkStatus();
}

absl::Status CheckState(const CheckpointScene& scene, const v1::CreateCheckpointRequest& request) {
  if (request.quiesce()) RETURN_IF_ERROR(CheckCanAnswer(scene, request));
  if (IsUp(scene.state)) return absl::OkStatus();
  const bool stopped = scene.state == v1::VM_STATE_STOPPED || scene.state == v1::VM_STATE_FAILED;
  // After halt it is stopped, whatever it was before.
  if (stopped && request.paused()) {
    return Refused(
        scene, "it is stopped, and cannot be paused afterwards", "vm_not_running",
        absl::StrCat("Start it (ferryctl start ", scene.vm, "), or leave out --paused."));
  }
  if (stopped && request.disk_only()) return absl::OkStatus();
  if (stopped) {
    return Refused(scene, "it is stopped, and has no memory", "vm_not_running",
                   absl::StrCat("Start it, or take its disks alone: ferryctl checkpoint create ",
                                scene.vm, " ", request.name(), " --disk-only"));
  }
  return WrongState({scene.vm, scene.state, ""}, "taken a checkpoint of",
                    absl::StrCat("no checkpoint of VM ", scene.vm, " can be taken while it is ",
                                 StateName(scene.state)));
}

absl::Status CheckDisk(const CheckpointScene& scene, const v1::CreateCheckpointRequest& request,
                       const std::string& name, const NamedDisk& disk) {
  const v1::CheckpointDiskWish* wish = WishOf(request, name);
  const bool left_out = wish != nullptr && wish->left_out();
  if (left_out && !request.disk_only()) {
    return Refused(scene,
                   absl::StrCat("without the disk ", name,
                                ", which it writes to, memory and disks would not be of one "
                                "instant"),
                   "disk_left_out", "Leave no disk out, or take the disks alone (--disk-only).");
  }
  if (request.memory_only()) {
    return Refused(scene,
                   absl::StrCat("it would go on writing to its disk ", name,
                                ", and its memory would be too old for that at once"),
                   "writable_disks", "Leave out --memory-only.");
  }
  if (request.reuse_existing() && (wish == nullptr || (!left_out && wish->file().empty()))) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("reuse_existing needs the file of each disk, and that of ", name,
                     " is not given"),
        "file_not_named",
        absl::StrCat("Say where it is: --diskspec ", name, ",file=PATH; or leave the disk out."));
  }
  const bool is_device = absl::StartsWith(disk.disk.path, "/dev/");
  if (left_out || !is_device || (wish != nullptr && !wish->file().empty())) return absl::OkStatus();
  return Refused(scene,
                 absl::StrCat("its disk ", name, " is ", disk.disk.path,
                              ", beside which there can be no file"),
                 "no_place_for_overlay",
                 absl::StrCat("Say where it is to go on: --diskspec ", name, ",file=PATH"));
}

absl::Status CheckWishes(const CheckpointScene& scene, const v1::CreateCheckpointRequest& request) {
  std::set<std::string> files;
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    const auto found = scene.disks.find(wish.name());
    if (found == scene.disks.end()) {
      return rpc::ErrorWithReason(
          absl::StatusCode::kInvalidArgument,
          absl::StrCat("VM ", scene.vm, " has no disk '", absl::CHexEscape(wish.name()), "'"),
          "unknown_disk", absl::StrCat("See those it has: ferryctl vm inspect ", scene.vm));
    }
    if (!found->second.writable() && !wish.left_out()) {
      return Refused(scene,
                     absl::StrCat("it only reads its disk ", wish.name(), ", which stays as it is"),
                     "disk_is_read_only", "Leave that disk out of the request.");
    }
    if (!wish.file().empty() && !files.insert(wish.file()).second) {
      return Contradiction(absl::StrCat("two disks are to go on in ", wish.file()));
    }
  }
  return absl::OkStatus();
}

CheckpointDisk PlanDisk(const CheckpointScene& scene, const v1::CreateCheckpointRequest& request,
                        const std::string& name, const NamedDisk& named) {
  CheckpointDisk disk;
  disk.set_name(name);
  disk.set_controller(named.place.controller);
  disk.set_lun(named.place.lun);
  disk.set_file(named.disk.path);
  disk.set_format(named.disk.format);
  disk.set_below(BelowOf(scene.records, named.disk.path));
  disk.set_file_is_overlay(!disk.below().empty() &&
                           !IsUsersOverlay(scene.records, named.disk.path));
  disk.set_overlay_kept(request.reuse_existing());
  const v1::CheckpointDiskWish* wish = WishOf(request, name);
  const bool chosen = wish != nullptr && !wish->file().empty();
  disk.set_overlay(chosen ? wish->file()
                          : OverlayName(scene.records, named.disk.path, request.name()));
  return disk;
}

}  // namespace

absl::Status CheckCheckpointName(const std::string& name) {
  const auto fits = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  const bool begins = !name.empty() && absl::ascii_isalnum(static_cast<unsigned char>(name[0]));
  if (begins && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), fits)) {
    return absl::OkStatus();
  }
  return rpc::ErrorWithReason(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("'", absl::CHexEscape(name.substr(0, kMaxName)),
                   "' cannot be the name of a checkpoint"),
      "bad_name", "Use letters, digits, '.', '_' and '-', at most 64, first a letter or digit.");
}

absl::Status CheckIsNew(const CheckpointScene& scene, const std::string& name) {
  if (!scene.records.contains(name)) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kAlreadyExists,
      absl::StrCat("VM ", scene.vm, " has a checkpoint ", name, " already"), "checkpoint_exists",
      absl::StrCat("Choose another name, or delete that one: ferryctl checkpoint delete ", scene.vm,
                   " ", name));
}

absl::Status CheckMayBeForgotten(const CheckpointScene& scene) {
  if (scene.records.empty()) return absl::OkStatus();
  return Refused(scene,
                 "nothing of it is to be remembered, and what is remembered of its other "
                 "checkpoints would not be true any more",
                 "vm_has_checkpoints",
                 absl::StrCat("Leave out --no-metadata, or delete those first: ferryctl "
                              "checkpoint list ",
                              scene.vm));
}

absl::Status CheckDiskWishes(
    const google::protobuf::RepeatedPtrField<v1::CheckpointDiskWish>& wishes) {
  std::set<std::string> names;
  for (const v1::CheckpointDiskWish& wish : wishes) {
    RETURN_IF_ERROR(CheckHostFile("file of a disk", wish.file()));
    if (!names.insert(wish.name()).second) {
      return Contradiction(
          absl::StrCat("the disk ", absl::CHexEscape(wish.name()), " is named twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const v1::CreateCheckpointRequest& request) {
  RETURN_IF_ERROR(CheckCheckpointName(request.name()));
  if (request.disk_only() && request.memory_only()) {
    return Contradiction("disk_only and memory_only exclude each other");
  }
  if (request.memory_only() && request.reuse_existing()) {
    return Contradiction(
        "reuse_existing is about files that disks go on in, and memory_only is of no disk");
  }
  if (request.halt() && request.paused()) {
    return Contradiction("halt and paused exclude each other");
  }
  const bool of_memory = request.live() || !request.memory_file().empty() || request.has_options();
  if (request.disk_only() && of_memory) {
    return Contradiction(
        "live, memory_file and options are about memory, of which disk_only takes "
        "none");
  }
  if (request.quiesce() && !request.disk_only()) {
    return Contradiction(
        "quiesce goes with disk_only alone: memory that is kept knows what is not on the disks "
        "yet");
  }
  if (request.description().size() > kMaxDescription) {
    return Contradiction(absl::StrCat("the description has ", request.description().size(),
                                      " bytes; it may have ", kMaxDescription));
  }
  if (request.no_metadata() && !request.disk_only() && request.memory_file().empty()) {
    return Contradiction(
        "no_metadata needs memory_file, or disk_only: nobody would know where the memory is");
  }
  RETURN_IF_ERROR(CheckDiskWishes(request.disks()));
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    if (wish.left_out() && !wish.file().empty()) {
      return Contradiction("a disk that is left out goes on in the file that it has");
    }
  }
  return CheckHostFile("memory_file", request.memory_file());
}

std::string OverlayName(const CheckpointRecords& records, const std::string& file,
                        const std::string& name) {
  const std::filesystem::path path(file);
  std::string stem = path.stem().string();
  for (const auto& [other, record] : records) {
    for (const CheckpointDisk& disk : record.disks()) {
      const size_t at = stem.rfind("." + other);
      if (disk.overlay() == file && at != std::string::npos && at != 0) stem.resize(at);
    }
  }
  return absl::StrCat(path.parent_path().string(), "/", stem, ".", name, ".qcow2");
}

bool IsUsersOverlay(const CheckpointRecords& records, const std::string& file) {
  for (const auto& [name, record] : records) {
    for (const CheckpointDisk& disk : record.disks()) {
      if (disk.overlay() == file && disk.overlay_kept()) return true;
    }
  }
  return false;
}

bool NamesFileOf(const v1::CreateCheckpointRequest& request, const std::string& disk) {
  const v1::CheckpointDiskWish* wish = WishOf(request, disk);
  return wish != nullptr && !wish->file().empty();
}

absl::StatusOr<CheckpointRecord> PlanCheckpoint(const CheckpointScene& scene,
                                                const v1::CreateCheckpointRequest& request) {
  RETURN_IF_ERROR(CheckRequest(request));
  RETURN_IF_ERROR(CheckIsNew(scene, request.name()));
  if (request.no_metadata()) RETURN_IF_ERROR(CheckMayBeForgotten(scene));
  RETURN_IF_ERROR(CheckState(scene, request));
  RETURN_IF_ERROR(CheckWishes(scene, request));
  CheckpointRecord record;
  record.set_schema_version(kStateSchemaVersion);
  record.set_stage(state::v1::CHECKPOINT_STAGE_MAKING);
  record.set_parent(CurrentCheckpoint(scene.records));
  record.set_description(request.description());
  record.set_state(!IsUp(scene.state)                   ? "stopped"
                   : scene.state == v1::VM_STATE_PAUSED ? "paused"
                                                        : "running");
  for (const auto& [name, disk] : scene.disks) {
    if (!disk.writable()) continue;
    RETURN_IF_ERROR(CheckDisk(scene, request, name, disk));
    const v1::CheckpointDiskWish* wish = WishOf(request, name);
    if (wish != nullptr && wish->left_out()) continue;
    *record.add_disks() = PlanDisk(scene, request, name, disk);
  }
  if (request.disk_only() && record.disks().empty()) {
    return Refused(scene, "there is no disk to be taken", "no_disks",
                   "Take its memory (without --disk-only).");
  }
  if (request.reuse_existing() && record.disks().empty()) {
    return Refused(scene, "none of its disks goes on in a file that could be there already",
                   "no_disks", "Leave out --reuse-existing.");
  }
  return record;
}

absl::Status CheckStillFits(const CheckpointScene& scene, const CheckpointRecord& planned,
                            bool with_memory) {
  const auto of_plan = static_cast<size_t>(planned.disks_size());
  size_t matching = 0;
  for (const CheckpointDisk& disk : planned.disks()) {
    const auto now = scene.disks.find(disk.name());
    const bool same = now != scene.disks.end() && now->second.disk.path == disk.file();
    // A lower checkpoint may have been deleted since.
    if (same && BelowOf(scene.records, disk.file()) == disk.below()) ++matching;
  }
  const auto writable =
      static_cast<size_t>(std::count_if(scene.disks.begin(), scene.disks.end(),
                                        [](const auto& entry) { return entry.second.writable(); }));
  const bool same_parent = CurrentCheckpoint(scene.records) == planned.parent();
  const bool all = !with_memory || writable == of_plan;
  if (same_parent && matching == of_plan && all) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kAborted,
                              absl::StrCat("the disks of VM ", scene.vm, " changed meanwhile"),
                              "disks_changed", "Try again.");
}

}  // namespace ferry::vm
