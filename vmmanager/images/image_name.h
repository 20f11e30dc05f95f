#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferry::vm {

// "web" is "web:latest". A name is lower-case words with '.', '_', '-' and '/' between them, behind
// a registry's "host:port/" if it has one; a tag may have capitals. INVALID_ARGUMENT otherwise.
absl::StatusOr<std::string> FullImageName(absl::string_view text);

}  // namespace ferry::vm
