#pragma once

#include <string>
#include <vector>

#include "bridge/runtime/async.h"

namespace ferry::vm {

// Ends the QEMUs in the folders below `state_dir` that none of the adoption records names, and
// removes those folders and their control groups below `cgroup_parent`: a daemon that died while it
// started or ended a QEMU leaves them. Nobody else may use `state_dir` meanwhile.
Task<void> SweepQemuFolders(Executor executor, std::string state_dir, std::string cgroup_parent,
                            std::vector<std::string> adoption_records);

}  // namespace ferry::vm
