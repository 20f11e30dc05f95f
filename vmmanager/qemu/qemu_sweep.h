#pragma once

#include <string>
#include <vector>

#include "bridge/runtime/async.h"

namespace ferry::vm {

// Ends the QEMUs in the folders below `state_dir` that none of the adoption records names, and
// removes those folders: a daemon that died while it started or ended a QEMU leaves them. Nobody
// else may use `state_dir` meanwhile.
Task<void> SweepQemuFolders(Executor executor, std::string state_dir,
                            std::vector<std::string> adoption_records);

}  // namespace ferry::vm
