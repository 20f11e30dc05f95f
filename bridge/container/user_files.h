#pragma once

#include "absl/status/statusor.h"
#include "bridge/container/container_root.h"
#include "bridge/container/user_names.h"

namespace ferry::bridge {

// Reads /etc/passwd and /etc/group in there, and nothing outside, wherever their links point to. A
// file that is not there is empty; INVALID_ARGUMENT for one that is none, or too large.
// Synchronous, and may hang with a disk.
absl::StatusOr<UserFiles> ReadUserFilesIn(const ContainerRoot& root);

}  // namespace ferry::bridge
