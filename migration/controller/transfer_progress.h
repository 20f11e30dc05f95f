#pragma once

#include "ferry/v1/migration.pb.h"
#include "vmmanager/backend/compute_system.h"

namespace ferry::migration {

// A VMM's numbers as clients see them. Its rates are 0 until it has measured them: the rate of
// sending after a moment, that of dirtying when its first pass over the memory has ended. Until
// then they are left out, and with them the verdict. What `before` knew stays known.
v1::Progress ToProgress(const vm::TransferProgress& now, const v1::Progress& before);

}  // namespace ferry::migration
