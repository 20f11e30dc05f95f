#pragma once

#include <exception>

#include "absl/status/status.h"

namespace ferry::rpc {

// What to answer when a handler ended by an exception: CANCELLED if it was cancelled, else
// INTERNAL.
absl::Status StatusOfException(const std::exception_ptr& error);

}  // namespace ferry::rpc
