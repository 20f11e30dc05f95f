#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/migration.pb.h"

// What ferryctl says and how it exits when something failed.
namespace ferry::ctl {

// Several lines: what failed (`doing`, e.g. "starting VM web"), where the VM runs now, what to do
// next. `host` is the daemon that was asked.
std::string ErrorText(absl::string_view doing, const absl::Status& status, absl::string_view host);

int ExitCodeFor(const absl::Status& status);

// Whether the session ended with its VM at the destination.
bool Moved(const v1::Session& session);

// How a finished migration ends `ferryctl migrate` and `migration watch`.
int ExitCodeFor(const v1::Session& session);

}  // namespace ferry::ctl
