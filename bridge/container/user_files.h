#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bridge/container/user_names.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {

// The root of a container's file system.
struct ContainerRoot {
  std::string path;
  std::shared_ptr<const UniqueFd> open;  // if set, this folder and not the one at `path`
};

// The root that a process has whom nobody else collects. FAILED_PRECONDITION if it has ended.
absl::StatusOr<ContainerRoot> RootOfProcess(pid_t pid);

// Reads /etc/passwd and /etc/group in there, and nothing outside, wherever their links point to. A
// file that is not there is empty; INVALID_ARGUMENT for one that is none, or too large.
// Synchronous, and may hang with a disk.
absl::StatusOr<UserFiles> ReadUserFilesIn(const ContainerRoot& root);

}  // namespace ferry::bridge
