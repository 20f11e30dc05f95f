#include "vmmanager/sandbox/arriving_disks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <limits>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr char kFolder[] = "/disks";
constexpr char kDraft[] = "/draft";
constexpr mode_t kPassThrough = 0711;  // for the VMMs' user, who may not look around there
constexpr mode_t kOwn = 0700;
// Each has a channel of its own.
constexpr size_t kMostArrivals = 32;
// A file may be larger than the disk in it, if all of that is used.
constexpr uint64_t kMetadata = uint64_t{64} << 20;

absl::Status Cannot(const char* doing, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", doing, " ", path));
}

absl::Status Sync(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.valid() && ::fsync(fd.get()) == 0) return absl::OkStatus();
  return Cannot("bring to the disk the folder", folder);
}

absl::Status MakeFolder(const std::string& path) {
  const bool there = ::mkdir(path.c_str(), kOwn) == 0 || errno == EEXIST;
  // Whatever the umask says.
  if (there && ::chmod(path.c_str(), kPassThrough) == 0) return absl::OkStatus();
  return Cannot("make folder", path);
}

absl::Status MakeDraft(const ArrivalFolder& folder) {
  const std::string all = absl::StrCat(folder.state_folder, kFolder);
  const std::string of_vm = absl::StrCat(all, "/", folder.vm_id);
  const std::string own = folder.path();
  RETURN_IF_ERROR(MakeFolder(all));
  RETURN_IF_ERROR(MakeFolder(of_vm));
  // One without the mark may be left of a daemon that died just here.
  (void)::rmdir(own.c_str());
  if (::mkdir(own.c_str(), kOwn) != 0) {
    if (errno != EEXIST) return Cannot("make folder", own);
    return absl::AlreadyExistsError(
        absl::StrCat("the folder ", own,
                     " exists: a session of that id has brought the VM's disks "
                     "here before; choose another id"));
  }
  const std::string draft = absl::StrCat(own, kDraft);
  const UniqueFd mark(::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!mark.valid()) return Cannot("make", draft);
  // The VMMs' user only passes through it to the files that are its own: no VMM that was broken
  // into makes a draft of another one's disks.
  if (::chmod(own.c_str(), kPassThrough) != 0) return Cannot("open the folder", own);
  for (const std::string& each : {own, of_vm, all, folder.state_folder}) {
    RETURN_IF_ERROR(Sync(each));
  }
  return absl::OkStatus();
}

absl::Status RemoveDraft(const ArrivalFolder& folder) {
  const std::filesystem::path own = folder.path();
  const std::filesystem::path draft = absl::StrCat(own.string(), kDraft);
  std::error_code error;
  const bool is_draft = std::filesystem::exists(draft, error);
  // Made just before somebody died, it is empty.
  if (!is_draft && !error) (void)::rmdir(own.c_str());
  if (!is_draft && !error) return absl::OkStatus();
  // The mark goes last, so that whoever comes after a crash goes on.
  // A range-based loop would throw where the folder cannot be read on.
  std::filesystem::directory_iterator file(own, error);
  while (!error && file != std::filesystem::directory_iterator()) {
    if (file->path() != draft) std::filesystem::remove(file->path(), error);
    if (!error) file.increment(error);
  }
  if (!error) std::filesystem::remove(draft, error);
  if (!error) std::filesystem::remove(own, error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot remove what came of disks into ",
                                               own.string(), ": ", error.message()));
  }
  // Others may have theirs in it.
  std::filesystem::remove(own.parent_path(), error);
  return absl::OkStatus();
}

absl::Status KeepDraft(const ArrivalFolder& folder) {
  const std::string own = folder.path();
  const std::string draft = absl::StrCat(own, kDraft);
  if (::unlink(draft.c_str()) == 0) return Sync(own);
  return errno == ENOENT ? absl::OkStatus() : Cannot("remove", draft);
}

Task<absl::Status> RunWith(FileReads* reads, ArrivalFolder folder,
                           absl::Status (*work)(const ArrivalFolder&)) {
  std::function<absl::StatusOr<bool>()> run = [folder, work]() -> absl::StatusOr<bool> {
    RETURN_IF_ERROR(work(folder));
    return true;
  };
  std::string path = folder.path();
  co_return (co_await reads->Run<bool>(std::move(path), std::move(run))).status();
}

}  // namespace

