#pragma once

#include "absl/status/status.h"

namespace ferry::vm {

// An agent's refusal as a caller is told it: with a reason, and what to do about it, where that is
// known and the refusal does not say itself. OK stays OK.
absl::Status ToCaller(const absl::Status& refusal);

}  // namespace ferry::vm
