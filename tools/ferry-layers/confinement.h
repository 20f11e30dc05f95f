#pragma once

#include "absl/status/status.h"
#include "vmmanager/layers/limits.h"

namespace ferry::tools {

// Gives up everything that taking an archive apart does not need, for good: other files than those
// in the folder kBuilderOutput, other processes, sockets, programs, and more memory, time and space
// than the limits allow. Other processes of the same user cannot look into this one. The kernel
// ends this process rather than another one when memory runs out.
//
// Files that a library reads once have to be read before. With one thread. Sanitizers need more
// memory and system calls than this leaves, so with one of them those stay.
absl::Status Confine(const layers::Limits& limits);

// Whether this error of its first system call says that the kernel has no Landlock, or that whoever
// runs this process does not let it have it.
bool MeansNoLandlock(int error);

}  // namespace ferry::tools
