#include "vmmanager/disks/disks.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/containers/container_names.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/snapshot_plan.h"
#include "vmmanager/saving/file_owners.h"
#include "vmmanager/saving/job_words.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kSector = 512;
// What QEMU takes (BDRV_MAX_LENGTH) is more, and no file system has it.
constexpr uint64_t kMostBytes = uint64_t{1} << 56;
constexpr size_t kMostPath = 4096;

absl::Status CheckBytes(uint64_t bytes) {
  if (bytes >= kSector && bytes % kSector == 0 && bytes <= kMostBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("bytes is ", bytes, "; use a multiple of ", kSector, ", at most ", kMostBytes));
}

absl::Status CheckFile(const std::string& file) {
  const bool is_path = file.size() > 1 && file[0] == '/' && file.back() != '/' &&
                       file.size() <= kMostPath && file.find('\0') == std::string::npos;
  if (is_path) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("file is \"", absl::CHexEscape(file), "\"; give a file's absolute path"));
}

v1::Disk OwnDisk(const UtilityVm& vm, int index) {
  const v1::DiskSpec& its = vm.spec().disks(index);
  v1::Disk disk;
  disk.set_vm(vm.name());
  disk.set_name(its.name());
  disk.set_file(its.file());
  disk.set_format(its.format());
  disk.set_read_only(its.read_only());
  disk.set_lun(LunOf(vm.spec(), index));
  return disk;
}

// The file that a disk is to be in.
std::string TargetOf(const std::string& wanted, const std::string& from) {
  if (wanted.empty() || wanted.back() != '/') return wanted;
  return absl::StrCat(wanted, std::filesystem::path(from).filename().string());
}

absl::Status CheckRoom(const std::string& file, uint64_t needed, uint64_t free) {
  if (free >= needed) return absl::OkStatus();
  return rpc::ErrorWithReason(absl::StatusCode::kResourceExhausted,
                              absl::StrCat(file, " would need ", needed, " bytes, and ", free,
                                           " are free where it is to be; nothing was changed"),
                              "no_room", "Make room there, or choose another folder.");
}

// It is told how it goes, and can be cancelled.
void ShowMove(const std::shared_ptr<Job>& job, const std::shared_ptr<UtilityVm>& vm,
              DiskMoveWish* wish) {
  job->AllowCancel([weak = std::weak_ptr(vm), control = wish->control] {
    const auto its = weak.lock();
    if (its == nullptr) return absl::FailedPreconditionError("it is over");
    if (control->changes_over) {
      return absl::FailedPreconditionError("the disk is just changing over");
    }
    its->CallOffDiskMove(control.get());
    return absl::OkStatus();
  });
  wish->progress = [weak = std::weak_ptr(job)](uint64_t done, uint64_t total) {
    const auto told = weak.lock();
    if (!told) return;
    v1::JobProgress progress;
    progress.set_unit(v1::JOB_UNIT_BYTES);
    progress.set_phase("copying the disk");
    progress.set_done(std::min(done, total));
    progress.set_total(total);
    told->SetProgress(progress);
  };
}

// What a move would not take away, for it is only another name of the disk, or no file.
absl::StatusOr<uint64_t> InodeOfFile(const std::string& file) {
  struct stat found {};
  if (::lstat(file.c_str(), &found) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", file));
  }
  return S_ISREG(found.st_mode) ? static_cast<uint64_t>(found.st_ino) : 0;
}

}  // namespace

std::vector<v1::Disk> Disks::DisksOf(const UtilityVm& vm) const {
  std::vector<v1::Disk> disks;
  for (int i = 0; i < vm.spec().disks_size(); ++i) disks.push_back(OwnDisk(vm, i));
  for (const auto& [name, its] : DisksByName(vm.document())) {
    if (OwnDiskAt(vm.spec(), its.place.lun).has_value() || its.disk.read_only) continue;
    v1::Disk& disk = disks.emplace_back();
    disk.set_vm(vm.name());
    disk.set_name(name);
    // Its name is of the id that its container was made with, which may have another one here.
    const auto writer =
        containers_ == nullptr ? nullptr : containers_->WriterTo(vm.id(), its.disk.path);
    disk.set_container_id(writer == nullptr ? name : ContainerIdOfDisk(writer->id()));
    disk.set_file(its.disk.path);
    disk.set_format(its.disk.format);
    uint32_t lun = 0;
    if (absl::SimpleAtoi(its.place.lun, &lun)) disk.set_lun(lun);
  }
  return disks;
}

