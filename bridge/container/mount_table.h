#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ferry::bridge {

// The mount points at and below `folder` in the text of /proc/self/mountinfo, the last mounted
// first. No I/O.
std::vector<std::string> MountPointsBelow(std::string_view mountinfo, std::string_view folder);

}  // namespace ferry::bridge
