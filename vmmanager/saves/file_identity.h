#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferry::vm {

// What tells a file from all others that had, or will have, its name: file systems give an inode's
// number to the next file as soon as it is free, but not with the same time of birth.
struct FileIdentity {
  uint64_t inode = 0;
  int64_t born_ns = 0;  // since the Unix epoch; 0: the file system does not know it

  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

// Of an open file. Blocks.
absl::StatusOr<FileIdentity> IdentityOf(int fd);

// Removes the file of this name if it is that one, and brings that to the disk; another one stays.
// FAILED_PRECONDITION, and it stays, if its birth is not known, so that it may be another one.
// Blocks.
absl::Status RemoveIfSame(const std::string& path, const FileIdentity& identity);

}  // namespace ferry::vm