std::shared_ptr<VmContainer> Disks::FindWriter(const UtilityVm& vm,
                                               const std::string& wanted) const {
  if (containers_ == nullptr || OwnDiskNamed(vm.spec(), wanted).has_value()) return nullptr;
  for (const v1::Disk& disk : DisksOf(vm)) {
    if (disk.name() != wanted) continue;
    if (auto writer = containers_->WriterTo(vm.id(), disk.file())) return writer;
  }
  return containers_->Find(wanted, vm.id()).value_or(nullptr);
}

Task<v1::Disk> Disks::Examine(v1::Disk disk) {
  const absl::StatusOr<DiskImage> image = co_await files_.Examine(disk.file(), disk.format());
  if (image.ok()) {
    disk.set_bytes(image->bytes);
    disk.set_used_bytes(image->used_bytes);
  } else {
    disk.set_trouble(std::string(image.status().message()));
  }
  co_return disk;
}

// It has just been there, wherever its VM is by now.
Task<absl::StatusOr<v1::Disk>> Disks::Answer(std::shared_ptr<UtilityVm> vm, std::string name) {
  const auto index = OwnDiskNamed(vm->spec(), name);
  if (!index) co_return absl::NotFoundError(absl::StrCat("disk ", name, " is gone again"));
  v1::Disk disk = OwnDisk(*vm, *index);
  co_return co_await Examine(std::move(disk));
}

Task<absl::StatusOr<v1::Disk>> Disks::Create(v1::CreateDiskRequest request) {
  CO_RETURN_IF_ERROR(CheckFile(request.file()));
  CO_RETURN_IF_ERROR(CheckBytes(request.bytes()));
  NewDisk made{request.file(), request.format(), request.bytes(), owner_};
  if (made.format.empty()) made.format = "qcow2";
  if (made.format != "qcow2" && made.format != "raw") {
    co_return absl::InvalidArgumentError(
        absl::StrCat("format is \"", absl::CHexEscape(made.format), "\"; use qcow2 or raw"));
  }
  v1::Disk disk;
  disk.set_file(made.file);
  disk.set_format(made.format);
  CO_RETURN_IF_ERROR(co_await files_.Create(std::move(made)));
  co_return co_await Examine(std::move(disk));
}

Task<absl::StatusOr<v1::ListDisksResponse>> Disks::List(v1::ListDisksRequest request) {
  std::vector<std::shared_ptr<UtilityVm>> vms;
  if (request.vm().empty()) {
    vms = inventory_.List();
  } else {
    CO_ASSIGN_OR_RETURN(std::shared_ptr<UtilityVm> vm, inventory_.Find(request.vm()));
    vms.push_back(std::move(vm));
  }
  v1::ListDisksResponse all;
  for (const std::shared_ptr<UtilityVm>& vm : vms) {
    for (v1::Disk& disk : DisksOf(*vm)) *all.add_disks() = co_await Examine(std::move(disk));
  }
  co_return all;
}

Task<absl::StatusOr<v1::Disk>> Disks::Attach(v1::AttachDiskRequest request) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UtilityVm> vm, inventory_.Find(request.vm()));
  const v1::DiskSpec& disk = request.disk();
  CO_RETURN_IF_ERROR(CheckFile(disk.file()));
  // A VM that does not run would find out only when it boots.
  std::string format = disk.format();
  if (format.empty()) format = "qcow2";
  const absl::StatusOr<DiskImage> image = co_await files_.Examine(disk.file(), format);
  CO_RETURN_IF_ERROR(image.status());
  CO_RETURN_IF_ERROR(co_await vm->AttachOwnDisk(disk));
  co_return co_await Answer(vm, disk.name());
}

Task<absl::Status> Disks::Detach(v1::DetachDiskRequest request) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UtilityVm> vm, inventory_.Find(request.vm()));
  co_return co_await vm->DetachOwnDisk(request.disk());
}

Task<absl::StatusOr<v1::Disk>> Disks::Resize(v1::ResizeDiskRequest request) {
  CO_RETURN_IF_ERROR(CheckBytes(request.bytes()));
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UtilityVm> vm, inventory_.Find(request.vm()));
  const std::shared_ptr<VmContainer> writer = FindWriter(*vm, request.disk());
  if (writer != nullptr) co_return co_await GrowScratch(vm, writer, request.bytes());
  CO_RETURN_IF_ERROR(co_await vm->ResizeOwnDisk(request.disk(), request.bytes()));
  co_return co_await Answer(vm, request.disk());
}

Task<absl::StatusOr<v1::Disk>> Disks::GrowScratch(std::shared_ptr<UtilityVm> vm,
                                                  std::shared_ptr<VmContainer> container,
                                                  uint64_t bytes) {
  CO_RETURN_IF_ERROR(co_await container->GrowScratch(bytes));
  const std::string file = container->record().scratch_file();
  for (v1::Disk& disk : DisksOf(*vm)) {
    if (disk.file() == file) co_return co_await Examine(std::move(disk));
  }
  co_return absl::NotFoundError(
      absl::StrCat("the disk of container ", container->name(), " is gone again"));
}

