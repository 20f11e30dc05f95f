#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "vmmanager/backend/backend_info.h"

namespace ferry::vm {

// The memory that QEMUs of this process can get: the kernel's estimate for the host, or what the
// limits of our cgroups (v2) leave, whichever is less. The folders are the usual ones but in tests.
absl::StatusOr<HostMemory> ReadHostMemory(const std::string& proc = "/proc",
                                          const std::string& cgroups = "/sys/fs/cgroup");

}  // namespace ferry::vm
