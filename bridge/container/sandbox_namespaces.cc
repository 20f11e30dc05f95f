#include "bridge/container/sandbox_namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

std::string PathOf(const UniqueFd& fd) {
  return absl::StrCat("/proc/", getpid(), "/fd/", fd.get());
}

}  // namespace

absl::StatusOr<SandboxNamespaces> SandboxNamespaces::Open(pid_t init) {
  SandboxNamespaces made;
  const std::pair<const char*, UniqueFd*> all[] = {
      {"net", &made.network_}, {"ipc", &made.ipc_}, {"uts", &made.uts_}, {"pid", &made.pid_}};
  for (const auto& [name, fd] : all) {
    fd->Reset(open(absl::StrCat("/proc/", init, "/ns/", name).c_str(), O_RDONLY | O_CLOEXEC));
    if (fd->valid()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the sandbox's namespace '", name, "': ", strerror(errno)));
  }
  return made;
}

NamespacePaths SandboxNamespaces::paths() const {
  return {PathOf(network_), PathOf(ipc_), PathOf(uts_), PathOf(pid_)};
}

}  // namespace ferry::bridge
