#pragma once

#include <string>

#include "ferry/v1/snapshot.pb.h"

namespace ferry::ctl {

// A line for each tag; one that some disks lack is marked "(partial)".
std::string SnapshotTable(const v1::ListSnapshotsResponse& response);

}  // namespace ferry::ctl
