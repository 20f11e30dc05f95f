// The part of Checkpoints that looks at files which others have made.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/disk_size.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/real_folder.h"
#include "vmmanager/saving/checkpoints.h"
#include "vmmanager/saving/clone_plan.h"
#include "vmmanager/saving/job_words.h"
#include "vmmanager/saving/memory_copy.h"
#include "vmmanager/saving/saving_jobs.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

using state::v1::CheckpointDisk;
using state::v1::CheckpointRecord;

struct Checkpoints::Definition {
  Vm vm;
  v1::DefineCheckpointRequest request;
  CheckpointRecords others;  // that the VM had when this began
  std::set<std::string> files;
  CheckpointRecord record;
  std::set<std::string> parents;  // whose files lie directly below
  size_t direct = 0;              // disks that the VM's own lie directly over
};

namespace {

constexpr char kWithoutMemory[] = "Define its disks alone, without the memory.";

absl::Status DoesNotFit(const std::string& why, const std::string& reason,
                        const std::string& next_step) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, why, reason, next_step);
}

absl::Status NotAsOverlay(const std::string& file, const std::string& why) {
  return DoesNotFit(absl::StrCat(file, " cannot be what a disk goes on in: ", why),
                    "not_an_overlay",
                    "Make it with: qemu-img create -f qcow2 -b THE_DISKS_FILE -F ITS_FORMAT FILE");
}

absl::Status ChangedMeanwhile(const std::string& vm) {
  return rpc::ErrorWithReason(absl::StatusCode::kAborted,
                              absl::StrCat("the checkpoints of VM ", vm, " changed meanwhile"),
                              "disks_changed", "Try again.");
}

// Whose file it is among checkpoints; empty: none's.
std::string CheckpointOf(const CheckpointRecords& records, const std::string& file) {
  for (const auto& [name, record] : records) {
    for (const CheckpointDisk& disk : record.disks()) {
      if (disk.file() == file) return name;
    }
  }
  return "";
}

absl::Status CheckDefinition(const CheckpointScene& scene,
                             const v1::DefineCheckpointRequest& request) {
  RETURN_IF_ERROR(CheckCheckpointName(request.name()));
  RETURN_IF_ERROR(CheckDiskWishes(request.disks()));
  if (request.disks().empty() && request.memory_file().empty()) {
    return absl::InvalidArgumentError("a checkpoint is of disks, or of memory: name a file");
  }
  if (request.memory_file().empty() && !request.key_file().empty()) {
    return absl::InvalidArgumentError("key_file is for memory_file, which is not given");
  }
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    if (wish.left_out() || wish.file().empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the file of disk ", absl::CHexEscape(wish.name()),
                       " is not given; leave a disk out by not naming it"));
    }
  }
  RETURN_IF_ERROR(CheckIsNew(scene, request.name()));
  if (request.parent().empty() || scene.records.contains(request.parent())) {
    return absl::OkStatus();
  }
  return NoSuchCheckpoint(scene.vm, request.parent());
}

absl::Status CheckAllWithMemory(const CheckpointScene& scene, const CheckpointRecord& record) {
  for (const auto& [name, disk] : scene.disks) {
    const bool named =
        std::any_of(record.disks().begin(), record.disks().end(),
                    [&name = name](const CheckpointDisk& one) { return one.name() == name; });
    if (!disk.writable() || named) continue;
    return DoesNotFit(
        absl::StrCat("memory and disks have to be of one instant, and the file of disk ", name,
                     " is not given"),
        "disk_left_out",
        absl::StrCat("Name it: --diskspec ", name,
                     ",file=PATH; or leave out the "
                     "memory."));
  }
  return absl::OkStatus();
}

}  // namespace

Task<absl::StatusOr<bool>> Checkpoints::IsSameFile(std::string one, std::string other) {
  if (one == other) co_return true;
  auto same = std::make_shared<bool>(false);
  KeptFiles::Work look = [one, other, same]() -> absl::Status {
    struct stat a {};
    struct stat b {};
    for (const auto& [file, found] : {std::pair(&one, &a), std::pair(&other, &b)}) {
      if (::stat(file->c_str(), found) == 0) continue;
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", *file));
    }
    *same = a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    return absl::OkStatus();
  };
  CO_RETURN_IF_ERROR(co_await files_.Run("looking at files", std::move(look)));
  co_return *same;
}

