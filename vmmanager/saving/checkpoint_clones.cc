// The part of Checkpoints that makes VMs of them.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/disk_size.h"
#include "vmmanager/sandbox/machine_document.h"
#include "vmmanager/saving/checkpoints.h"
#include "vmmanager/saving/clone_plan.h"
#include "vmmanager/saving/memory_copy.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

struct Checkpoints::Clone {
  explicit Clone(Executor executor) : called_off(std::move(executor)) {}

  Vm of;
  v1::RestoreCheckpointAsRequest request;
  ClonePlan plan;
  std::string id = VmInventory::NewId();
  CheckpointRecord source;  // the checkpoint as it was when this began
  std::shared_ptr<CheckpointRecord> disks;
  std::vector<uint64_t> bytes;                    // of each disk
  std::vector<state::v1::DiskGeneration> before;  // what each was when this began
  std::shared_ptr<MemoryCopy> memory;
  std::string memory_file;
  std::optional<state::v1::SavedRecord> saved;
  std::optional<schema::Topology> size;  // of the machine that it is saved with
  std::shared_ptr<Job> job;
  uint64_t done = 0;
  uint64_t total = 0;
  AsyncEvent called_off;
  bool added = false;  // it may be in the store, whatever became of that
  Vm made;
};

namespace {

void ShowCopied(Job& job, const std::string& phase, uint64_t done, uint64_t total) {
  v1::JobProgress progress;
  progress.set_unit(v1::JOB_UNIT_BYTES);
  progress.set_phase(phase);
  progress.set_done(std::min(done, total));
  progress.set_total(total);
  job.SetProgress(progress);
}

// It is the checkpoint's own file, so whoever named that made no mistake.
absl::Status AsItsMemory(const absl::Status& read) {
  const bool is_none = absl::IsInvalidArgument(read) && rpc::ReasonOf(read) != kKeyUnusable;
  return AsDamagedMemory(is_none ? absl::DataLossError(read.message()) : read,
                         "Put a copy of that file in its place; or have the disks alone: "
                         "--disk-only");
}

absl::Status CopyCalledOff() { return absl::CancelledError("it was called off"); }

}  // namespace

void Checkpoints::Reached(const char* point) const {
  if (vms_.deps().failpoint) vms_.deps().failpoint(point);
}

absl::Status Checkpoints::CheckMayCopy(const UtilityVm& vm) const {
  bool merges = merged_.contains(vm.id());
  for (const auto& [name, record] : vm.checkpoints()) {
    merges = merges || record.stage() == state::v1::CHECKPOINT_STAGE_MERGING;
  }
  if (!merges) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("no VM can be made of a checkpoint of VM ", vm.name(),
                   " now: one of them is being deleted, and its files are written to"),
      "checkpoint_in_work", "Wait for that: ferryctl job list");
}

absl::Status Checkpoints::CheckMayMerge(const UtilityVm& vm) const {
  const auto copied = copied_.find(vm.id());
  if (copied == copied_.end()) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("no checkpoint of VM ", vm.name(), " can be deleted now: VM ", copied->second,
                   " is being made of one, and the files are not to be written to meanwhile"),
      "checkpoint_in_work", "Wait for that, or cancel it: ferryctl job list");
}

absl::Status Checkpoints::CheckCloneName(const std::string& name) const {
  const auto taken = vms_.Find(name);
  if (!taken.ok() && !clones_.contains(name)) return absl::OkStatus();
  return rpc::ErrorWithReason(
      absl::StatusCode::kAlreadyExists,
      absl::StrCat("a VM named ", name, taken.ok() ? " exists" : " is just being made"),
      "vm_exists", "Choose another name, or delete that one first.");
}

Task<absl::StatusOr<v1::Vm>> Checkpoints::RestoreAs(v1::RestoreCheckpointAsRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  auto clone = std::make_shared<Clone>(executor());
  clone->of = vm;
  clone->request = request;
  CO_ASSIGN_OR_RETURN(clone->plan, PlanClone(vm->checkpoint_scene(), vm->spec(), request));
  CO_ASSIGN_OR_RETURN(clone->plan.spec, CompleteSpec(clone->plan.spec));
  CO_RETURN_IF_ERROR(CheckCloneName(request.new_name()));
  CO_RETURN_IF_ERROR(CheckMayCopy(*vm));
  CO_RETURN_IF_ERROR(co_await CheckFiles("", request.disks()));
  JobDescription about{v1::JOB_KIND_CHECKPOINT, vm->id(), vm->name(),
                       absl::StrCat("make ", request.new_name(), " of ", request.name()),
                       clone->id};
  JobWork make = [this, clone](std::shared_ptr<Job> job) {
    return MakeClone(clone, std::move(job));
  };
  CO_RETURN_IF_ERROR(co_await RunAsJob(options_.jobs, std::move(about), std::move(make)));
  co_return clone->made->Describe(true);
}

