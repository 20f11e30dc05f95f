#include "vmmanager/saving/checkpoints.h"

#include <spdlog/spdlog.h>

#include <set>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/saves/file_identity.h"
#include "vmmanager/saving/job_words.h"
#include "vmmanager/saving/memory_pump.h"
#include "vmmanager/saving/saving_jobs.h"

namespace ferry::vm {
namespace {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

constexpr int kSettleAttempts = 10;
constexpr milliseconds kSettlePause{2'000};

absl::Status ScratchIsForgotten(const CheckpointDisk& disk) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("disk ", disk.name(),
                   " is a container's, and goes with that: the file below it "
                   "would be nobody's if it were not remembered"),
      "container_disk",
      absl::StrCat("Leave out --no-metadata, or that disk: --diskspec ", disk.name(),
                   ",snapshot=no (with --disk-only)"));
}

// What the VM goes on in, of a container's disk, may be written down here before it is there.
std::set<std::string> OverlaysOf(const CheckpointRecords& records) {
  std::set<std::string> overlays;
  for (const auto& [name, record] : records) {
    for (const CheckpointDisk& disk : record.disks()) overlays.insert(disk.overlay());
  }
  return overlays;
}

void AddFile(const std::string& below, const std::string& overlay, CheckpointRecord* files) {
  if (below.empty() || overlay.empty()) return;
  CheckpointDisk* file = files->add_disks();
  file->set_file(below);
  file->set_overlay(overlay);
}

// The files of disks that nobody needs any more once a checkpoint is gone.
CheckpointRecord FilesToGo(const UtilityVm& vm, const std::string& name) {
  CheckpointRecord files;
  const auto found = vm.checkpoints().find(name);
  if (found == vm.checkpoints().end()) return files;
  const bool was_taken = found->second.stage() != state::v1::CHECKPOINT_STAGE_MAKING;
  for (const CheckpointDisk& disk : found->second.disks()) {
    if (!disk.overlay_kept()) AddFile(disk.file(), disk.overlay(), &files);
    if (was_taken && disk.file_is_overlay()) AddFile(disk.below(), disk.file(), &files);
  }
  // What is called off leaves its user's files where they are, merged or not.
  if (!was_taken) return files;
  const auto plan = PlanDeletion(vm.name(), vm.checkpoints(), vm.FilesInUse(), name);
  if (!plan.ok()) return files;
  for (const OverlayMerge& merge : plan->merges) {
    AddFile(merge.disk.file(), merge.overlay, &files);
  }
  return files;
}

bool RanThen(const std::string& state) { return state != "stopped"; }

// What becomes of the VM afterwards is part of what was asked for.
const char* AndThen(const v1::CreateCheckpointRequest& request) {
  if (request.halt()) return kThenHalt;
  return request.paused() ? kThenPause : "";
}

}  // namespace

Checkpoints::Checkpoints(VmInventory& vms, ContainerInventory* containers, SavedStates& saves,
                         ImageDigests& digests, CheckpointsOptions options)
    : vms_(vms),
      saves_(saves),
      returning_(containers),
      options_(std::move(options)),
      sealing_(vms, returning_, digests),
      files_(vms.deps().executor, digests.reads(), options_.folder, options_.state_folder),
      drafts_(files_, *vms.deps().overlays) {
  saves_.set_on_deleted([this](const std::string& vm_id) { files_.RemoveFolderOf(vm_id); });
}

absl::Status Checkpoints::CheckRest(const UtilityVm& vm) const {
  return returning_.CheckRest(
      vm, absl::StrCat("no checkpoint of VM ", vm.name(), " can be taken or gone back to"));
}

absl::StatusOr<v1::Checkpoint> Checkpoints::Describe(const UtilityVm& vm,
                                                     const std::string& name) const {
  for (v1::Checkpoint& checkpoint : DescribeCheckpoints(vm.checkpoints())) {
    if (checkpoint.name() == name) return std::move(checkpoint);
  }
  return NoSuchCheckpoint(vm.name(), name);
}