Task<absl::Status> Checkpoints::CheckExisting(std::string vm_id, Record planned) {
  for (const CheckpointDisk& disk : planned.disks()) {
    std::string file = disk.overlay();
    DiskOfVm its{vm_id, disk.name()};
    CO_RETURN_IF_ERROR(co_await CheckIsNobodys(&vms_, file, std::move(its)));
    const auto image = co_await vms_.deps().overlays->Examine(std::move(file), "qcow2");
    if (!image.ok()) {
      co_return NotAsOverlay(disk.overlay(), std::string(image.status().message()));
    }
    if (image->below.empty()) co_return NotAsOverlay(disk.overlay(), "it is over no other file");
    std::string below = image->below;
    std::string now = disk.file();
    const auto same = co_await IsSameFile(std::move(below), std::move(now));
    if (!same.ok()) co_return NotAsOverlay(disk.overlay(), std::string(same.status().message()));
    if (!*same) {
      co_return NotAsOverlay(disk.overlay(),
                             absl::StrCat("it is over ", image->below, ", and disk ", disk.name(),
                                          " is ", disk.file()));
    }
    if (image->below_format != disk.format()) {
      co_return NotAsOverlay(
          disk.overlay(),
          absl::StrCat("it says that the file below is ",
                       image->below_format.empty() ? "of any format" : image->below_format,
                       ", and that is ", disk.format()));
    }
    std::string sized = disk.file();
    std::string format = disk.format();
    CO_ASSIGN_OR_RETURN(
        const uint64_t bytes,
        co_await DiskBytes(&vms_.deps().reads, std::move(sized), std::move(format)));
    if (image->bytes != bytes) {
      co_return NotAsOverlay(disk.overlay(), absl::StrCat("it is of ", image->bytes,
                                                          " bytes, and the disk of ", bytes));
    }
    if (!image->empty) {
      co_return NotAsOverlay(disk.overlay(),
                             "it has been written to, and the guest would see that as its disk");
    }
  }
  co_return absl::OkStatus();
}

Task<absl::StatusOr<v1::Checkpoint>> Checkpoints::Define(v1::DefineCheckpointRequest request) {
  CO_ASSIGN_OR_RETURN(const Vm vm, vms_.Find(request.vm()));
  auto definition = std::make_shared<Definition>();
  definition->vm = vm;
  definition->request = request;
  // What comes after this instant is found out when it is to be written down.
  definition->others = vm->checkpoints();
  definition->files = vm->FilesInUse();
  CO_RETURN_IF_ERROR(CheckDefinition(vm->checkpoint_scene(), request));
  CO_RETURN_IF_ERROR(co_await CheckFiles(request.memory_file(), request.disks()));
  if (vms_.deps().overlays == nullptr) {
    co_return absl::UnimplementedError("this host's ferryd takes no checkpoints");
  }
  JobDescription about{v1::JOB_KIND_CHECKPOINT, vm->id(), vm->name(),
                       absl::StrCat(kDefine, request.name())};
  JobWork define = [this, definition](std::shared_ptr<Job> job) -> Task<absl::Status> {
    CO_RETURN_IF_ERROR(co_await LookAtFiles(definition));
    if (!definition->request.memory_file().empty()) {
      CO_RETURN_IF_ERROR(co_await LookAtMemory(definition, job));
    }
    job->ForbidCancel("all of it was looked at, and it is written down in a moment");
    std::set<std::string> known;
    for (const auto& [name, record] : definition->others) known.insert(name);
    std::string name = definition->request.name();
    CheckpointRecord record = definition->record;
    std::set<std::string> files = definition->files;
    std::function<Task<absl::Status>()> check = [this, definition] {
      return CheckAreNobodys(definition);
    };
    co_return co_await definition->vm->DefineCheckpoint(
        std::move(name), std::move(record), std::move(files), std::move(known), std::move(check));
  };
  CO_RETURN_IF_ERROR(co_await RunAsJob(options_.jobs, std::move(about), std::move(define)));
  co_return Describe(*vm, request.name());
}

