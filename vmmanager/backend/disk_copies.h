#pragma once

#include "vmmanager/backend/snapshots.h"

namespace ferry::vm {

// A disk that is copied to another host while its guest writes to it.
struct DiskMirror {
  DiskPlace place;
  bool over_same = false;  // the other host has the file that it lies over, and that stays there
};

// Types of payloads, of no content, of errors of mirrors of disks.
// The other host's disk could not be written to, or the way there broke.
inline constexpr char kOtherDiskFailed[] = "ferry.vm/other_disk_failed";
// The guest writes to its disks as fast as they are copied.
inline constexpr char kNeverTheSame[] = "ferry.vm/never_the_same";

}  // namespace ferry::vm
