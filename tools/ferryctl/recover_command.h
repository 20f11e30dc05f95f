#pragma once

#include "tools/ferryctl/command.h"

namespace ferry::ctl {

// What the hosts know of a session, and the risk of deciding without one of them, for people.
std::string KnownText(const v1::RecoverSessionResponse& response);

// Adds `recover` to the commands about migrations.
void AddRecoverCommand(CLI::App* migration, Command* command);

}  // namespace ferry::ctl
