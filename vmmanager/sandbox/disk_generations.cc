#include "vmmanager/sandbox/disk_generations.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {
namespace {

using state::v1::DiskGeneration;

constexpr int64_t kNanoseconds = 1'000'000'000;

absl::StatusOr<DiskGeneration> Look(const std::string& path) {
  const UniqueFd disk(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat file {};
  // What its VMM wrote last may still be on its way, on a network's file system also its time.
  if (!disk.valid() || ::fsync(disk.get()) != 0 || ::fstat(disk.get(), &file) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the disk ", path));
  }
  DiskGeneration generation;
  generation.set_path(path);
  generation.set_inode(file.st_ino);
  generation.set_bytes(static_cast<uint64_t>(file.st_size));
  generation.set_modified_ns(file.st_mtim.tv_sec * kNanoseconds + file.st_mtim.tv_nsec);
  return generation;
}

void ForEachWritable(
    const schema::ComputeSystem& document,
    const std::function<void(uint32_t, uint32_t, const schema::Attachment&)>& see) {
  for (const auto& [controller, scsi] : document.virtual_machine.devices.scsi) {
    for (const auto& [lun, disk] : scsi.attachments) {
      uint32_t at = 0;
      uint32_t unit = 0;
      if (disk.read_only) continue;
      if (absl::SimpleAtoi(controller, &at) && absl::SimpleAtoi(lun, &unit)) see(at, unit, disk);
    }
  }
}

std::string PlaceOf(const DiskGeneration& disk) {
  return absl::StrCat("Scsi/", disk.controller(), "/", disk.lun());
}

absl::Status Compare(const DiskGeneration& then, const DiskGeneration& now) {
  std::string how;
  if (then.inode() != now.inode()) {
    how = "is another file";
  } else if (then.bytes() != now.bytes() || then.modified_ns() != now.modified_ns()) {
    how = "was written to";
  } else {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("its disk ", now.path(), " ", how,
                   " since, and the guest would take what it remembers of it for true"));
}

}  // namespace

bool HasWritableDisks(const schema::ComputeSystem& document) {
  bool has = false;
  ForEachWritable(document, [&has](uint32_t, uint32_t, const schema::Attachment&) { has = true; });
  return has;
}

Task<absl::StatusOr<DiskGeneration>> ReadGeneration(std::string path, FileReads* reads) {
  std::function<absl::StatusOr<DiskGeneration>()> look = [path] { return Look(path); };
  co_return co_await reads->Run<DiskGeneration>(path, std::move(look));
}

Task<absl::StatusOr<std::vector<DiskGeneration>>> ReadGenerations(schema::ComputeSystem document,
                                                                  FileReads* reads) {
  std::vector<DiskGeneration> places;
  ForEachWritable(document, [&](uint32_t controller, uint32_t lun, const schema::Attachment& disk) {
    DiskGeneration& place = places.emplace_back();
    place.set_controller(controller);
    place.set_lun(lun);
    place.set_path(disk.path);
  });
  std::vector<DiskGeneration> generations;
  for (const DiskGeneration& place : places) {
    CO_ASSIGN_OR_RETURN(DiskGeneration found, co_await ReadGeneration(place.path(), reads));
    found.set_controller(place.controller());
    found.set_lun(place.lun());
    generations.push_back(std::move(found));
  }
  co_return generations;
}

Task<absl::Status> CheckGenerations(schema::ComputeSystem document,
                                    std::vector<DiskGeneration> then, FileReads* reads) {
  CO_ASSIGN_OR_RETURN(const std::vector<DiskGeneration> now,
                      co_await ReadGenerations(std::move(document), reads));
  if (now.size() != then.size()) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("it was saved with ", then.size(), " writable disks, and has ", now.size()));
  }
  for (size_t i = 0; i < now.size(); ++i) {
    if (PlaceOf(then[i]) != PlaceOf(now[i])) {
      co_return absl::FailedPreconditionError(
          absl::StrCat("it was saved with a disk at ", PlaceOf(then[i])));
    }
    CO_RETURN_IF_ERROR(Compare(then[i], now[i]));
  }
  co_return absl::OkStatus();
}

}  // namespace ferry::vm
