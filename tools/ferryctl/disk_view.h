#pragma once

#include <string>

#include "ferry/v1/disk.pb.h"

namespace ferry::ctl {

// A line for each disk.
std::string DiskTable(const v1::ListDisksResponse& response);

}  // namespace ferry::ctl
