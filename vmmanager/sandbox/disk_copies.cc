#include "vmmanager/sandbox/disk_copies.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {
namespace {

constexpr uint64_t kStatBlock = 512;

// What a disk's file shows of itself.
struct Look {
  uint64_t used_bytes = 0;
  bool is_device = false;
  bool below = false;      // it lies over another file
  bool snapshots = false;  // are inside it
};

// docs/interop/qcow2.txt of QEMU.
void ReadQcow2Head(int fd, Look* look) {
  constexpr size_t kBelowAt = 8;
  constexpr size_t kSnapshotsAt = 60;
  std::array<char, kSnapshotsAt + sizeof(uint32_t)> head{};
  if (::pread(fd, head.data(), head.size(), 0) != static_cast<ssize_t>(head.size())) return;
  const auto any = [&head](size_t at, size_t size) {
    const auto begin = head.begin() + static_cast<ptrdiff_t>(at);
    return std::any_of(begin, begin + static_cast<ptrdiff_t>(size),
                       [](char byte) { return byte != 0; });
  };
  look->below = any(kBelowAt, sizeof(uint64_t));
  look->snapshots = any(kSnapshotsAt, sizeof(uint32_t));
}

absl::StatusOr<Look> LookAt(const std::string& path, const std::string& format) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info {};
  if (!file.valid() || ::fstat(file.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read disk ", path));
  }
  Look look;
  look.used_bytes = static_cast<uint64_t>(info.st_blocks) * kStatBlock;
  look.is_device = S_ISBLK(info.st_mode);
  if (format == "qcow2") ReadQcow2Head(file.get(), &look);
  return look;
}

std::string WhyNot(const v1::DiskSpec& disk, const Look& look, bool has_checkpoints) {
  if (has_checkpoints) {
    return "the VM has checkpoints, whose files would stay behind; delete them first (ferryctl "
           "checkpoint delete)";
  }
  if (look.below) {
    return absl::StrCat(disk.file(),
                        " lies over another file, which would stay behind; bring that "
                        "to where both hosts see it, or copy the disk into one file (qemu-img "
                        "convert)");
  }
  if (look.snapshots) {
    return absl::StrCat(disk.file(), " holds snapshots, which would be lost; delete them first");
  }
  return "";
}

}  // namespace

Task<void> DescribeCopies(v1::VmSpec spec, CopyWish wish,
                          google::protobuf::RepeatedPtrField<state::v1::DiskPayload>* disks,
                          FileReads* reads) {
  if (wish.storage == v1::COPY_STORAGE_NONE) co_return;
  for (const v1::DiskSpec& own : spec.disks()) {
    const auto disk = std::find_if(disks->begin(), disks->end(), [&own](const auto& described) {
      return described.name() == own.name();
    });
    if (own.read_only() || disk == disks->end()) continue;
    std::string path = own.file();
    std::function<absl::StatusOr<Look>()> look = [path, format = own.format()] {
      return LookAt(path, format);
    };
    const absl::StatusOr<Look> seen = co_await reads->Run<Look>(std::move(path), std::move(look));
    state::v1::DiskCopy& copy = *disk->mutable_copy();
    copy.set_always(wish.storage == v1::COPY_STORAGE_ALL);
    if (!seen.ok()) {
      copy.set_refusal(std::string(seen.status().message()));
      continue;
    }
    copy.set_used_bytes(seen->is_device ? disk->bytes() : seen->used_bytes);
    copy.set_refusal(WhyNot(own, *seen, wish.has_checkpoints));
  }
}

}  // namespace ferry::vm
