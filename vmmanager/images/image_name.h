#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferry::vm {

// "web" is "web:latest". A name is lower-case words with '.', '_', '-' and '/' between them, behind
// a registry's "host:port/" if it has one; a tag may have capitals. INVALID_ARGUMENT otherwise.
// What looks like an image's id is no name.
absl::StatusOr<std::string> FullImageName(absl::string_view text);

// How the id of an image begins that is given as "sha256:" and digits or as digits alone, from 12
// on: "sha256:" and these digits. Empty if it is nothing of that kind.
std::string ImageIdBegin(absl::string_view text);

}  // namespace ferry::vm
