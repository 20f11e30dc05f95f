#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferry::layers {

// What the file system of this descriptor has left for those who are not root, in bytes.
absl::StatusOr<uint64_t> FreeBytes(int fd);

// UNAVAILABLE: the disk has `free` bytes left, which is less than is kept for others.
absl::Status TooFull(uint64_t free);

// What to say of a write that failed with this errno: UNAVAILABLE if the disk is full,
// RESOURCE_EXHAUSTED if the file may not be as large.
absl::Status WriteError(int error, absl::string_view what);

}  // namespace ferry::layers
