#pragma once

#include "tools/ferryctl/command.h"

namespace ferry::ctl {

// Adds `recover` to the commands about migrations.
void AddRecoverCommand(CLI::App* migration, Command* command);

}  // namespace ferry::ctl
