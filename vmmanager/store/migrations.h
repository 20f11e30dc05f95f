#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "vmmanager/store/sqlite.h"

namespace ferry::vm {

inline constexpr uint64_t kStoreVersion = 9;

// Makes the tables of a new store, or brings an older one up to date; returns the journal's id.
// FAILED_PRECONDITION if the store was written by a newer Ferry.
absl::StatusOr<std::string> MigrateStore(SqliteConnection& connection);

// Whether this is a store with a journal that can be read, without changing it.
// FAILED_PRECONDITION if it was written by a newer Ferry, or by another program.
absl::Status CheckStoreIsKnown(SqliteConnection& connection);

}  // namespace ferry::vm
