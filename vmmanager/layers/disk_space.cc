#include "vmmanager/layers/disk_space.h"

#include <sys/statvfs.h>

#include <cerrno>
#include <limits>

#include "absl/strings/str_cat.h"

namespace ferry::layers {

absl::StatusOr<uint64_t> FreeBytes(int fd) {
  struct statvfs info {};
  if (::fstatvfs(fd, &info) != 0) {
    return absl::ErrnoToStatus(errno, "cannot find out how full the disk is");
  }
  // Some in memory have no size of their own.
  if (info.f_blocks == 0) return std::numeric_limits<uint64_t>::max();
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

absl::Status TooFull(uint64_t free) {
  return absl::UnavailableError(
      absl::StrCat("the images' disk is too full: it has ", free >> 20, " MiB left"));
}

absl::Status WriteError(int error, absl::string_view what) {
  if (error == ENOSPC || error == EDQUOT) {
    return absl::UnavailableError(absl::StrCat(what, ": the images' disk is full"));
  }
  if (error == EFBIG) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": it is larger than it may be"));
  }
  return absl::ErrnoToStatus(error, what);
}

}  // namespace ferry::layers
