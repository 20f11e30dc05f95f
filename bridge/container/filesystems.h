#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

namespace ferry::bridge {

// A filesystem on a disk of the guest, wherever it is mounted.
struct DiskFilesystem {
  struct Place {
    std::string path;    // leads to the mount point
    uint64_t mount = 0;  // the mount that must be found there
  };
  std::string device;         // which one it is
  std::string name;           // where it is mounted, for people
  std::vector<Place> places;  // some may not be reached, because others are mounted over them
};

// The filesystems of the guest that can be frozen: what was written before is on the disk then, and
// whoever writes waits. Thread: the executor's only.
class Filesystems {
 public:
  virtual ~Filesystems() = default;

  // Each one that lies on a block device and can be written to, the first mounted first.
  virtual Task<absl::StatusOr<std::vector<DiskFilesystem>>> Writable() = 0;

  // FAILED_PRECONDITION if somebody else has frozen it. Takes as long as the disk does, and must
  // not be cancelled: it might be frozen then and nobody would know. `it` is kept until Thaw(),
  // with all that Thaw() takes.
  virtual Task<absl::Status> Freeze(DiskFilesystem it) = 0;

  // One that was frozen. FAILED_PRECONDITION if it was not any more. After any other error it still
  // is, and this may be tried again.
  virtual Task<absl::Status> Thaw(DiskFilesystem it) = 0;
};

}  // namespace ferry::bridge
