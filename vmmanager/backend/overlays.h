#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "bridge/runtime/task.h"
#include "vmmanager/backend/snapshots.h"

// Overlays, as the backend port knows them: a disk goes on in a new file, and what it was is only
// read.
namespace ferry::vm {

struct DiskOverlay {
  DiskPlace disk;
  // A qcow2 file that is there, on which nothing was written, and whose backing file is what the
  // disk is now.
  std::string file;
};

// Writes down where a disk goes on: in the file that it changes over to, for instance the one below
// its overlay, or after all in what it was.
using PlaceDiskFile = std::function<Task<absl::Status>(bool there)>;

// A file that lies below what a disk is written to, and the one under it.
struct LowerOverlay {
  DiskPlace disk;
  std::string file;
  std::string below;
};

// A file that a disk is to be moved to: an empty disk of the same size, over the same file if the
// disk is over one.
struct DiskTarget {
  std::string file;
  std::string format;  // "qcow2" or "raw"
  // Awaited once both have the same content, while the system still goes on: what is done then need
  // not be waited for when it stands still. May be empty.
  std::function<Task<absl::Status>()> ready = {};
};

// In bytes, of what there is to be written; what the guest writes meanwhile is added to that. May
// be empty.
using MergeProgress = std::function<void(uint64_t done, uint64_t total)>;

// What each disk that the guest can write to is written to now.
using DiskFiles = std::map<DiskPlace, std::string>;

}  // namespace ferry::vm