// Where each lies below the VM's own, and what else does.
Task<absl::Status> Checkpoints::LookAtFiles(std::shared_ptr<Definition> definition) {
  const Vm vm = definition->vm;
  const v1::DefineCheckpointRequest& request = definition->request;
  const CheckpointScene scene = vm->checkpoint_scene();
  CheckpointRecord& record = definition->record;
  record.set_schema_version(kStateSchemaVersion);
  record.set_stage(state::v1::CHECKPOINT_STAGE_WHOLE);
  record.set_description(request.description());
  record.set_taken_unix_ms(NowUnixMs());
  record.set_state("stopped");
  for (const v1::CheckpointDiskWish& wish : request.disks()) {
    std::string disk = wish.name();
    std::string file = wish.file();
    CO_RETURN_IF_ERROR(co_await LookAtChain(definition, std::move(disk), std::move(file)));
  }
  if (!request.memory_file().empty()) CO_RETURN_IF_ERROR(CheckAllWithMemory(scene, record));
  const std::string& asked = request.parent();
  if (definition->parents.size() > 1) {
    co_return DoesNotFit(absl::StrCat("its disks lie over files of different checkpoints (",
                                      *definition->parents.begin(), " and more)"),
                         "disks_of_different_instants", "Name files that are of one instant.");
  }
  const std::string below = definition->parents.empty() ? "" : *definition->parents.begin();
  const auto after = definition->others.find(asked);
  if (!asked.empty() && after == definition->others.end()) co_return ChangedMeanwhile(vm->name());
  const bool may_be_anything =
      definition->parents.empty() && (asked.empty() || after->second.disks().empty());
  if (!asked.empty() && asked != below && !may_be_anything) {
    co_return DoesNotFit(
        absl::StrCat("it cannot come after ", asked, ": its disks lie over ",
                     below.empty() ? "no checkpoint's" : absl::StrCat("those of ", below)),
        "not_the_parent", "Leave out --parent, which is found by the disks.");
  }
  record.set_parent(asked.empty() ? below : asked);
  record.set_current(request.current() || definition->direct > 0 || record.disks().empty());
  co_return absl::OkStatus();
}

Task<absl::Status> Checkpoints::LookAtChain(std::shared_ptr<Definition> definition,
                                            std::string disk, std::string file) {
  const Vm vm = definition->vm;
  const CheckpointScene scene = vm->checkpoint_scene();
  const auto found = scene.disks.find(disk);
  if (found == scene.disks.end() || !found->second.writable()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("VM ", vm->name(), " has no disk '", absl::CHexEscape(disk),
                     "' that it writes to"),
        "unknown_disk", absl::StrCat("See those it has: ferryctl vm inspect ", vm->name()));
  }
  const NamedDisk named = found->second;
  const ScratchPlaces* scratch = vms_.deps().scratch;
  if (scratch != nullptr && !scratch->OwnerOf(vm->id(), named.disk.path).empty()) {
    co_return DoesNotFit(absl::StrCat("disk ", disk, " is a container's"), "container_disk",
                         "Only the VM's own disks can be part of what is defined.");
  }
  auto read = std::make_shared<Chain>(Chain{{named.disk.path, named.disk.format}});
  const absl::Status whole = co_await ReadDiskChain(vms_.deps().overlays, read);
  if (!whole.ok()) co_return DoesNotFit(std::string(whole.message()), "not_below", "");
  const Chain chain = *read;
  size_t at = 1;
  for (bool same = false; at < chain.size(); ++at) {
    std::string each = chain[at].file;
    std::string wanted = file;
    CO_ASSIGN_OR_RETURN(same, co_await IsSameFile(std::move(each), std::move(wanted)));
    if (same) break;
  }
  if (at >= chain.size()) {
    co_return DoesNotFit(absl::StrCat("disk ", disk, " of VM ", vm->name(), ", which is ",
                                      named.disk.path, ", does not lie over ", file),
                         "not_below",
                         "See what it lies over: qemu-img info -U --backing-chain FILE");
  }
  CheckpointDisk* its = definition->record.add_disks();
  its->set_name(disk);
  its->set_controller(named.place.controller);
  its->set_lun(named.place.lun);
  CO_RETURN_IF_ERROR(co_await CheckNames(definition, read));
  CO_RETURN_IF_ERROR(PlaceInChain(chain, at, definition.get(), its));
  // As it is called from now on, and what that leads to.
  std::string called = its->file();
  CO_RETURN_IF_ERROR(co_await files_.CheckUsers(called, "file of a disk"));
  CO_ASSIGN_OR_RETURN(std::string real, co_await FindRealPath(&vms_.deps().reads, called));
  CO_RETURN_IF_ERROR(co_await files_.CheckUsers(std::move(real), "file of a disk"));
  DiskOfVm own{vm->id(), disk};
  co_return co_await CheckIsNobodys(&vms_, std::move(called), std::move(own));
}

