#include "vmmanager/saves/file_identity.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/saves/partial_file.h"

namespace ferry::vm {

absl::StatusOr<FileIdentity> IdentityOf(int fd) {
  struct statx found {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &found) != 0) {
    return absl::ErrnoToStatus(errno, "cannot look at a file");
  }
  FileIdentity identity{.inode = found.stx_ino};
  if ((found.stx_mask & STATX_BTIME) != 0) {
    identity.born_ns = found.stx_btime.tv_sec * 1'000'000'000 + found.stx_btime.tv_nsec;
  }
  return identity;
}

absl::Status RemoveIfSame(const std::string& path, const FileIdentity& identity) {
  const UniqueFd file(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid() && errno == ENOENT) return absl::OkStatus();
  if (!file.valid()) return absl::ErrnoToStatus(errno, StrCat("cannot look at ", path));
  ASSIGN_OR_RETURN(const FileIdentity now, IdentityOf(file.get()));
  if (now != identity) return absl::OkStatus();
  if (identity.born_ns == 0) {
    return absl::FailedPreconditionError(
        StrCat(path, " may be another file by now; look at it, and remove it"));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::ErrnoToStatus(errno, StrCat("cannot remove ", path));
  }
  return SyncFolderOf(path);
}

}  // namespace ferry::vm
