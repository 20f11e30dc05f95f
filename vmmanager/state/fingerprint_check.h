#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "ferry/state/v1/saved_state.pb.h"
#include "ferry/v1/error.pb.h"

namespace ferry::vm {

// Field by field, in what the destination's machine would be another one; empty if it would be the
// same. A field that only one of them has differs; CPU features may be more at the destination.
std::vector<v1::Difference> CompareFingerprints(const state::v1::Fingerprint& source,
                                                const state::v1::Fingerprint& destination);

// "field: source X, destination Y; ..." for messages, or with other words for the two sides.
std::string ToText(const std::vector<v1::Difference>& differences,
                   absl::string_view source = "source",
                   absl::string_view destination = "destination");

}  // namespace ferry::vm