std::string ArrivalFolder::path() const {
  constexpr size_t kNameBytes = 8;
  return absl::StrCat(state_folder, kFolder, "/", vm_id, "/",
                      absl::BytesToHexString(Sha256(session_id).substr(0, kNameBytes)));
}

absl::Status PlaceArrivingDisks(const ArrivalFolder& folder, std::vector<ArrivingDisk>* disks,
                                schema::ComputeSystem* document, v1::VmSpec* spec) {
  auto& scsi = document->virtual_machine.devices.scsi;
  if (disks->size() > kMostArrivals) {
    return absl::FailedPreconditionError(
        absl::StrCat("the VM has ", disks->size(), " disks that are to be copied, and at most ",
                     kMostArrivals, " can be at once; bring some to storage that both hosts see"));
  }
  for (ArrivingDisk& disk : *disks) {
    const auto index = OwnDiskNamed(*spec, disk.name);
    const auto controller = scsi.find(kDiskController);
    if (!index || absl::StrCat(LunOf(*spec, *index)) != disk.lun || controller == scsi.end() ||
        !controller->second.attachments.contains(disk.lun)) {
      return absl::InvalidArgumentError(
          absl::StrCat("disk ", disk.name, " is to be copied, and is none of the VM's own"));
    }
    disk.file = absl::StrCat(folder.path(), "/", disk.lun, ".", disk.format);
    controller->second.attachments[disk.lun].path = disk.file;
    spec->mutable_disks(*index)->set_file(disk.file);
  }
  return absl::OkStatus();
}

Task<absl::StatusOr<uint64_t>> ArrivalRoom(OverlayFiles* files, std::string state_folder,
                                           uint64_t reserve) {
  if (files == nullptr || state_folder.empty()) {
    co_return absl::FailedPreconditionError("this host has no folder for disks that are copied");
  }
  // Something else may be mounted there; and before the first disk has come there is nothing.
  std::string place = absl::StrCat(state_folder, kFolder, "/disk");
  absl::StatusOr<Room> there = co_await files->RoomFor(std::move(place));
  if (!there.ok()) {
    std::string before = absl::StrCat(state_folder, kFolder);
    there = co_await files->RoomFor(std::move(before));
  }
  if (!there.ok()) co_return there.status();
  co_return there->bytes - std::min(there->bytes, reserve);
}

absl::Status NoRoomForDisks(uint64_t wanted, uint64_t room) {
  return rpc::ErrorWithReason(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("the VM's disks that are to be copied have ", wanted,
                   " bytes, and the destination's folder of disks has room for ", room, " more"),
      "no_room_for_disks",
      "free some there, choose another destination, or bring the disks to storage that both hosts "
      "see");
}

Task<absl::Status> CheckArrivalRoom(OverlayFiles* files, std::string state_folder,
                                    std::vector<ArrivingDisk> disks, uint64_t reserve) {
  if (disks.empty()) co_return absl::OkStatus();
  uint64_t wanted = 0;  // the numbers are another host's
  for (const ArrivingDisk& disk : disks) {
    const uint64_t left = std::numeric_limits<uint64_t>::max() - wanted;
    const uint64_t most = std::max(disk.bytes, disk.bytes + kMetadata);
    wanted += std::min({disk.used_bytes, most, left});
  }
  CO_ASSIGN_OR_RETURN(const uint64_t room,
                      co_await ArrivalRoom(files, std::move(state_folder), reserve));
  co_return wanted <= room ? absl::OkStatus() : NoRoomForDisks(wanted, room);
}

Task<absl::Status> MakeArrivingDisks(FileReads* reads, OverlayFiles* files, ArrivalFolder folder,
                                     std::vector<ArrivingDisk> disks) {
  CO_RETURN_IF_ERROR(co_await RunWith(reads, folder, MakeDraft));
  for (const ArrivingDisk& disk : disks) {
    NewDisk made{.file = disk.file,
                 .format = disk.format,
                 .bytes = disk.bytes,
                 .owner = folder.owner,
                 .below = disk.below,
                 .below_format = disk.below_format};
    CO_RETURN_IF_ERROR(co_await files->Create(std::move(made)));
  }
  co_return absl::OkStatus();
}

Task<absl::Status> KeepArrivals(FileReads* reads, ArrivalFolder folder) {
  co_return co_await RunWith(reads, std::move(folder), KeepDraft);
}

Task<absl::Status> RemoveArrivals(FileReads* reads, ArrivalFolder folder) {
  co_return co_await RunWith(reads, std::move(folder), RemoveDraft);
}

}  // namespace ferry::vm
