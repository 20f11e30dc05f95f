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
  if (look.snapshots) {
    return absl::StrCat(disk.file(), " holds snapshots, which would be lost; delete them first");
  }
  return "";
}

// What becomes of the files that a disk lies over.
Task<absl::Status> DescribeBelow(std::string file, v1::CopyStorage storage, ImageDigests* digests,
                                 OverlayFiles* files, state::v1::DiskCopy* copy) {
  if (files == nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrCat(file, " lies over another file, of which nothing is known"));
  }
  std::string name = file;
  std::string format = "qcow2";
  CO_ASSIGN_OR_RETURN(const DiskImage disk, co_await files->Examine(name, format));
  if (storage != v1::COPY_STORAGE_TOP) {
    CO_ASSIGN_OR_RETURN(const uint64_t all, co_await files->Measure(name, format));
    copy->set_used_bytes(std::max(copy->used_bytes(), all));
    co_return absl::OkStatus();
  }
  if (disk.below_format.empty()) {
    co_return absl::FailedPreconditionError(
        absl::StrCat(file, " does not say of which format ", disk.below, " is that it lies over"));
  }
  name = disk.below;
  format = disk.below_format;
  CO_ASSIGN_OR_RETURN(const DiskImage below, co_await files->Examine(name, format));
  if (!below.below.empty()) {
    co_return absl::FailedPreconditionError(absl::StrCat(
        file, " lies over more files than one; leave out --copy-storage top, and it comes whole"));
  }
  CO_ASSIGN_OR_RETURN(const std::string content, co_await digests->Get(std::move(name)));
  copy->mutable_below()->set_file(disk.below);
  copy->mutable_below()->set_format(disk.below_format);
  copy->mutable_below()->set_sha256(content);
  co_return absl::OkStatus();
}

}  // namespace

Task<void> DescribeCopies(v1::VmSpec spec, CopyWish wish,
                          google::protobuf::RepeatedPtrField<state::v1::DiskPayload>* disks,
                          ImageDigests* digests, OverlayFiles* files) {
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
    const absl::StatusOr<Look> seen =
        co_await digests->reads().Run<Look>(std::move(path), std::move(look));
    state::v1::DiskCopy& copy = *disk->mutable_copy();
    copy.set_always(wish.storage == v1::COPY_STORAGE_ALL);
    if (!seen.ok()) {
      copy.set_refusal(std::string(seen.status().message()));
      continue;
    }
    copy.set_used_bytes(seen->is_device ? disk->bytes() : seen->used_bytes);
    copy.set_refusal(WhyNot(own, *seen, wish.has_checkpoints));
    if (!seen->below || !copy.refusal().empty()) continue;
    std::string disk_file = own.file();
    const absl::Status described =
        co_await DescribeBelow(std::move(disk_file), wish.storage, digests, files, &copy);
    if (!described.ok()) copy.set_refusal(std::string(described.message()));
  }
}

}  // namespace ferry::vm
