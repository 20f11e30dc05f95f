// How a VM goes on from its file.
#include <algorithm>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unix_time.h"
#include "guestmanager/timeline.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/checkpoint_tree.h"
#include "vmmanager/sandbox/disk_generations.h"
#include "vmmanager/sandbox/incoming_machine.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/private_socket.h"
#include "vmmanager/saving/memory_copy.h"
#include "vmmanager/saving/memory_disks.h"
#include "vmmanager/saving/saved_states.h"
#include "vmmanager/saving/saving_jobs.h"
#include "vmmanager/state/fingerprint_check.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {

struct SavedStates::Source {
  Source(Executor executor, state::v1::SavedRecord its)
      : record(std::move(its)), file(std::make_shared<FileBeingRestored>(std::move(executor))) {}

  state::v1::SavedRecord record;
  bool is_new = false;  // named by the caller, and not the VM's own
  std::shared_ptr<FileBeingRestored> file;
  PlanState plan;
  CutState cut;
  state::v1::SavedTail tail;
  schema::ComputeSystem document;
  Warnings warnings;
  ReturningContainers::Records former;  // what its containers were, if they are something else now
};

namespace {

constexpr char kRefused[] = "restore_refused";
constexpr char kEnded[] = "restore_ended";
constexpr size_t kStemChars = 8;
// As long as the disk takes.
constexpr milliseconds kVerifyLimit{std::chrono::hours(24)};

// What the machine boots from is in the memory of one that has booted.
bool IsOfTheImage(const v1::Difference& difference) {
  const std::string& field = difference.field();
  return field == "kernel" || field == "initrd" || field == "firmware";
}

schema::Attachment Disk(const std::string& path, const std::string& format, bool read_only) {
  schema::Attachment disk;
  disk.path = path;
  disk.format = format;
  disk.read_only = read_only;
  return disk;
}

bool IsThatDisk(const schema::Attachment& one, const schema::Attachment& other) {
  return one.path == other.path && one.format == other.format && one.read_only == other.read_only;
}

// Disks of a checkpoint that were merged into other files since are there.
absl::Status NameDisksAsNow(const state::v1::SavedRecord& record, state::v1::VmPayload* vm,
                            std::vector<state::v1::DiskGeneration>* disks) {
  ASSIGN_OR_RETURN(schema::ComputeSystem document,
                   schema::ComputeSystemFromJson(vm->hcs_document_json()));
  for (const state::v1::SavedOverlay& moved : record.overlays()) {
    if (!moved.has_below()) continue;
    const MergedDisk merged{moved.file(), moved.below(), moved.format()};
    RenameDevices(NameAsNow(merged, &document, disks), vm->mutable_fingerprint());
  }
  vm->set_hcs_document_json(schema::ToJson(document));
  return absl::OkStatus();
}

// The disks of a VM that went back to a checkpoint are those that it was saved with, under files of
// their own.
void GoOnInOverlays(const state::v1::SavedRecord& record, schema::ComputeSystem* document,
                    CutState* cut) {
  std::map<std::string, std::string> overlays;
  for (const state::v1::SavedOverlay& disk : record.overlays()) {
    overlays[disk.file()] = disk.overlay();
    if (disk.has_below()) overlays[disk.below().path()] = disk.overlay();
  }
  ForEachDisk(document, [&overlays](schema::Attachment& disk) {
    const auto over = overlays.find(disk.path);
    if (over == overlays.end() || disk.read_only) return;
    disk.path = over->second;
    disk.format = "qcow2";
  });
  for (state::v1::ContainerRecord& container : cut->containers) {
    const auto over = overlays.find(container.scratch_file());
    if (over != overlays.end()) container.set_scratch_file(over->second);
  }
}

// Of a VM that runs no file is looked at: it would only be found to be older than its disks.
absl::Status CheckHasEnded(const UtilityVm& vm) {
  RETURN_IF_ERROR(vm.RefuseIfMigrating("restored"));
  const v1::VmState state = vm.state();
  const bool ended =
      state == v1::VM_STATE_STOPPED || state == v1::VM_STATE_FAILED || state == v1::VM_STATE_SAVED;
  return ended ? absl::OkStatus() : vm.Refuse("restored");
}

// One that is being started, saved or restored is what that makes of it.
Task<void> AwaitOutcome(std::shared_ptr<UtilityVm> vm) {
  if (vm->in_file() || vm->state() == v1::VM_STATE_STARTING) co_await vm->AwaitOperation();
}

// What has a reason of its own says what to do, too; and what may be different the next time says
// nothing of the file.
bool SaysWhatToDo(const absl::Status& why) {
  const auto info = rpc::GetErrorInfo(why);
  const bool has_reason = info.has_value() && !info->reason().empty();
  return has_reason || absl::IsDeadlineExceeded(why) || absl::IsCancelled(why);
}

absl::Status Unreadable() { return absl::DataLossError("what it says of the VM cannot be read"); }

}  // namespace

