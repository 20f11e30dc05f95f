#include "vmmanager/saving/saved_states.h"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/images/durable_file.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/saving/save_drafts.h"
#include "vmmanager/saving/saving_jobs.h"

namespace ferry::vm {
namespace {

constexpr char kAside[] = ".refused";

absl::Status CannotBeSaved(const UtilityVm& vm, const std::string& why, const std::string& reason,
                           const std::string& next_step) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition,
                              absl::StrCat("VM ", vm.name(), " cannot be saved: ", why), reason,
                              next_step);
}

using FileWork = KeptFiles::Work;

bool Stands(v1::VmState state) {
  return state == v1::VM_STATE_STOPPED || state == v1::VM_STATE_FAILED ||
         state == v1::VM_STATE_SAVED;
}

}  // namespace

SavedStates::SavedStates(VmInventory& vms, ContainerInventory* containers, ImageDigests& digests,
                         SavedStatesOptions options)
    : vms_(vms),
      containers_(containers),
      digests_(digests),
      options_(std::move(options)),
      files_(vms.deps().executor, digests.reads(), options_.folder, options_.state_folder) {}

bool SavedStates::SavesOnStop(const UtilityVm& vm, const v1::StopVmRequest& request) const {
  if (request.force()) return false;
  if (request.has_save()) return request.save();
  if (vm.spec().save_on_stop() == v1::SAVE_ON_STOP_YES) return true;
  return vm.spec().save_on_stop() == v1::SAVE_ON_STOP_UNSPECIFIED && options_.save_on_stop;
}

absl::Status SavedStates::CheckSavable(const UtilityVm& vm, bool live) const {
  RETURN_IF_ERROR(vm.CheckSavable());
  if (live) RETURN_IF_ERROR(CheckMayLiveOn(vm));
  return CheckContainersRest(vm);
}

absl::Status SavedStates::CheckMayLiveOn(const UtilityVm& vm) {
  if (!HasWritableDisks(vm.document())) return absl::OkStatus();
  return CannotBeSaved(vm,
                       "it would go on writing to its disks, and its memory would be too old for "
                       "them at once",
                       "writable_disks",
                       absl::StrCat("Save it without --live: ferryctl save ", vm.name()));
}

absl::Status SavedStates::CheckContainersRest(const UtilityVm& vm) const {
  return returning_.CheckRest(vm, absl::StrCat("VM ", vm.name(), " cannot be saved"));
}

Task<absl::Status> SavedStates::Save(Vm vm, v1::SaveVmRequest request) {
  if (request.to_file().empty() && request.live()) {
    co_return absl::InvalidArgumentError(
        "live needs to_file: a VM that runs on does not go on from its own saved state");
  }
  if (!request.to_file().empty()) {
    CO_RETURN_IF_ERROR(co_await files_.CheckUsers(request.to_file(), "to_file"));
  }
  CO_RETURN_IF_ERROR(CheckSavable(*vm, request.live()));
  const bool own = request.to_file().empty();
  std::string file = request.to_file();
  if (own) {
    CO_ASSIGN_OR_RETURN(file, co_await files_.New(vm->id()));
  }
  JobDescription about = DescribeSave(*vm, request.to_file());
  JobWork write = [this, vm, file, own, request](std::shared_ptr<Job> job) {
    return Write(vm, file, own, request, std::move(job));
  };
  co_return co_await RunAsJob(options_.jobs, std::move(about), std::move(write));
}

