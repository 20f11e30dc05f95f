#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ferry::bridge {

// The mount points at and below `folder` in the text of /proc/self/mountinfo, the last mounted
// first. No I/O.
std::vector<std::string> MountPointsBelow(std::string_view mountinfo, std::string_view folder);

struct DiskMount {
  uint64_t id = 0;     // of this mount
  std::string device;  // of what is mounted, "8:16"; the same for all mounts of it
  std::string point;
  std::string type;
};

// What lies on block devices and can be written to, of the text of a mountinfo, the first mounted
// first. `filesystems` is the text of /proc/filesystems, which says what lies on devices. A mount
// that is read-only counts: what is mounted there may be written to elsewhere. No I/O.
std::vector<DiskMount> WritableDiskMounts(std::string_view mountinfo, std::string_view filesystems);

}  // namespace ferry::bridge
