#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace ferry::rpc {

// `text` as valid UTF-8 of at most `max_bytes`, cut between two characters. Bytes that are no UTF-8
// are written as \xNN.
std::string Printable(absl::string_view text, size_t max_bytes);

// The same for one line of a log that is read on terminals: control characters become '?'.
std::string PrintableLine(absl::string_view text, size_t max_bytes);

}  // namespace ferry::rpc
