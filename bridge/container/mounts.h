#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/container/mount_plan.h"

// What LinuxVolumes does to disks and mounts. Synchronous, and may hang with a disk.
namespace ferry::bridge {

// A disk's or file's first bytes, kProbeSize of them or all that there are.
absl::StatusOr<std::string> ReadStart(const std::string& path);

// Writes one word to a file of sysfs.
absl::Status WriteWord(const std::string& path, const std::string& word);

absl::Status MakeFolder(const std::string& path);

// Makes the mount point if it is not there, and removes it again if the mount fails.
absl::Status MountAt(const std::string& source, const std::string& target, const MountPlan& plan);

// Removes the mount point as well. OK if nothing is mounted there; FAILED_PRECONDITION if it is in
// use.
absl::Status UnmountAt(const std::string& path);

// Lets the ext4 that is mounted there take all of its device; fine if it does.
absl::Status GrowAt(const std::string& device, const std::string& path);

// Whether something is mounted there, according to `mount_table` (/proc/self/mountinfo).
absl::StatusOr<bool> IsMountPoint(const std::string& mount_table, const std::string& path);

}  // namespace ferry::bridge