Task<absl::StatusOr<SavedStates::Warnings>> SavedStates::Stop(Vm vm, v1::StopVmRequest request,
                                                              milliseconds timeout) {
  Warnings warnings;
  if (request.force() && request.has_save() && request.save()) {
    co_return absl::InvalidArgumentError("save and force exclude each other: force never saves");
  }
  // One that is being started, saved or restored is what that makes of it; force does not wait.
  const bool changes = vm->in_file() || vm->state() == v1::VM_STATE_STARTING;
  if (changes && !request.force()) co_await vm->AwaitOperation();
  if (SavesOnStop(*vm, request) && !Stands(vm->state())) {
    v1::SaveVmRequest save;
    *save.mutable_options() = request.save_options();
    const absl::Status saved = co_await Save(vm, std::move(save));
    if (saved.ok()) co_return warnings;
    // What nobody asked to save is not lost by shutting it down.
    const bool asked = request.has_save() || vm->spec().save_on_stop() == v1::SAVE_ON_STOP_YES;
    if (asked && !request.or_shutdown()) co_return saved;
    // Somebody else has stopped it at once.
    if (Stands(vm->state())) co_return warnings;
    // That is the caller's mistake, and says nothing of the VM; or somebody wants it to run on.
    if (absl::IsInvalidArgument(saved) || absl::IsCancelled(saved)) co_return saved;
    warnings.push_back(
        absl::StrCat("it could not be saved, and was shut down instead: ", saved.message()));
  }
  CO_RETURN_IF_ERROR(co_await vm->Stop(request.force(), timeout));
  co_return warnings;
}

Task<absl::Status> SavedStates::Discard(Vm vm) {
  const auto saved = vm->saved();
  if (!saved.has_value()) co_return absl::OkStatus();
  CO_RETURN_IF_ERROR(co_await vm->DiscardSaved(saved->sha256()));
  if (!saved->kept() && !saved->file().empty()) co_await files_.Remove(saved->file());
  co_return absl::OkStatus();
}

Task<absl::Status> SavedStates::Delete(Vm vm, bool discard_saved) {
  if (discard_saved) CO_RETURN_IF_ERROR(co_await Discard(vm));
  const std::string id = vm->id();
  CO_RETURN_IF_ERROR(co_await vms_.Delete(vm));
  files_.RemoveFolderOf(id);
  if (on_deleted_) on_deleted_(id);
  co_return absl::OkStatus();
}

// Returns where it is then. Its user's own file stays where that is.
Task<std::string> SavedStates::PutAside(state::v1::SavedRecord record) {
  if (record.kept()) co_return record.file();
  const std::string aside = absl::StrCat(record.file(), kAside);
  FileWork rename = [from = record.file(), aside] { return RenameDurably(from, aside); };
  const absl::Status put = co_await files_.Run("renaming a file", std::move(rename));
  if (put.ok()) co_return aside;
  spdlog::warn("saved state {}: {}", record.file(), put.ToString());
  co_return record.file();
}

Task<void> SavedStates::Sweep() {
  co_await SweepSaveDrafts(vms_);
  std::set<std::string> wanted;
  std::set<std::string> known;
  std::set<std::string> unclear;  // folders of which it is not known what is wanted
  std::vector<state::v1::SavedRecord> used;
  auto rows = co_await vms_.deps().store.ListVms();
  if (!rows.ok()) co_return;
  for (const VmRow& row : *rows) {
    known.insert(files_.FolderOf(row.id));
    state::v1::SavedRecord record;
    const bool clear = vms_.Find(row.id).ok() && record.ParseFromString(row.saved);
    if (!clear) unclear.insert(files_.FolderOf(row.id));
    wanted.insert(record.file());
    // Nobody can tell whether it ran for long enough to write to its disks.
    if (clear && record.consumed()) used.push_back(record);
  }
  FileWork sweep = [folder = options_.folder, wanted, known, unclear, used] {
    namespace fs = std::filesystem;
    std::error_code ignored;
    absl::Status renamed;
    for (const state::v1::SavedRecord& record : used) {
      if (record.kept() || !fs::exists(record.file(), ignored)) continue;
      renamed.Update(RenameDurably(record.file(), record.file() + kAside));
    }
    RemoveOthers(folder, known, unclear, [&wanted](const std::string& file) {
      return wanted.contains(file) || absl::EndsWith(file, kAside);
    });
    return renamed;
  };
  const absl::Status swept = co_await files_.Run("sweeping", std::move(sweep));
  if (!swept.ok()) spdlog::warn("saved states: {}", swept.ToString());
}

}  // namespace ferry::vm