Task<absl::StatusOr<SavedStates::Warnings>> SavedStates::Start(Vm vm, v1::StartVmRequest request) {
  const bool from_file = !request.from_file().empty();
  if (request.discard_saved() && (from_file || request.or_boot())) {
    co_return absl::InvalidArgumentError("discard_saved goes with neither from_file nor or_boot");
  }
  if (from_file && request.from_file()[0] != '/') {
    co_return absl::InvalidArgumentError("from_file must be an absolute path on the VM's host");
  }
  co_await AwaitOutcome(vm);
  if (from_file) CO_RETURN_IF_ERROR(CheckHasEnded(*vm));
  if (request.discard_saved()) CO_RETURN_IF_ERROR(co_await Discard(vm));
  const auto saved = vm->saved();
  if (saved.has_value() && from_file && saved->file() != request.from_file()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("VM ", vm->name(), " is saved in ", saved->file(),
                     ", which it would not go on from any more"),
        "saved_elsewhere",
        absl::StrCat("Let it go on from there (ferryctl start ", vm->name(),
                     "), or give that up first: ferryctl start --discard-saved ", vm->name()));
  }
  Warnings warnings;
  if (!saved.has_value() && !from_file) {
    CO_RETURN_IF_ERROR(co_await vm->Start());
    co_return warnings;
  }
  if (saved.has_value() && saved->file().empty()) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kFailedPrecondition,
        absl::StrCat("a newer ferryd has saved VM ", vm->name(),
                     ", and this one cannot read where"),
        "saved_by_newer",
        absl::StrCat("Use that one; or boot the VM, and lose what was saved: ferryctl start "
                     "--discard-saved ",
                     vm->name()));
  }
  state::v1::SavedRecord record = saved.value_or(state::v1::SavedRecord());
  if (!saved.has_value()) {
    record.set_schema_version(kStateSchemaVersion);
    record.set_file(request.from_file());
    record.set_kept(true);
  }
  if (!request.key_file().empty()) record.set_key_file(request.key_file());
  auto source = std::make_shared<Source>(vms_.deps().executor, record);
  source->is_new = !saved.has_value();
  JobDescription about = DescribeRestore(*vm, record.file());
  JobWork go_on = [this, vm, source](std::shared_ptr<Job> job) {
    return GoOn(vm, source, std::move(job));
  };
  const absl::Status went_on = co_await RunAsJob(options_.jobs, std::move(about), std::move(go_on));
  if (went_on.ok()) {
    const auto used = vm->used_up();
    const bool uncertain = used.has_value() && used->file() == record.file();
    if (uncertain) {
      const std::string aside = co_await PutAside(record);
      source->warnings.push_back(
          absl::StrCat("its VMM does not say yet that it runs; what was saved is kept as ", aside));
    } else if (!record.kept()) {
      co_await files_.Remove(record.file());
    }
    co_return source->warnings;
  }
  // Somebody else may have let it go on meanwhile, which is what was asked for.
  const bool is_up = vm->state() == v1::VM_STATE_RUNNING || vm->state() == v1::VM_STATE_PAUSED;
  if (is_up && !from_file) co_return warnings;
  if (rpc::ReasonOf(went_on) == kEnded) (void)co_await PutAside(record);
  if (!request.or_boot() || rpc::ReasonOf(went_on) != kRefused) co_return went_on;
  std::string kept = record.file();
  if (saved.has_value()) {
    kept = co_await PutAside(record);
    CO_RETURN_IF_ERROR(co_await vm->DiscardSaved(saved->sha256()));
  }
  CO_RETURN_IF_ERROR(co_await vm->Start());
  warnings.push_back(absl::StrCat("it was booted, and what was saved is lost unless you want it: ",
                                  went_on.message(), " (now ", kept, ")"));
  co_return warnings;
}

