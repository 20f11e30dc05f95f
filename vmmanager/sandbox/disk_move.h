#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/task.h"
#include "vmmanager/backend/overlays.h"
#include "vmmanager/sandbox/overlay_files.h"

namespace ferry::vm {

// A disk of a VM's own that is to go on in another file.
struct DiskMoveWish {
  std::string disk;
  std::string from;  // where it was when it was looked at, and what it was
  uint64_t from_inode = 0;
  DiskImage image;
  std::string to;     // absolute; no file has that name
  bool keep = false;  // the former file stays
  MergeProgress progress;
};

}  // namespace ferry::vm
