#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

// Unix sockets named relative to an open folder, so that a folder's path may be longer than the 107
// bytes that a socket address holds.
namespace ferry::vm {

// Longest path of a Unix socket that QEMU can be told.
inline constexpr size_t kMaxUnixPathBytes = 107;

absl::StatusOr<UniqueFd> OpenFolder(const std::string& path);

// A listening stream socket `name` in the folder (close-on-exec).
absl::StatusOr<UniqueFd> ListenUnix(int folder, const std::string& name);

// A stream socket connected to `name` in the folder. NOT_FOUND if nobody listens there.
absl::StatusOr<UniqueFd> ConnectUnix(int folder, const std::string& name);

// The same by a path that fits a socket address.
absl::StatusOr<UniqueFd> ConnectUnixPath(const std::string& path);

// INVALID_ARGUMENT with the path if it does not fit a socket address.
absl::Status CheckUnixPath(const std::string& path);

}  // namespace ferry::vm
