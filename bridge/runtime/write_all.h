#pragma once

#include "absl/strings/string_view.h"

namespace ferry {

// Writes all of it, blocking, however often the kernel takes a part only. False with errno set if
// it cannot.
bool WriteAll(int fd, absl::string_view bytes);

}  // namespace ferry