// Files may be on storage that hangs, so they are looked at before the VM is held.
Task<absl::StatusOr<DiskMoveWish>> Disks::PlanMove(std::shared_ptr<UtilityVm> vm,
                                                   v1::MoveDiskRequest request) {
  const auto index = OwnDiskNamed(vm->spec(), request.disk());
  if (!index) {
    co_return rpc::ErrorWithReason(
        absl::StatusCode::kNotFound,
        absl::StrCat("VM ", vm->name(), " has no disk of its own named \"",
                     absl::CHexEscape(request.disk()), "\""),
        "no_such_disk", absl::StrCat("See which it has: ferryctl disk list ", vm->name()));
  }
  const v1::DiskSpec disk = vm->spec().disks(*index);
  DiskMoveWish wish;
  wish.disk = disk.name();
  wish.from = disk.file();
  wish.to = TargetOf(request.file(), disk.file());
  wish.keep = request.keep();
  CO_RETURN_IF_ERROR(CheckFile(wish.to));
  CO_ASSIGN_OR_RETURN(wish.image, co_await files_.Examine(disk.file(), disk.format()));
  wish.image.format = disk.format();
  if (!wish.image.below.empty() && wish.image.below_format.empty()) {
    co_return absl::FailedPreconditionError(
        absl::StrCat(disk.file(), " does not say of which format ", wish.image.below,
                     " is, which it lies over; tell it so: qemu-img rebase -u -F FORMAT -b ",
                     wish.image.below, " ", disk.file()));
  }
  if (wish.image.has_snapshots) {
    co_return absl::FailedPreconditionError(absl::StrCat(
        disk.file(), " holds snapshots, which would be lost; see: qemu-img snapshot -l ",
        disk.file()));
  }
  std::function<absl::StatusOr<uint64_t>()> look = [file = disk.file()] {
    return InodeOfFile(file);
  };
  CO_ASSIGN_OR_RETURN(wish.from_inode,
                      co_await inventory_.deps().reads.Run<uint64_t>(disk.file(), std::move(look)));
  if (wish.from_inode == 0 && !wish.keep) {
    co_return absl::FailedPreconditionError(
        absl::StrCat(disk.file(),
                     " is a link or a device, and cannot be removed for you; leave it "
                     "there with --keep"));
  }
  CO_ASSIGN_OR_RETURN(const Room room, co_await files_.RoomFor(wish.to));
  CO_ASSIGN_OR_RETURN(const uint64_t needed, co_await RoomNeeded(disk.file(), wish.image));
  CO_RETURN_IF_ERROR(CheckRoom(wish.to, needed, room.bytes));
  wish.files = &files_;
  wish.may_remove = [this, file = disk.file(), vm_id = vm->id(),
                     name = disk.name()]() -> Task<absl::Status> {
    std::string former = file;
    DiskOfVm its{vm_id, name};
    co_return co_await CheckIsNobodys(&inventory_, std::move(former), std::move(its));
  };
  if (!wish.keep) CO_RETURN_IF_ERROR(co_await wish.may_remove());
  co_return wish;
}

// A compressed disk becomes larger; what is below one stays there.
Task<absl::StatusOr<uint64_t>> Disks::RoomNeeded(std::string file, DiskImage image) {
  if (image.format != "qcow2" || !image.below.empty()) co_return image.used_bytes;
  CO_ASSIGN_OR_RETURN(const uint64_t measured,
                      co_await files_.Measure(std::move(file), image.format));
  co_return std::max(measured, image.used_bytes);
}

Task<absl::StatusOr<v1::Disk>> Disks::Move(v1::MoveDiskRequest request) {
  CO_ASSIGN_OR_RETURN(const std::shared_ptr<UtilityVm> vm, inventory_.Find(request.vm()));
  CO_ASSIGN_OR_RETURN(const DiskMoveWish wish, co_await PlanMove(vm, request));
  JobDescription about{v1::JOB_KIND_DISK, vm->id(), vm->name(),
                       absl::StrCat(kMove, wish.disk, kMoveTo, wish.to)};
  JobWork move = [vm, wish](std::shared_ptr<Job> job) -> Task<absl::Status> {
    DiskMoveWish shown = wish;
    ShowMove(job, vm, &shown);
    co_return co_await vm->MoveOwnDisk(std::move(shown));
  };
  CO_RETURN_IF_ERROR(co_await RunAsJob(jobs_, std::move(about), std::move(move)));
  co_return co_await Answer(vm, request.disk());
}

void Disks::Settle() {
  for (const std::shared_ptr<UtilityVm>& vm : inventory_.List()) vm->SettleDiskMove();
}

}  // namespace ferry::vm