// Those that the caller chose.
Task<absl::Status> Checkpoints::CheckFiles(std::string memory_file, Wishes disks) const {
  if (!memory_file.empty()) {
    CO_RETURN_IF_ERROR(co_await files_.CheckUsers(memory_file, "memory_file"));
  }
  for (const v1::CheckpointDiskWish& disk : disks) {
    if (disk.file().empty()) continue;
    CO_RETURN_IF_ERROR(co_await files_.CheckUsers(disk.file(), "file of a disk"));
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<v1::Checkpoint>> Checkpoints::Create(v1::CreateCheckpointRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  CO_ASSIGN_OR_RETURN(Record planned, PlanCheckpoint(vm->checkpoint_scene(), request));
  CO_RETURN_IF_ERROR(CheckRest(*vm));
  if (request.halt()) CO_RETURN_IF_ERROR(returning_.CheckVmOutlivesThem(*vm));
  CO_RETURN_IF_ERROR(co_await CheckFiles(request.memory_file(), request.disks()));
  const ScratchPlaces* scratch = vms_.deps().scratch;
  for (CheckpointDisk& disk : *planned.mutable_disks()) {
    if (scratch != nullptr) disk.set_container_id(scratch->OwnerOf(vm->id(), disk.file()));
    if (request.no_metadata() && !disk.container_id().empty()) co_return ScratchIsForgotten(disk);
  }
  if (request.reuse_existing()) CO_RETURN_IF_ERROR(co_await CheckExisting(vm->id(), planned));
  planned.set_containers(static_cast<uint32_t>(returning_.Of(*vm).size()));
  JobDescription about{v1::JOB_KIND_CHECKPOINT, vm->id(), vm->name(),
                       absl::StrCat(kTake, request.name(), AndThen(request))};
  auto forgotten = request.no_metadata() ? std::make_shared<Record>() : nullptr;
  JobWork take = [this, vm, request, planned, forgotten](std::shared_ptr<Job> job) {
    return Take(vm, request, planned, forgotten, std::move(job));
  };
  CO_RETURN_IF_ERROR(co_await RunAsJob(options_.jobs, std::move(about), std::move(take)));
  if (forgotten == nullptr) co_return Describe(*vm, request.name());
  // Nobody is told of it again.
  forgotten->set_stage(state::v1::CHECKPOINT_STAGE_WHOLE);
  const CheckpointRecords only = {{request.name(), *forgotten}};
  co_return DescribeCheckpoints(only).front();
}

Task<absl::Status> Checkpoints::Take(Vm vm, v1::CreateCheckpointRequest request, Record planned,
                                     std::shared_ptr<Record> forgotten, std::shared_ptr<Job> job) {
  const Counted in_work = vm->CountCheckpointInWork();
  const bool memory = !request.disk_only();
  CheckpointSteps steps;
  if (memory) {
    std::string file = request.memory_file();
    if (file.empty()) {
      CO_ASSIGN_OR_RETURN(file, co_await files_.New(vm->id()));
    }
    CO_ASSIGN_OR_RETURN(SavedFileOptions options, ToFileOptions(request.options()));
    auto writing = std::make_shared<FileBeingSaved>(vms_.deps().executor);
    const absl::Status made =
        co_await writing->Create(file, std::move(options), request.options().key_file());
    CO_RETURN_IF_ERROR(WithRoomNeeded(made, *vm));
    ShowSave(job, writing, vm->memory_mb() << 20);
    // Whoever finds it half made takes that back, too; what is ours is swept.
    if (!request.memory_file().empty()) {
      planned.set_memory_draft(file);
      planned.set_memory_draft_inode(writing->identity().inode);
      planned.set_memory_draft_born_ns(writing->identity().born_ns);
    }
    steps = StepsWithMemory(vm, request, std::move(writing), std::move(file), job);
  } else {
    job->ForbidCancel("its disks are put aside in one piece");
  }
  steps.memory = memory;
  steps.live = request.live();
  steps.halt = request.halt();
  steps.paused = request.paused();
  steps.quiesce = request.quiesce();
  steps.forgotten = std::move(forgotten);
  auto record = std::make_shared<Record>(std::move(planned));
  std::function<bool(const std::string&)> is_named = [request](const std::string& disk) {
    return NamesFileOf(request, disk);
  };
  Record none;
  const auto note = co_await drafts_.Make(vm->id(), record, std::move(is_named), std::move(none));
  absl::Status taken = note.status();
  if (!taken.ok()) {
    // A merge may have ended meanwhile, and say more of it than that a file is missing.
    const absl::Status fits = CheckStillFits(vm->checkpoint_scene(), *record, memory);
    if (!fits.ok()) taken = fits;
  }
  if (!taken.ok() && memory) taken = co_await steps.discard(std::move(taken));
  CO_RETURN_IF_ERROR(taken);
  const auto discard = steps.discard;
  const auto recorded = std::make_shared<bool>(false);
  const auto in_doubt = std::make_shared<bool>(false);
  steps.recorded = recorded;
  steps.in_doubt = in_doubt;
  std::string name = request.name();
  taken = co_await vm->TakeCheckpoint(std::move(name), *record, std::move(steps));
  // What was refused before it was begun has left its files. Once it is recorded it may be whole
  // whatever failed after that, and its files belong to the record.
  const bool discarded = rpc::ReasonOf(taken) == "checkpoint_not_taken";
  const bool leaves_files = !taken.ok() && !*recorded;
  // What nobody can tell is decided by what the next start finds to be written down.
  if (leaves_files && !*in_doubt) co_await drafts_.Remove(*record, *note);
  if (!leaves_files) co_await drafts_.Forget(*note);
  if (leaves_files && memory && !discarded) taken = co_await discard(std::move(taken));
  if (taken.ok()) job->SetResult(absl::StrCat("took ", request.name()));
  co_return taken;
}

CheckpointSteps Checkpoints::StepsWithMemory(Vm vm, const v1::CreateCheckpointRequest& request,
                                             std::shared_ptr<FileBeingSaved> writing,
                                             std::string file, std::shared_ptr<Job> job) {
  CheckpointSteps steps;
  const auto machine = std::make_shared<schema::ComputeSystem>();
  steps.begin = [this, vm, writing,
                 machine](guest::GuestState guest) -> Task<absl::StatusOr<UniqueFd>> {
    // Since it was asked, one may have been begun to be removed.
    CO_RETURN_IF_ERROR(CheckRest(*vm));
    *machine = vm->document();
    CO_ASSIGN_OR_RETURN(std::string head,
                        co_await sealing_.Head(vm, std::move(guest), "checkpoint"));
    co_return co_await writing->Begin(std::move(head));
  };
  steps.seal = [this, writing, machine, file, job, request_file = request.memory_file(),
                options = request.options()](Record* record) -> Task<absl::Status> {
    CO_RETURN_IF_ERROR(co_await writing->Taken());
    ShowAllTaken(*job);
    CO_ASSIGN_OR_RETURN(std::string tail, co_await sealing_.Tail(*machine));
    CO_ASSIGN_OR_RETURN(const SavedFileInfo info, co_await writing->Commit(std::move(tail)));
    record->clear_memory_draft();
    record->clear_memory_draft_inode();
    record->clear_memory_draft_born_ns();
    record->set_memory_file(file);
    record->set_memory_sha256(info.sha256);
    record->set_memory_bytes(info.memory_bytes);
    record->set_file_bytes(info.file_bytes);
    record->set_memory_kept(!request_file.empty());
    record->set_key_file(options.key_file());
    co_return absl::OkStatus();
  };
  steps.discard = [vm, writing](absl::Status cause) -> Task<absl::Status> {
    const absl::Status why = co_await writing->Discard(std::move(cause));
    co_return WithRoomNeeded(why, *vm);
  };
  return steps;
}

absl::Status Checkpoints::CheckRevertible(const UtilityVm& vm, const std::string& name) const {
  const auto found = vm.checkpoints().find(name);
  if (found == vm.checkpoints().end()) return NoSuchCheckpoint(vm.name(), name);
  if (found->second.stage() != state::v1::CHECKPOINT_STAGE_WHOLE) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("checkpoint ", name, " of VM ", vm.name(), " is not whole"),
        "checkpoint_not_whole",
        absl::StrCat("Delete it: ferryctl checkpoint delete ", vm.name(), " ", name));
  }
  return CheckRest(vm);
}