// What the caller is told, so that a saved state that cannot go on is told apart from whatever else
// keeps a VM from running.
absl::Status SavedStates::ToTell(const UtilityVm& vm, const Source& source,
                                 const absl::Status& why) const {
  const bool has_not_run = why.GetPayload(kHasNotRun).has_value();
  if (SaysWhatToDo(why)) return why;
  if (absl::IsUnavailable(why) && !has_not_run) return why;
  const std::string& file = source.record.file();
  const std::string text =
      absl::StrCat("VM ", vm.name(), " cannot go on from ", file, ": ", why.message());
  if (!has_not_run) {
    return rpc::ErrorWithReason(
        absl::StatusCode::kAborted,
        absl::StrCat(text, "; it may have run for a moment, so it cannot go on from there again"),
        kEnded, absl::StrCat("Boot it: ferryctl start ", vm.name()));
  }
  const absl::StatusCode code =
      absl::IsDataLoss(why) ? why.code() : absl::StatusCode::kFailedPrecondition;
  return rpc::ErrorWithReason(
      code, absl::StrCat(text, "; it does not run, and the file is kept"), kRefused,
      absl::StrCat("Mend that and try again; or boot it, and lose what was saved: ferryctl start "
                   "--or-boot ",
                   vm.name()));
}

Task<absl::Status> SavedStates::GoOn(Vm vm, std::shared_ptr<Source> source,
                                     std::shared_ptr<Job> job) {
  absl::Status fits = co_await Read(vm, source);
  if (fits.ok()) ShowRestore(job, source->file);
  if (fits.ok()) fits = co_await FitHere(vm, source);
  if (!fits.ok()) {
    // Somebody else may have let it go on, and that is the reason then.
    co_await AwaitOutcome(vm);
    CO_RETURN_IF_ERROR(CheckHasEnded(*vm));
    fits.SetPayload(kHasNotRun, absl::Cord());
    co_return ToTell(*vm, *source, fits);
  }
  CO_ASSIGN_OR_RETURN(const PrivateSocket socket,
                      PrivateSocket::Make(options_.socket_folder, vm->id().substr(0, kStemChars),
                                          options_.vmm_owner));
  SavedMachine machine;
  machine.document = source->document;
  machine.guest = source->cut.guest;
  const bool goes_back = source->is_new || !source->record.checkpoint().empty();
  if (goes_back) guest::BeginTimeline(&machine.guest, vm->last_timeline(), NowUnixMs());
  machine.paused = source->cut.paused_by_user;
  machine.firmware_store = source->plan.vm.firmware_store();
  machine.endpoint.unix_path = socket.path();
  machine.sha256 = source->file->info().sha256;
  if (source->is_new) machine.record = source->record;
  RestoreSteps steps;
  steps.send = [source, path = socket.path()] { source->file->Send(path); };
  steps.sent = [source]() -> Task<absl::Status> { co_return co_await source->file->Sent(); };
  steps.before_run = [this, id = vm->id(), source]() -> Task<absl::Status> {
    co_return co_await returning_.GoOnAs(id, source->cut.containers, &source->former);
  };
  steps.put_back = [this, id = vm->id(), source]() -> Task<void> {
    co_await returning_.PutBack(id, source->former);
  };
  const absl::Status restored = co_await vm->Restore(std::move(machine), std::move(steps));
  // They are as the VM is, whatever that is now.
  co_await returning_.TakeUp(vm->id());
  if (restored.ok()) co_return restored;
  co_return ToTell(*vm, *source, restored);
}

Task<absl::StatusOr<schema::Topology>> SavedStates::CheckCanGoOn(Vm vm,
                                                                 state::v1::SavedRecord record,
                                                                 std::shared_ptr<Job> job) {
  auto source = std::make_shared<Source>(vms_.deps().executor, std::move(record));
  absl::Status fits = co_await Read(vm, source);
  if (fits.ok()) fits = co_await FitHere(vm, source);
  if (fits.ok()) fits = co_await VerifyMemory(vm, source, job);
  // Neither is for want of a whole file.
  CO_RETURN_IF_ERROR(vm->CheckHere());
  if (fits.ok()) co_return source->document.virtual_machine.compute_topology;
  if (SaysWhatToDo(fits)) co_return fits;
  const absl::StatusCode code =
      absl::IsDataLoss(fits) ? fits.code() : absl::StatusCode::kFailedPrecondition;
  co_return rpc::ErrorWithReason(
      code,
      absl::StrCat("VM ", vm->name(), " cannot go on from ", source->record.file(), ": ",
                   fits.message(), "; nothing was changed"),
      kRefused, "Mend that and try again; what the VM has is as it was.");
}

