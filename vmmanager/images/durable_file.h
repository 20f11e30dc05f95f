#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Files that are there as a whole or not at all, whatever happens. All of it blocks.
namespace ferry::vm {

// What the folder names is on the disk.
absl::Status SyncFolder(const std::string& path);
// The file gets its final name, which may be another file's; both on the same file system.
absl::Status RenameDurably(const std::string& from, const std::string& to);
// The same, but ALREADY_EXISTS if the name is taken.
absl::Status RenameToNewDurably(const std::string& from, const std::string& to);
// Writes the file anew, by way of one in the folder `temporary`.
absl::Status WriteDurably(const std::string& path, const std::string& text,
                          const std::string& temporary);
// OK if there is none.
absl::Status RemoveDurably(const std::string& path);
// RESOURCE_EXHAUSTED if it is larger than `max`.
absl::StatusOr<std::string> ReadWhole(const std::string& path, size_t max);

}  // namespace ferry::vm
