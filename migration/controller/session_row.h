#pragma once

#include <string>

#include "ferry/v1/migration.pb.h"
#include "vmmanager/store/store.h"

namespace ferry::migration {

// A session as the store keeps it. `decided`: nothing more happens in it. `request_id` is that of
// the call that began it, empty if it had none.
vm::SessionRow ToRow(const v1::Session& session, bool decided, std::string request_id);

}  // namespace ferry::migration