Task<absl::Status> Checkpoints::MakeClone(std::shared_ptr<Clone> clone, std::shared_ptr<Job> job) {
  const std::string name = clone->request.new_name();
  const Vm vm = clone->of;
  // Since it was asked, others may have begun.
  CO_RETURN_IF_ERROR(CheckCloneName(name));
  CO_RETURN_IF_ERROR(CheckMayCopy(*vm));
  CO_ASSIGN_OR_RETURN(clone->plan, PlanClone(vm->checkpoint_scene(), vm->spec(), clone->request));
  CO_ASSIGN_OR_RETURN(clone->plan.spec, CompleteSpec(clone->plan.spec));
  clone->source = vm->checkpoints().at(clone->request.name());
  const auto copied = copied_.emplace(vm->id(), name);
  clones_.insert(name);
  const absl::Cleanup over = [this, copied, name] {
    copied_.erase(copied);
    clones_.erase(name);
  };
  job->AllowCancel([weak = std::weak_ptr(clone)] {
    const auto its = weak.lock();
    if (!its) return absl::FailedPreconditionError("it is over");
    its->called_off.Set();
    if (its->memory) its->memory->CallOff();
    return absl::OkStatus();
  });
  clone->job = job;
  const absl::Status made = co_await FillClone(clone, job);
  clone->job.reset();
  if (made.ok()) job->SetResult(absl::StrCat("made VM ", name));
  co_return made;
}

// Notes what is about to be made, makes it, and forgets the note once a VM has it.
Task<absl::Status> Checkpoints::FillClone(std::shared_ptr<Clone> clone, std::shared_ptr<Job> job) {
  clone->disks = std::make_shared<CheckpointRecord>(clone->plan.disks);
  if (clone->plan.memory) CO_RETURN_IF_ERROR(co_await OpenMemory(clone));
  for (const CheckpointDisk& disk : clone->disks->disks()) {
    std::string file = disk.file();
    CO_ASSIGN_OR_RETURN(state::v1::DiskGeneration now,
                        co_await ReadGeneration(std::move(file), &vms_.deps().reads));
    clone->before.push_back(std::move(now));
  }
  CO_RETURN_IF_ERROR(co_await CheckRoom(clone));
  std::function<bool(const std::string&)> is_named = [clone](const std::string& disk) {
    return NamesFileOf(clone->request, disk);
  };
  const auto note = co_await drafts_.Reserve(clone->id, clone->disks, std::move(is_named));
  if (!note.ok()) files_.RemoveEmptyFolderOf(clone->id);
  CO_RETURN_IF_ERROR(note.status());
  Reached("CLONE.reserved");
  absl::Status made = co_await CopyDisks(clone);
  if (made.ok()) Reached("CLONE.copied");
  if (made.ok()) made = co_await CheckUnchanged(clone);
  if (made.ok() && clone->plan.memory) made = co_await CopyMemory(clone);
  if (made.ok() && clone->called_off.is_set()) made = CopyCalledOff();
  if (made.ok()) {
    job->ForbidCancel("all of it is copied, and the VM is there in a moment");
    made = co_await AddClone(clone);
  }
  if (made.ok()) {
    Reached("CLONE.added");
    co_await drafts_.Forget(*note);
    co_return made;
  }
  // What may be in the store all the same keeps its files until that is known.
  if (clone->added && !co_await IsGone(clone->id)) co_return made;
  co_await drafts_.RemoveCopies(*clone->disks, *note);
  files_.RemoveEmptyFolderOf(clone->id);
  saves_.files().RemoveFolderOf(clone->id);
  // What there was room for when it began.
  if (absl::IsResourceExhausted(made)) {
    co_return absl::ResourceExhaustedError(absl::StrCat(
        made.message(), "; a VM made of a checkpoint has whole copies of its disks and memory"));
  }
  co_return made;
}

