#include "bridge/container/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bridge/container/mount_table.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {
namespace fs = std::filesystem;
namespace {

// EXT4_IOC_RESIZE_FS of the kernel's fs/ext4/ext4.h, which is in no header here; takes the number
// of blocks.
constexpr unsigned long kGrowExt4 = _IOW('f', 16, uint64_t);

absl::Status Mount(const std::string& source, const std::string& target, const MountPlan& plan) {
  const char* type = plan.type.empty() ? nullptr : plan.type.c_str();
  if (mount(source.c_str(), target.c_str(), type, plan.flags, plan.data.c_str()) != 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("cannot mount ", source, " (", type == nullptr ? "bind" : type, ") on ",
                            target));
  }
  // A bind mount takes its flags from the source, and its own only afterwards.
  if ((plan.flags & MS_BIND) == 0 || plan.flags == MS_BIND) return absl::OkStatus();
  if (mount(nullptr, target.c_str(), nullptr, plan.flags | MS_REMOUNT, nullptr) == 0) {
    return absl::OkStatus();
  }
  const absl::Status failure =
      absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", target, " read-only"));
  umount2(target.c_str(), MNT_DETACH);
  return failure;
}

}  // namespace

absl::StatusOr<std::string> ReadStart(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  std::string start(kProbeSize, '\0');
  size_t have = 0;
  while (have < start.size()) {
    const ssize_t got =
        pread(file.get(), start.data() + have, start.size() - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  start.resize(have);
  return start;
}

absl::Status WriteWord(const std::string& path, const std::string& word) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.valid() && write(file.get(), word.data(), word.size()) >= 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot make ", path, ": ", error.message()));
}

absl::Status MountAt(const std::string& source, const std::string& target, const MountPlan& plan) {
  const bool was_there = access(target.c_str(), F_OK) == 0;
  RETURN_IF_ERROR(MakeFolder(target));
  absl::Status status = Mount(source, target, plan);
  if (!status.ok() && !was_there) rmdir(target.c_str());
  return status;
}

absl::Status UnmountAt(const std::string& path) {
  if (umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0) {
    rmdir(path.c_str());
    return absl::OkStatus();
  }
  if (errno == ENOENT || errno == EINVAL) return absl::OkStatus();
  if (errno == EBUSY) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is in use; delete its container"));
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot unmount ", path));
}

absl::Status GrowAt(const std::string& device, const std::string& path) {
  const UniqueFd disk(open(device.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd root(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  uint64_t bytes = 0;
  struct statfs info = {};
  if (!disk.valid() || !root.valid() || ioctl(disk.get(), BLKGETSIZE64, &bytes) != 0 ||
      fstatfs(root.get(), &info) != 0 || info.f_bsize <= 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", device));
  }
  const uint64_t blocks = bytes / static_cast<uint64_t>(info.f_bsize);
  if (ioctl(root.get(), kGrowExt4, &blocks) == 0) return absl::OkStatus();
  // Whatever is the matter with it: the request was a good one.
  return absl::FailedPreconditionError(absl::StrCat(
      "cannot enlarge the file system at ", path, ": ", absl::ErrnoToStatus(errno, "").message()));
}

absl::StatusOr<bool> IsMountPoint(const std::string& mount_table, const std::string& path) {
  std::ifstream file(mount_table);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().empty()) {
    return absl::InternalError(absl::StrCat("cannot read ", mount_table));
  }
  const std::vector<std::string> points = MountPointsBelow(text.str(), path);
  return std::find(points.begin(), points.end(), path) != points.end();
}

}  // namespace ferry::bridge