Task<absl::StatusOr<v1::Checkpoint>> Checkpoints::Revert(v1::RevertToCheckpointRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  CO_RETURN_IF_ERROR(CheckRevertible(*vm, request.name()));
  JobDescription about{v1::JOB_KIND_CHECKPOINT, vm->id(), vm->name(),
                       absl::StrCat("go back to ", request.name())};
  JobWork back = [this, vm, request](std::shared_ptr<Job> job) {
    return GoBack(vm, request, std::move(job));
  };
  CO_RETURN_IF_ERROR(co_await RunAsJob(options_.jobs, std::move(about), std::move(back)));
  co_return Describe(*vm, request.name());
}

Task<absl::Status> Checkpoints::GoBack(Vm vm, v1::RevertToCheckpointRequest request,
                                       std::shared_ptr<Job> job) {
  const std::string name = request.name();
  CO_RETURN_IF_ERROR(CheckRevertible(*vm, name));
  auto record = std::make_shared<Record>(vm->checkpoints().at(name));
  const bool has_memory = !record->memory_file().empty();
  CheckpointReturn how;
  std::function<bool(const std::string&)> is_named = [](const std::string&) { return false; };
  const CheckpointRecords& all = vm->checkpoints();
  Record to_go;
  for (CheckpointDisk& disk : *record->mutable_disks()) {
    disk.set_overlay(OverlayName(all, disk.file(), name));
    disk.clear_overlay_kept();
    const std::string now = vm->DiskFile(disk);
    if (BelowOf(all, now).empty() || IsUsersOverlay(all, now)) continue;
    CheckpointDisk* former = to_go.add_disks();
    former->set_file(BelowOf(all, now));
    former->set_overlay(now);
  }
  CO_ASSIGN_OR_RETURN(
      const std::string note,
      co_await drafts_.Make(vm->id(), record, std::move(is_named), std::move(to_go)));
  for (const CheckpointDisk& disk : record->disks()) {
    how.disks[disk.name()] = {disk.file(), disk.overlay()};
  }
  // What it does now is lost from there on, so nothing may be found to be missing later.
  if (has_memory) {
    auto memory = MemoryOf(name, *record);
    const auto fits = co_await saves_.CheckCanGoOn(vm, std::move(memory), job);
    if (!fits.ok()) {
      co_await drafts_.Remove(*record, note);
      co_return fits.status();
    }
    how.size = *fits;
  }
  job->ForbidCancel("half of a VM is none; stop the VM when it runs");
  job->SetPhase("going back");
  std::string to = name;
  const auto in_doubt = std::make_shared<bool>(false);
  how.in_doubt = in_doubt;
  const auto back = co_await vm->GoBackToCheckpoint(std::move(to), std::move(how));
  if (!back.ok() && !*in_doubt) co_await drafts_.Remove(*record, note);
  CO_RETURN_IF_ERROR(back.status());
  co_await drafts_.Forget(note);
  const bool as_then = request.then() == v1::RevertToCheckpointRequest::THEN_UNSPECIFIED;
  const bool runs = request.then() == v1::RevertToCheckpointRequest::THEN_RUNNING ||
                    (as_then && has_memory && RanThen(record->state()));
  if (!runs) co_return absl::OkStatus();
  v1::StartVmRequest start;
  start.set_vm(vm->id());
  const auto started = co_await saves_.Start(vm, std::move(start));
  CO_RETURN_IF_ERROR(started.status());
  const bool wants_running = request.then() == v1::RevertToCheckpointRequest::THEN_RUNNING;
  if (!wants_running || vm->state() != v1::VM_STATE_PAUSED) co_return absl::OkStatus();
  co_return co_await vm->ResumeForJob();
}