// Again, for others may have begun to use them meanwhile.
Task<absl::Status> Checkpoints::CheckAreNobodys(std::shared_ptr<Definition> definition) {
  for (const CheckpointDisk& disk : definition->record.disks()) {
    std::string file = disk.file();
    DiskOfVm own{definition->vm->id(), disk.name()};
    CO_RETURN_IF_ERROR(co_await CheckIsNobodys(&vms_, std::move(file), std::move(own)));
  }
  co_return absl::OkStatus();
}

// A checkpoint's file that a disk lies over is called there what the checkpoint calls it: what is
// known of it is known by that name.
Task<absl::Status> Checkpoints::CheckNames(std::shared_ptr<Definition> definition,
                                           std::shared_ptr<Chain> chain) {
  const std::set<std::string> recorded = FilesOf(definition->others);
  std::set<std::string> files = recorded;
  for (const ChainFile& each : *chain) files.insert(each.file);
  CO_ASSIGN_OR_RETURN(const FileIds ids,
                      co_await IdentifyFiles(&vms_.deps().reads, std::move(files)));
  for (const ChainFile& each : *chain) {
    for (const std::string& known : recorded) {
      if (recorded.contains(each.file) || !AreSame(ids, each.file, known)) continue;
      co_return DoesNotFit(
          absl::StrCat(each.file, " is ", known, ", which is a checkpoint's, by another name"),
          "file_in_use",
          absl::StrCat("Name it so where it lies below: qemu-img rebase -u -f qcow2 -b ", known,
                       " -F FORMAT FILE"));
    }
  }
  co_return absl::OkStatus();
}

absl::Status Checkpoints::PlaceInChain(const Chain& chain, size_t at, Definition* definition,
                                       CheckpointDisk* disk) const {
  if (chain[at].format.empty()) {
    return DoesNotFit(
        absl::StrCat(chain[at - 1].file, " does not say of which format ", chain[at].file, " is"),
        "unknown_format",
        absl::StrCat("Write it in: qemu-img rebase -u -f qcow2 -b ", chain[at].file, " -F FORMAT ",
                     chain[at - 1].file));
  }
  for (size_t i = 1; i <= at; ++i) {
    const std::string whose = CheckpointOf(definition->others, chain[i].file);
    if (whose.empty()) continue;
    return DoesNotFit(absl::StrCat(chain[i].file, " is checkpoint ", whose,
                                   i == at ? "'s already" : "'s, which would come after this one"),
                      "file_in_use", "Checkpoints are defined in the order of their age.");
  }
  // As whoever opens the one above calls it.
  disk->set_file(chain[at].file);
  disk->set_format(chain[at].format);
  if (at == 1) {
    ++definition->direct;
    disk->set_overlay(chain[0].file);
    disk->set_overlay_kept(true);
  }
  for (size_t i = at + 1; i < chain.size(); ++i) {
    const std::string whose = CheckpointOf(definition->others, chain[i].file);
    if (whose.empty()) continue;
    if (i > at + 1) {
      return DoesNotFit(absl::StrCat("between ", chain[at].file, " and checkpoint ", whose,
                                     " lies ", chain[at + 1].file),
                        "file_between", "Define a checkpoint of that one first.");
    }
    disk->set_below(chain[i].file);
    definition->parents.insert(whose);
    break;
  }
  return absl::OkStatus();
}

