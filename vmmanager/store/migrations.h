#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "vmmanager/store/sqlite.h"

namespace ferry::vm {

inline constexpr uint64_t kStoreVersion = 2;

// Makes the tables of a new store, or brings an older one up to date; returns the journal's id.
// FAILED_PRECONDITION if the store was written by a newer Ferry.
absl::StatusOr<std::string> MigrateStore(SqliteConnection& connection);

}  // namespace ferry::vm
