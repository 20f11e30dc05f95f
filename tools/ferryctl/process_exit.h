#pragma once

#include <string>

#include "ferry/v1/container.pb.h"
#include "tools/ferryctl/attach_session.h"

namespace ferry::ctl {

// The exit status of exec and attach: the command's, 128+n if signal n ended it or detached
// ferryctl, 0 if the detach keys did, 125 for ferryctl's own failure.
int ExitCodeFor(const AttachOutcome& outcome);

// What to tell the person on stderr; empty for an ordinary end.
std::string OutcomeText(const AttachOutcome& outcome, const std::string& vm, uint32_t process);
// The same where it was a container's init.
std::string ContainerOutcomeText(const AttachOutcome& outcome, const v1::Container& container);

// The exit status when a container's process could not be started: 127 if its program is not there,
// 126 if it cannot be run, 125 for everything else.
int CommandFailureCode(const absl::Status& status);

}  // namespace ferry::ctl
