#pragma once

#include <string>

#include "guestmanager/process.h"

namespace ferry::guest {

// What asks the agent to run the process on the ports that `state` has. In a container the runtime
// is told `oci_process`; without it, it is the container's init. `resumable` says whether the agent
// resumes streams.
std::string EncodeExecuteRequest(const ProcessState& state, bool resumable,
                                 std::string oci_process);

}  // namespace ferry::guest