// Of a VM that could not be written down: whether it surely is not.
Task<bool> Checkpoints::IsGone(std::string vm_id) {
  const absl::Status gone = co_await vms_.deps().store.DeleteVm(vm_id);
  if (!gone.ok()) {
    spdlog::error("vm {}: it may be there after the next start of ferryd: {}", vm_id,
                  gone.ToString());
  }
  co_return gone.ok();
}

// The memory fits the disks as they are, so it will fit their copies.
Task<absl::Status> Checkpoints::OpenMemory(std::shared_ptr<Clone> clone) {
  const CheckpointRecord& source = clone->source;
  clone->memory = std::make_shared<MemoryCopy>(executor());
  const absl::Status opened = co_await clone->memory->Open(source.memory_file(), source.key_file());
  CO_RETURN_IF_ERROR(AsItsMemory(opened));
  if (clone->memory->info().sha256 != source.memory_sha256()) {
    co_return AsItsMemory(absl::DataLossError(
        absl::StrCat(source.memory_file(), " is not the file that the checkpoint was taken into")));
  }
  clone->total += clone->memory->info().memory_bytes;
  co_return co_await CheckMemoryFits(clone);
}

Task<absl::Status> Checkpoints::CheckMemoryFits(std::shared_ptr<Clone> clone) {
  CO_ASSIGN_OR_RETURN(DisksThen then,
                      DisksOfMemory(clone->memory->head(), clone->memory->tail(), clone->source));
  co_return co_await CheckGenerations(std::move(then.document), std::move(then.generations),
                                      &vms_.deps().reads);
}

// Nothing but ferryd writes to them, and that does not now; but others could.
Task<absl::Status> Checkpoints::CheckUnchanged(std::shared_ptr<Clone> clone) {
  if (clone->plan.memory) CO_RETURN_IF_ERROR(co_await CheckMemoryFits(clone));
  for (const state::v1::DiskGeneration& before : clone->before) {
    std::string file = before.path();
    CO_ASSIGN_OR_RETURN(const state::v1::DiskGeneration now,
                        co_await ReadGeneration(std::move(file), &vms_.deps().reads));
    if (now.SerializeAsString() == before.SerializeAsString()) continue;
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kAborted,
        absl::StrCat(before.path(), " was written to, or replaced, while it was copied"),
        "disks_changed", "Find out who writes to it, and try again.");
  }
  co_return absl::OkStatus();
}

