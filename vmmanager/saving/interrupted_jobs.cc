#include "vmmanager/saving/interrupted_jobs.h"

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vmmanager/saving/job_words.h"

namespace ferry::vm {
namespace {

using Result = std::optional<std::string>;

// What it was about, if it is told in these words: "delete web" is about web.
std::optional<std::string> Object(const v1::Job& job, absl::string_view words) {
  absl::string_view what = job.what();
  if (!absl::ConsumePrefix(&what, words)) return std::nullopt;
  return std::string(what);
}

Result JudgeSave(const UtilityVm& vm, const v1::Job& job) {
  const auto saved = vm.saved();
  const bool by_it = saved && saved->saved_unix_ms() >= job.started_unix_ms();
  return by_it ? Result(absl::StrCat("saved in ", saved->file())) : std::nullopt;
}

Result JudgeRestore(const UtilityVm& vm) {
  const v1::VmState state = vm.state();
  const bool runs = state == v1::VM_STATE_RUNNING || state == v1::VM_STATE_PAUSED;
  return runs ? Result("the VM has gone on") : std::nullopt;
}

// Going back to one is never all done: the VM is not what the caller wanted until it runs again.
Result JudgeCheckpoint(const VmInventory& vms, const UtilityVm& vm, const v1::Job& job) {
  if (!job.made_vm_id().empty()) {
    const auto made = vms.Find(job.made_vm_id());
    return made.ok() ? Result(absl::StrCat("made VM ", (*made)->name())) : std::nullopt;
  }
  const CheckpointRecords& records = vm.checkpoints();
  const auto whole = [&records](const std::string& name) {
    const auto found = records.find(name);
    const bool is_there =
        found != records.end() && found->second.stage() == state::v1::CHECKPOINT_STAGE_WHOLE;
    return is_there ? &found->second : nullptr;
  };
  if (const auto name = Object(job, kTake)) {
    const auto* record = whole(*name);
    const bool by_it = record != nullptr && record->taken_unix_ms() >= job.started_unix_ms();
    return by_it ? Result(absl::StrCat("took ", *name)) : std::nullopt;
  }
  if (const auto name = Object(job, kDefine)) {
    return whole(*name) != nullptr ? Result(absl::StrCat("defined ", *name)) : std::nullopt;
  }
  if (const auto name = Object(job, kDelete)) {
    return records.contains(*name) ? std::nullopt : Result(absl::StrCat("deleted ", *name));
  }
  return std::nullopt;
}

Result JudgeSnapshot(const UtilityVm& vm, const v1::Job& job) {
  const SnapshotRecords& records = vm.snapshots();
  if (const auto tag = Object(job, kTake)) {
    const auto found = records.find(*tag);
    const bool by_it = found != records.end() &&
                       found->second.stage() == state::v1::SNAPSHOT_STAGE_WHOLE &&
                       found->second.taken_unix_ms() >= job.started_unix_ms();
    return by_it ? Result(absl::StrCat("took ", *tag)) : std::nullopt;
  }
  const bool was_there = job.progress().phase() == kOfKnownSnapshot;
  if (const auto tag = Object(job, kDelete); tag && was_there && !records.contains(*tag)) {
    return absl::StrCat("deleted ", *tag);
  }
  return std::nullopt;
}

// A VMM may not have changed over yet, though that is written down.
Result JudgeDisk(const UtilityVm& vm, const v1::Job& job) {
  if (vm.moves_disk() && vm.system() != nullptr) return std::nullopt;
  for (const v1::DiskSpec& disk : vm.spec().disks()) {
    const auto to = Object(job, absl::StrCat(kMove, disk.name(), kMoveTo));
    if (to == disk.file()) {
      return absl::StrCat("moved ", disk.name(), "; its former file may still be there");
    }
  }
  return std::nullopt;
}

}  // namespace

JobRegistry::Verdict JudgeInterrupted(const VmInventory& vms) {
  return [&vms](const v1::Job& job) -> Result {
    const auto found = vms.Find(job.vm_id());
    if (!found.ok()) return std::nullopt;
    const UtilityVm& vm = **found;
    switch (job.kind()) {
      case v1::JOB_KIND_SAVE:
        return JudgeSave(vm, job);
      case v1::JOB_KIND_RESTORE:
        return JudgeRestore(vm);
      case v1::JOB_KIND_CHECKPOINT:
        return JudgeCheckpoint(vms, vm, job);
      case v1::JOB_KIND_SNAPSHOT:
        return JudgeSnapshot(vm, job);
      case v1::JOB_KIND_DISK:
        return JudgeDisk(vm, job);
      default:
        return std::nullopt;
    }
  };
}

}  // namespace ferry::vm
