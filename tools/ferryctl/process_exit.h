#pragma once

#include <string>

#include "tools/ferryctl/attach_session.h"

namespace ferry::ctl {

// The exit status of exec and attach: the command's, 128+n if signal n ended it or detached
// ferryctl, 125 for ferryctl's own failure.
int ExitCodeFor(const AttachOutcome& outcome);

// What to tell the person on stderr; empty for an ordinary end.
std::string OutcomeText(const AttachOutcome& outcome, const std::string& vm, uint32_t process);

}  // namespace ferry::ctl
