#include "bridge/container/user_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

absl::Status Unreadable(const char* path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("cannot read the container's ", path, ": ", why));
}

absl::StatusOr<std::string> ReadIn(const ContainerRoot& root, const char* path) {
  const UniqueFd found = FindInRoot(root, path);
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

absl::StatusOr<UserFiles> ReadUserFilesIn(const ContainerRoot& root) {
  ASSIGN_OR_RETURN(const ContainerRoot opened, OpenRoot(root));
  UserFiles files;
  ASSIGN_OR_RETURN(files.passwd, ReadIn(opened, "/etc/passwd"));
  ASSIGN_OR_RETURN(files.group, ReadIn(opened, "/etc/group"));
  return files;
}

}  // namespace ferry::bridge