absl::Status Checkpoints::MemoryDoesNotFit(const Definition& definition, const std::string& why) {
  return DoesNotFit(absl::StrCat(definition.request.memory_file(), " does not fit: ", why),
                    "memory_does_not_fit", "Define its disks alone, without the memory.");
}

// That it is of those files, as they are.
Task<absl::Status> Checkpoints::MatchMemory(std::shared_ptr<Definition> definition,
                                            std::shared_ptr<MemoryCopy> memory) {
  CheckpointRecord& record = definition->record;
  const CheckpointRecord none;
  CO_ASSIGN_OR_RETURN(DisksThen then, DisksOfMemory(memory->head(), memory->tail(), none));
  if (then.generations.size() != static_cast<size_t>(record.disks_size())) {
    co_return MemoryDoesNotFit(*definition,
                               absl::StrCat("it is of ", then.generations.size(), " disks, and ",
                                            record.disks_size(), " are given"));
  }
  for (CheckpointDisk& disk : *record.mutable_disks()) {
    std::string path;
    for (const state::v1::DiskGeneration& its : then.generations) {
      const bool is_it = absl::StrCat(its.controller()) == disk.controller() &&
                         absl::StrCat(its.lun()) == disk.lun();
      if (is_it) path = its.path();
    }
    std::string one = path;
    std::string other = disk.file();
    const auto same = co_await IsSameFile(std::move(one), std::move(other));
    if (!same.ok() || !*same) {
      co_return MemoryDoesNotFit(*definition, absl::StrCat("its disk ", disk.name(), " was ", path,
                                                           ", and not ", disk.file()));
    }
    if (path == disk.file()) continue;
    disk.set_taken_as(path);
    std::string file = disk.file();
    CO_ASSIGN_OR_RETURN(*disk.mutable_generation(),
                        co_await ReadGeneration(std::move(file), &vms_.deps().reads));
  }
  if (!HasOwnDisks(then.document, definition->vm->spec())) {
    co_return MemoryDoesNotFit(*definition,
                               "the VM had other disks, or under other names, when it was written");
  }
  const absl::Status unchanged = co_await CheckGenerations(
      std::move(then.document), std::move(then.generations), &vms_.deps().reads);
  if (unchanged.ok()) co_return unchanged;
  co_return MemoryDoesNotFit(*definition, std::string(unchanged.message()));
}

Task<absl::Status> Checkpoints::LookAtMemory(std::shared_ptr<Definition> definition,
                                             std::shared_ptr<Job> job) {
  const v1::DefineCheckpointRequest& request = definition->request;
  auto memory = std::make_shared<MemoryCopy>(executor());
  const absl::Status opened = co_await memory->Open(request.memory_file(), request.key_file());
  CO_RETURN_IF_ERROR(AsDamagedMemory(opened, kWithoutMemory));
  CO_ASSIGN_OR_RETURN(const MemoryFacts facts, ReadMemoryFacts(memory->head()));
  if (facts.vm_id != definition->vm->id()) {
    co_return MemoryDoesNotFit(*definition,
                               absl::StrCat("it is of VM ", facts.vm_name, " (", facts.vm_id, ")"));
  }
  if (facts.containers > 0) {
    co_return MemoryDoesNotFit(*definition, "there were containers in the VM");
  }
  CO_RETURN_IF_ERROR(co_await MatchMemory(definition, memory));
  const uint64_t total = memory->info().memory_bytes;
  ShowVerify(job, memory);
  const absl::Status whole = co_await memory->Verify();
  CO_RETURN_IF_ERROR(AsDamagedMemory(whole, kWithoutMemory));
  CheckpointRecord& record = definition->record;
  record.set_memory_file(request.memory_file());
  record.set_memory_sha256(memory->info().sha256);
  record.set_memory_bytes(total);
  record.set_file_bytes(memory->info().file_bytes);
  record.set_memory_kept(true);
  record.set_key_file(request.key_file());
  record.set_state(facts.paused ? "paused" : "running");
  record.set_processes(facts.processes);
  record.set_taken_unix_ms(facts.saved_unix_ms);
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