// Before anything is made: what does not fit would fill the disks of VMs that run.
Task<absl::Status> Checkpoints::CheckRoom(std::shared_ptr<Clone> clone) {
  struct Place {
    std::string at;
    uint64_t needed = 0;
    uint64_t free = 0;
  };
  std::map<uint64_t, Place> places;
  OverlayFiles* overlays = vms_.deps().overlays;
  std::vector<CheckpointDisk> disks(clone->disks->disks().begin(), clone->disks->disks().end());
  for (const CheckpointDisk& disk : disks) {
    std::string from = disk.file();
    std::string format = disk.format();
    std::string to = disk.overlay();
    CO_ASSIGN_OR_RETURN(const uint64_t bytes,
                        co_await overlays->Measure(std::move(from), std::move(format)));
    CO_ASSIGN_OR_RETURN(const Room room, co_await overlays->RoomFor(std::move(to)));
    Place& place = places[room.device];
    if (place.at.empty()) place.at = disk.overlay();
    place.needed += bytes;
    place.free = room.bytes;
  }
  if (clone->plan.memory) {
    std::string memory = absl::StrCat(options_.state_folder, "/memory");
    CO_ASSIGN_OR_RETURN(const Room room, co_await overlays->RoomFor(std::move(memory)));
    Place& place = places[room.device];
    if (place.at.empty()) place.at = options_.state_folder;
    place.needed += clone->source.file_bytes();
    place.free = room.bytes;
  }
  for (const auto& [device, place] : places) {
    if (place.needed <= place.free) continue;
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kResourceExhausted,
        absl::StrCat("a VM made of a checkpoint has whole copies of its disks and memory: where ",
                     place.at, " is to be they take ", place.needed, " bytes, and ", place.free,
                     " are free"),
        "no_room", "Make room, or say where the disks are to be: --diskspec DISK,file=PATH");
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Checkpoints::CopyDisks(std::shared_ptr<Clone> clone) {
  using asio::experimental::awaitable_operators::operator||;
  std::vector<CheckpointDisk> disks(clone->disks->disks().begin(), clone->disks->disks().end());
  for (const CheckpointDisk& disk : disks) {
    std::string file = disk.file();
    std::string format = disk.format();
    CO_ASSIGN_OR_RETURN(const uint64_t bytes,
                        co_await DiskBytes(&vms_.deps().reads, std::move(file), std::move(format)));
    clone->bytes.push_back(bytes);
    clone->total += bytes;
  }
  for (size_t i = 0; i < disks.size(); ++i) {
    if (clone->called_off.is_set()) co_return CopyCalledOff();
    const std::string phase = absl::StrCat("copying disk ", disks[i].name());
    ShowCopied(*clone->job, phase, clone->done, clone->total);
    DiskCopy copy;
    copy.from = disks[i].file();
    copy.format = disks[i].format();
    copy.to = disks[i].overlay();
    copy.inode = disks[i].generation().inode();
    copy.progress = [weak = std::weak_ptr(clone), phase, bytes = clone->bytes[i]](double part) {
      const auto its = weak.lock();
      if (!its || !its->job) return;
      const auto of_it = static_cast<uint64_t>(part * static_cast<double>(bytes));
      ShowCopied(*its->job, phase, its->done + of_it, its->total);
    };
    auto first = co_await (vms_.deps().overlays->Copy(std::move(copy)) || clone->called_off.Wait());
    if (first.index() != 0) co_return CopyCalledOff();
    CO_RETURN_IF_ERROR(std::get<0>(first));
    clone->done += clone->bytes[i];
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Checkpoints::CopyMemory(std::shared_ptr<Clone> clone) {
  CloneIdentity identity;
  identity.vm_id = clone->id;
  identity.journal_id = vms_.deps().store.journal_id();
  identity.session = absl::StrCat("clone-", VmInventory::NewId());
  identity.spec = clone->plan.spec;
  UseCopies(*clone->disks, &identity.spec);
  for (const CheckpointDisk& disk : clone->disks->disks()) {
    identity.copies[disk.taken_as()] = disk.overlay();
  }
  CO_ASSIGN_OR_RETURN(ClonedHead cloned, CloneHead(clone->memory->head(), identity));
  clone->size = cloned.document.virtual_machine.compute_topology;
  // As of a VM that has just been saved with these disks.
  CO_ASSIGN_OR_RETURN(std::string tail, co_await sealing_.Tail(std::move(cloned.document)));
  CO_ASSIGN_OR_RETURN(clone->memory_file, co_await saves_.files().New(clone->id));
  ShowCopied(*clone->job, "copying memory", clone->done, clone->total);
  clone->memory->set_on_memory([weak = std::weak_ptr(clone)](uint64_t bytes) {
    const auto its = weak.lock();
    if (!its || !its->job) return;
    ShowCopied(*its->job, "copying memory", its->done + bytes, its->total);
  });
  std::string file = clone->memory_file;
  const auto info =
      co_await clone->memory->Write(std::move(file), std::move(cloned.head), std::move(tail));
  CO_RETURN_IF_ERROR(AsItsMemory(info.status()));
  Reached("CLONE.memory");
  state::v1::SavedRecord& saved = clone->saved.emplace();
  saved.set_schema_version(kStateSchemaVersion);
  saved.set_file(clone->memory_file);
  saved.set_sha256(info->sha256);
  saved.set_saved_unix_ms(clone->source.taken_unix_ms());
  saved.set_file_bytes(info->file_bytes);
  saved.set_memory_bytes(info->memory_bytes);
  saved.set_compressed(info->compression == SaveCompression::kZstd);
  saved.set_key_file(clone->source.key_file());
  co_return absl::OkStatus();
}

// From here on it is a VM like any other.
Task<absl::Status> Checkpoints::AddClone(std::shared_ptr<Clone> clone) {
  v1::CreateVmRequest create;
  *create.mutable_spec() = clone->plan.spec;
  UseCopies(*clone->disks, create.mutable_spec());
  NewVm made_of;
  made_of.id = clone->id;
  made_of.firmware_store = clone->source.firmware_store();
  made_of.size = clone->size;
  std::vector<CheckpointDisk> copies(clone->disks->disks().begin(), clone->disks->disks().end());
  for (const CheckpointDisk& copy : copies) {
    std::string file = copy.overlay();
    CO_RETURN_IF_ERROR(
        co_await vms_.deps().overlays->CheckReserved(std::move(file), copy.generation().inode()));
  }
  if (clone->saved.has_value()) made_of.saved = clone->saved->SerializeAsString();
  clone->added = true;
  CO_ASSIGN_OR_RETURN(clone->made, co_await vms_.Create(create, std::move(made_of)));
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
