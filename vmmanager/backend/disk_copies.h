#pragma once

#include <cstdint>
#include <functional>

#include "vmmanager/backend/snapshots.h"

namespace ferry::vm {

// A disk that is copied to another host while its guest writes to it.
struct DiskMirror {
  DiskPlace place;
  bool over_same = false;  // the other host has the file that it lies over, and that stays there
};

// How far the copies of several disks are together; what the guest writes meanwhile is added.
struct CopiedBytes {
  uint64_t done = 0;
  uint64_t total = 0;
  uint64_t write_limit = 0;  // bytes per second that the guest may write to them; 0: any number
};
// Called on the executor, now and then.
using TellCopied = std::function<void(const CopiedBytes&)>;

// Types of payloads, of no content, of errors of mirrors of disks.
// The other host's disk could not be written to, or the way there broke.
inline constexpr char kOtherDiskFailed[] = "ferry.vm/other_disk_failed";
// The guest writes to its disks as fast as they are copied, and could not be slowed down enough.
inline constexpr char kNeverTheSame[] = "ferry.vm/never_the_same";

}  // namespace ferry::vm