// A daemon that stops waits for nobody who reads a large file.
Task<absl::Status> SavedStates::VerifyMemory(Vm vm, std::shared_ptr<Source> source,
                                             std::shared_ptr<Job> job) {
  using asio::experimental::awaitable_operators::operator||;
  auto memory = std::make_shared<MemoryCopy>(vms_.deps().executor);
  CO_RETURN_IF_ERROR(co_await memory->Open(source->record.file(), source->record.key_file()));
  ShowVerify(job, memory);
  const std::function<bool()> always = [] { return true; };
  auto first = co_await (memory->Verify() || vm->AwaitWhile(always, kVerifyLimit));
  if (first.index() != 0) co_return std::get<1>(std::move(first));
  // Whoever was told that it is called off has not been told too late.
  if (memory->called_off()) co_return absl::CancelledError("it was called off");
  co_return std::get<0>(std::move(first));
}

Task<absl::Status> SavedStates::Read(Vm vm, std::shared_ptr<Source> source) {
  CO_RETURN_IF_ERROR(co_await source->file->Open(source->record.file(), source->record.key_file()));
  const SavedFileInfo& info = source->file->info();
  if (!source->is_new && info.sha256 != source->record.sha256()) {
    co_return absl::DataLossError("it is not the file that the VM was saved in");
  }
  state::v1::SavedHead head;
  if (!head.ParseFromString(source->file->head()) ||
      !source->tail.ParseFromString(source->file->tail())) {
    co_return Unreadable();
  }
  if (head.schema_version() != kStateSchemaVersion ||
      source->tail.schema_version() != kStateSchemaVersion) {
    co_return absl::FailedPreconditionError(absl::StrCat("it is of version ", head.schema_version(),
                                                         ", and this ferryd knows ",
                                                         kStateSchemaVersion));
  }
  CO_ASSIGN_OR_RETURN(source->plan, DecodePlan(head.plan()));
  CO_ASSIGN_OR_RETURN(source->cut, DecodeCut(head.cut(), head.plan()));
  if (source->plan.vm.vm_id() != vm->id()) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("it is VM ", source->plan.vm.vm_name(), " (", source->plan.vm.vm_id(), ")"));
  }
  if (!source->is_new) co_return absl::OkStatus();
  source->record.set_sha256(info.sha256);
  TakeAsCheckpoint(*vm, source.get());
  source->record.set_saved_unix_ms(head.saved_unix_ms());
  source->record.set_file_bytes(info.file_bytes);
  source->record.set_memory_bytes(info.memory_bytes);
  source->record.set_compressed(info.compression == SaveCompression::kZstd);
  co_return absl::OkStatus();
}

// A file that the caller names may be the memory of a checkpoint: it goes on in what is over the
// checkpoint's disks now.
void SavedStates::TakeAsCheckpoint(const UtilityVm& vm, Source* source) {
  state::v1::SavedRecord& record = source->record;
  const std::string name = CheckpointOfMemory(vm.checkpoints(), record.sha256());
  if (name.empty()) return;
  const state::v1::CheckpointRecord& checkpoint = vm.checkpoints().at(name);
  const state::v1::SavedRecord memory = MemoryOf(name, checkpoint);
  record.set_checkpoint(name);
  *record.mutable_overlays() = memory.overlays();
  for (int i = 0; i < checkpoint.disks_size(); ++i) {
    record.mutable_overlays(i)->set_overlay(vm.DiskFile(checkpoint.disks(i)));
  }
}

