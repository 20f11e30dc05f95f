#pragma once

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

// Writes down where a disk goes on: in the file below, or after all in its overlay.
using PlaceDiskFile = std::function<Task<absl::Status>(bool below)>;

// What each disk that the guest can write to is written to now.
using DiskFiles = std::map<DiskPlace, std::string>;

}  // namespace ferry::vm