Task<absl::Status> Checkpoints::Delete(v1::DeleteCheckpointRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  if (!vm->checkpoints().contains(request.name())) {
    co_return NoSuchCheckpoint(vm->name(), request.name());
  }
  JobDescription about{v1::JOB_KIND_CHECKPOINT, vm->id(), vm->name(),
                       absl::StrCat(kDelete, request.name())};
  JobWork remove = [this, vm,
                    name = request.name()](std::shared_ptr<Job> job) -> Task<absl::Status> {
    CO_RETURN_IF_ERROR(CheckMayMerge(*vm));
    const auto merging = merged_.insert(vm->id());
    const absl::Cleanup merged = [this, merging] { merged_.erase(merging); };
    std::string gone = name;
    MergeProgress progress = ShowMerges(job);
    MergeCheck check = [this, vm, name] { return CheckNobodyLiesOver(vm, name); };
    const std::string note = co_await NoteFilesToGo(vm, name);
    const auto record =
        co_await vm->DeleteCheckpoint(std::move(gone), std::move(check), std::move(progress));
    if (!note.empty()) co_await drafts_.Forget(note);
    CO_RETURN_IF_ERROR(record.status());
    co_await RemoveMemory(*record);
    co_return absl::OkStatus();
  };
  co_return co_await RunAsJob(options_.jobs, std::move(about), std::move(remove));
}

// The files that a checkpoint's deletion writes into.
Task<absl::Status> Checkpoints::CheckNobodyLiesOver(Vm vm, std::string name) {
  const auto found = vm->checkpoints().find(name);
  if (found == vm->checkpoints().end()) co_return NoSuchCheckpoint(vm->name(), name);
  const Record record = found->second;
  for (const CheckpointDisk& disk : record.disks()) {
    std::string file = disk.file();
    DiskOfVm its{vm->id(), ""};
    const absl::Status nobody = co_await CheckIsNobodys(&vms_, std::move(file), std::move(its));
    if (rpc::ReasonOf(nobody) == "file_in_use") co_return nobody;
    // Another VM's trouble with its disks is not this one's.
    if (!nobody.ok()) spdlog::warn("vm {}: {}", vm->name(), nobody.ToString());
  }
  co_return absl::OkStatus();
}