// Its disks are of the instant of its memory for only as long as that is so; who gives up what was
// written since says that by another call.
Task<absl::Status> SavedStates::CheckNothingIsOver(Vm vm, std::shared_ptr<Source> source) const {
  const std::string name = source->record.checkpoint();
  if (!source->is_new || name.empty()) co_return absl::OkStatus();
  const auto found = vm->checkpoints().find(name);
  if (found == vm->checkpoints().end()) co_return NoSuchCheckpoint(vm->name(), name);
  const state::v1::CheckpointRecord checkpoint = found->second;
  for (const state::v1::CheckpointDisk& disk : checkpoint.disks()) {
    std::string over = vm->DiskFile(disk);
    bool is_empty = BelowOf(vm->checkpoints(), over) == disk.file();
    if (is_empty) {
      CO_ASSIGN_OR_RETURN(const DiskImage image,
                          co_await vms_.deps().overlays->Examine(over, "qcow2"));
      is_empty = image.empty;
    }
    if (is_empty) continue;
    co_return absl::FailedPreconditionError(
        absl::StrCat("it is the memory of checkpoint ", name, ", and ", over,
                     " was written to since, or is not over the disks of that; what gives that up "
                     "is ferryctl checkpoint revert ",
                     vm->name(), " ", name));
  }
  co_return absl::OkStatus();
}

// Whether what was saved is still there, and could run here.
Task<absl::Status> SavedStates::FitHere(Vm vm, std::shared_ptr<Source> source) {
  std::vector<state::v1::DiskGeneration> disks(source->tail.disks().begin(),
                                               source->tail.disks().end());
  CO_RETURN_IF_ERROR(NameDisksAsNow(source->record, &source->plan.vm, &disks));
  CO_ASSIGN_OR_RETURN(IncomingMachine here, co_await FitMachine(source->plan.vm, vms_, digests_));
  const auto own = [](const v1::Difference& difference) { return IsOfTheImage(difference); };
  if (std::any_of(here.differences.begin(), here.differences.end(), own)) {
    source->warnings.push_back(
        "the guest image has changed since the VM was saved (or its firmware has); it goes on with "
        "the one that it booted, and takes the new one at its next boot");
    std::erase_if(here.differences, own);
  }
  if (!here.differences.empty()) {
    co_return absl::FailedPreconditionError(absl::StrCat(
        "this host is not what it was then (", ToText(here.differences, "then", "now"), ")"));
  }
  source->document = std::move(here.document);
  // Nor has whoever wrote the file a say in what it would boot from.
  source->document.virtual_machine.chipset = vm->document().virtual_machine.chipset;
  source->document.virtual_machine.devices.hv_socket =
      vm->document().virtual_machine.devices.hv_socket;
  CO_RETURN_IF_ERROR(returning_.CheckSame(*vm, source->cut.containers));
  returning_.PlaceLayers(source->cut.containers, &source->document);
  // Those of a checkpoint are not written to, but what is over them.
  CO_RETURN_IF_ERROR(
      co_await CheckGenerations(source->document, std::move(disks), &digests_.reads()));
  CO_RETURN_IF_ERROR(co_await CheckNothingIsOver(vm, source));
  GoOnInOverlays(source->record, &source->document, &source->cut);
  co_return CheckDisksAreIts(*vm, *source);
}

// Whoever wrote the file has no say in which files of this host a VM gets.
absl::Status SavedStates::CheckDisksAreIts(const UtilityVm& vm, const Source& source) const {
  std::vector<schema::Attachment> its;
  for (const v1::DiskSpec& disk : vm.spec().disks()) {
    its.push_back(
        Disk(disk.file(), disk.format().empty() ? "qcow2" : disk.format(), disk.read_only()));
  }
  // What went back to a checkpoint goes on in files that we have made.
  for (const state::v1::SavedOverlay& disk : source.record.overlays()) {
    its.push_back(Disk(disk.overlay(), "qcow2", false));
  }
  if (containers_ != nullptr) {
    for (const auto& container : containers_->Of(vm.id())) {
      its.push_back(Disk(container->record().scratch_file(), "qcow2", false));
      for (const state::v1::ContainerLayer& layer : container->record().layers()) {
        its.push_back(Disk(containers_->deps().images->PathOf(layer.digest()), "raw", true));
      }
    }
  }
  if (!HasOwnDisks(source.document, vm.spec())) {
    return absl::FailedPreconditionError(
        "its disks are not those of the VM, or not where they are");
  }
  for (const auto& [controller, scsi] : source.document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      const auto same = [&disk = disk](const schema::Attachment& one) {
        return IsThatDisk(one, disk);
      };
      if (std::any_of(its.begin(), its.end(), same)) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("it has a disk ", disk.path, " (", disk.format,
                       disk.read_only ? ", read-only" : "", "), which the VM does not have so"));
    }
  }
  return absl::OkStatus();
}

}  // namespace ferry::vm
