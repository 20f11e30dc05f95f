#pragma once

#include "vmmanager/backend/snapshots.h"

namespace ferry::vm {

// A disk that did not do what a guest wanted of it. The guest has not been told: it stands still,
// and is done again what it wanted once the system is resumed.
struct DiskTrouble {
  DiskPlace disk;        // of nobody: a disk, and it is not known which
  bool no_room = false;  // where its file is; else something is broken there
};

}  // namespace ferry::vm
