#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bridge/runtime/async.h"
#include "vmmanager/qemu/mirror_jobs.h"
#include "vmmanager/qemu/write_limit.h"

namespace ferry::vm {

// How disks are copied that their guest writes to.
struct MirrorLimits {
  uint64_t bytes_per_second = 0;       // of all together; 0: no limit
  std::shared_ptr<WriteLimit> writes;  // of the guest; nullptr: it is not to be slowed down
};

// Limits what the guest may write to the disks that are copied, once it has to be by what is copied
// now. True if it is another limit than before; nothing happens without one.
Task<bool> KeepWriteLimit(QemuMachine* machine, std::shared_ptr<WriteLimit> limit,
                          CopiedBytes copied);
// The guest may write to that disk as it will. Not while a mirror copies it: QEMU drains the disk
// for that (blk_io_limits_disable()), and would wait for the other host.
Task<absl::Status> LiftWriteLimit(QemuMachine* machine, std::string stem);

// Tells how far the jobs are. Returns when so little is left that nobody need wait for more, or an
// error if that will never be so. The machine must outlive it.
Task<absl::Status> WatchMirrors(QemuMachine* machine, std::shared_ptr<MirrorJobs> jobs,
                                MirrorLimits limits, TellCopied tell);

}  // namespace ferry::vm
