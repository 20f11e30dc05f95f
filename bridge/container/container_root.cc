#include "bridge/container/container_root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

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

absl::StatusOr<ContainerRoot> OpenRoot(const ContainerRoot& root) {
  if (root.open != nullptr) return root;
  UniqueFd fd(open(root.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot open the container's root ", root.path, ": ", strerror(errno)));
  }
  return ContainerRoot{root.path, std::make_shared<const UniqueFd>(std::move(fd))};
}

UniqueFd FindInRoot(const ContainerRoot& root, const std::string& path) {
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(
      static_cast<int>(syscall(SYS_openat2, root.open->get(), path.c_str(), &how, sizeof(how))));
}

}  // namespace ferry::bridge
