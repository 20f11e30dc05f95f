#pragma once

#include <sys/types.h>

#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::migration {

// A descriptor of another process on this host.
struct ProcessSocket {
  pid_t pid = 0;
  int fd = -1;
};

// Duplicates a connected stream socket of another process, for a caller with user id `caller`:
// root may name any process, others only one that is wholly theirs. The kernel must let this
// process take it as well. NOT_FOUND if there is no such process or descriptor, PERMISSION_DENIED,
// or INVALID_ARGUMENT if the descriptor is something else than a connected stream socket.
absl::StatusOr<UniqueFd> TakeProcessSocket(const ProcessSocket& socket, uid_t caller);

}  // namespace ferry::migration
