#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "vmmanager/sandbox/file_reads.h"

// Paths of this host's folders that users name. Their file systems may hang, so they are looked at
// through `reads`, which must outlive the tasks.
namespace ferry::vm {

// INVALID_ARGUMENT, naming `member`, unless it is absolute and within bounds.
absl::Status CheckFolderPath(const std::string& member, const std::string& path);

// The path without symbolic links, ".." and the like, as far as it is there. FAILED_PRECONDITION if
// that cannot be found out, in time; RESOURCE_EXHAUSTED if too many others could not.
Task<absl::StatusOr<std::string>> FindRealPath(FileReads* reads, std::string path);

// The same for a folder that is there; FAILED_PRECONDITION if there is none.
Task<absl::StatusOr<std::string>> FindRealFolder(FileReads* reads, std::string path);

// Whether the one is the other or in it, of paths as they are written.
bool LiesIn(const std::string& path, const std::string& folder);

// The same by its name or by whatever links the two go through; what links right in the folder lead
// to is in it, too. Errors as above, also where a link of the folder's cannot be looked at.
Task<absl::StatusOr<bool>> LiesWithin(FileReads* reads, std::string path, std::string folder);

}  // namespace ferry::vm
