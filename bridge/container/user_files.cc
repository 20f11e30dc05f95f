#include "bridge/container/user_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

// `path` as if `root` were "/", not yet opened: to open a device may do something already.
UniqueFd FindIn(int root, const char* path) {
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(static_cast<int>(syscall(SYS_openat2, root, path, &how, sizeof(how))));
}

absl::Status Unreadable(const char* path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("cannot read the container's ", path, ": ", why));
}

absl::StatusOr<std::string> ReadIn(int root, const char* path) {
  const UniqueFd found = FindIn(root, path);
  if (!found.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) return std::string();
    return Unreadable(path, strerror(errno));
  }
  struct stat info = {};
  if (fstat(found.get(), &info) != 0) return Unreadable(path, strerror(errno));
  if (!S_ISREG(info.st_mode)) return Unreadable(path, "it is no file");
  const std::string name = absl::StrCat("/proc/self/fd/", found.get());
  const UniqueFd file(open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) return Unreadable(path, strerror(errno));
  std::string text;
  char buffer[16384];
  while (text.size() <= kMaxUserFile) {
    const ssize_t got = read(file.get(), buffer, sizeof(buffer));
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unreadable(path, strerror(errno));
    text.append(buffer, static_cast<size_t>(got));
  }
  return Unreadable(path, absl::StrCat("it is larger than ", kMaxUserFile, " bytes"));
}

}  // namespace

absl::StatusOr<ContainerRoot> RootOfProcess(pid_t pid) {
  ContainerRoot root;
  root.path = absl::StrCat("/proc/", pid, "/root");
  UniqueFd fd(open(root.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the container's file system: ", strerror(errno)));
  }
  root.open = std::make_shared<const UniqueFd>(std::move(fd));
  return root;
}

absl::StatusOr<UserFiles> ReadUserFilesIn(const ContainerRoot& root) {
  UniqueFd own;
  if (root.open == nullptr) {
    own.Reset(open(root.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!own.valid()) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot open the container's root ", root.path, ": ", strerror(errno)));
    }
  }
  const int folder = root.open == nullptr ? own.get() : root.open->get();
  UserFiles files;
  ASSIGN_OR_RETURN(files.passwd, ReadIn(folder, "/etc/passwd"));
  ASSIGN_OR_RETURN(files.group, ReadIn(folder, "/etc/group"));
  return files;
}

}  // namespace ferry::bridge
