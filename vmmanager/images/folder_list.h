#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace ferry::vm {

// The names in a folder, sorted. All of them or an error: what cannot be listed is not empty.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& path);

}  // namespace ferry::vm
