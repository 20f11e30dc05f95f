#pragma once

#include <vector>

#include "absl/status/status.h"
#include "ferry/v1/error.pb.h"

namespace ferry::migration {

// FAILED_PRECONDITION "configuration_differs" with the differences in its ErrorInfo, as many and as
// long as an error can carry. OK if there are none.
absl::Status RefuseDifferences(const std::vector<v1::Difference>& differences);

}  // namespace ferry::migration
