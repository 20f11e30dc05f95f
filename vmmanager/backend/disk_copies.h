#pragma once

namespace ferry::vm {

// Types of payloads, of no content, of errors of mirrors of disks.
// The other host's disk could not be written to, or the way there broke.
inline constexpr char kOtherDiskFailed[] = "ferry.vm/other_disk_failed";
// The guest writes to its disks as fast as they are copied.
inline constexpr char kNeverTheSame[] = "ferry.vm/never_the_same";

}  // namespace ferry::vm
