#pragma once

#include "absl/status/status.h"

namespace ferry::vm {

// The VMM's own locks of disks are a fence, too: an error that is a backend's kDiskInUse becomes
// "fence_held", every other status stays as it is.
absl::Status AsFenceHeld(absl::Status status);

}  // namespace ferry::vm