// For the next start, if this daemon does not live to remove them. Without the note they would only
// stay, which is no reason not to make room.
Task<std::string> Checkpoints::NoteFilesToGo(Vm vm, std::string name) {
  Record files = FilesToGo(*vm, name);
  const auto note = co_await drafts_.Note(vm->id(), std::move(files));
  if (note.ok()) co_return *note;
  spdlog::warn("vm {}: checkpoint {}: {}", vm->name(), name, note.status().ToString());
  co_return "";
}

// Of a checkpoint that is gone.
Task<void> Checkpoints::RemoveMemory(Record record) {
  if (record.memory_file().empty() || record.memory_kept()) co_return;
  co_await files_.Remove(record.memory_file());
}

// Of one that a former daemon has begun: its file may have got its name just before it was whole.
Task<void> Checkpoints::RemoveMemoryDraft(Record record) {
  if (record.memory_draft().empty()) co_return;
  const FileIdentity identity{.inode = record.memory_draft_inode(),
                              .born_ns = record.memory_draft_born_ns()};
  KeptFiles::Work remove = [file = record.memory_draft(), identity] {
    return RemoveIfSame(file, identity);
  };
  const absl::Status removed = co_await files_.Run("removing a file", std::move(remove));
  if (!removed.ok()) spdlog::warn("{}: {}", record.memory_draft(), removed.ToString());
}

Task<absl::StatusOr<std::vector<v1::Checkpoint>>> Checkpoints::List(
    v1::ListCheckpointsRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  co_return DescribeCheckpoints(vm->checkpoints());
}

Task<void> Checkpoints::Settle() {
  for (const Vm& vm : vms_.List()) {
    const std::string half = UnsettledCheckpoint(vm->checkpoints());
    if (half.empty()) continue;
    const Record record = vm->checkpoints().at(half);
    // A VMM may still be at what the former daemon wanted of it.
    for (int attempt = 0; attempt < kSettleAttempts; ++attempt) {
      std::string name = half;
      const std::string note = co_await NoteFilesToGo(vm, half);
      const absl::Status settled = co_await vm->SettleCheckpoint(std::move(name));
      if (!note.empty()) co_await drafts_.Forget(note);
      // One that is being taken, or of a newer ferryd, stays.
      const bool gone = settled.ok() && !vm->checkpoints().contains(half);
      if (gone) co_await RemoveMemory(record);
      if (settled.ok() || !vm->CheckHere().ok()) break;
      spdlog::error("vm {}: checkpoint {}: {}", vm->name(), half, settled.ToString());
      co_await Delay(kSettlePause);
    }
  }
}

Task<void> Checkpoints::Sweep() {
  auto rows = co_await vms_.deps().store.ListVms();
  if (!rows.ok()) co_return;
  std::set<std::string> wanted;
  std::set<std::string> known;
  std::set<std::string> unclear;  // folders of VMs of which it is not known what they need
  std::set<std::string> used;
  std::vector<Record> half;
  for (const VmRow& row : *rows) unclear.insert(files_.FolderOf(row.id));
  for (const Vm& vm : vms_.List()) {
    const std::string folder = files_.FolderOf(vm->id());
    used.merge(vm->FilesInUse());
    used.merge(FilesOf(vm->checkpoints()));
    used.merge(OverlaysOf(vm->checkpoints()));
    bool readable = true;
    for (const auto& [name, record] : vm->checkpoints()) {
      readable = readable && record.stage() != state::v1::CHECKPOINT_STAGE_UNSPECIFIED;
      wanted.insert(record.memory_file());
      if (record.stage() == state::v1::CHECKPOINT_STAGE_MAKING) half.push_back(record);
    }
    known.insert(folder);
    if (readable) unclear.erase(folder);
  }
  co_await drafts_.Sweep(used, known, unclear);
  for (Record& record : half) co_await RemoveMemoryDraft(std::move(record));
  KeptFiles::Work sweep = [folder = files_.folder(), wanted, known, unclear] {
    RemoveOthers(folder, known, unclear,
                 [&wanted](const std::string& file) { return wanted.contains(file); });
    return absl::OkStatus();
  };
  const absl::Status swept = co_await files_.Run("sweeping", std::move(sweep));
  if (!swept.ok()) spdlog::warn("checkpoints: {}", swept.ToString());
}

}  // namespace ferry::vm
