#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// The root of a container's file system.
struct ContainerRoot {
  std::string path;
  std::shared_ptr<const UniqueFd> open;  // if set, this folder and not the one at `path`
};

// The root that a process has whom nobody else collects. FAILED_PRECONDITION if it has ended.
absl::StatusOr<ContainerRoot> RootOfProcess(pid_t pid);

// With `open` set. INVALID_ARGUMENT if it cannot be. Synchronous, and may hang with a disk, as what
// follows.
absl::StatusOr<ContainerRoot> OpenRoot(const ContainerRoot& root);

// `path` as if the open `root` were "/", wherever links point to; invalid, with errno, if there is
// none. Not yet opened for reading: to open a device may do something already.
UniqueFd FindInRoot(const ContainerRoot& root, const std::string& path);

}  // namespace ferry::bridge
