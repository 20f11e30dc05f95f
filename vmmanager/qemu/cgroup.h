#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

// Control groups (v2 only) for processes that must not share the daemon's: what ends the daemon's
// group, such as a service manager that stops it, then leaves them alone.
namespace ferry::vm {

// Where cgroup v2 is mounted and which group this process is in, as the kernel writes them:
// /proc/self/mountinfo and /proc/self/cgroup. Returns the folder beside the process's own group, or
// that group itself if it is the topmost. NOT_FOUND if v2 is not mounted. Pure.
absl::StatusOr<std::string> CgroupBeside(const std::string& mountinfo, const std::string& cgroup);

// The folder in which groups for processes are made. `setting` is "none" (empty result), "auto"
// (beside this process's own group), or an absolute path. UNAVAILABLE, with the reason, if no group
// can be made there.
absl::StatusOr<std::string> ChooseCgroupParent(const std::string& setting);

// The group of the QEMU whose files are in `folder`, below `parent`; unique because `folder` is.
std::string CgroupOf(const std::string& parent, const std::string& folder);

// Makes the group; ALREADY_EXISTS if it is there.
absl::Status MakeCgroup(const std::string& path);

// Removes the group as soon as its last process is gone, which may be a moment after its end was
// seen. A group in which something still runs after a few seconds stays. Does nothing for "".
Task<void> RemoveCgroup(std::string path);

}  // namespace ferry::vm
