#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "bridge/runtime/task.h"
#include "ferry/state/v1/disk_move.pb.h"
#include "vmmanager/backend/overlays.h"
#include "vmmanager/sandbox/overlay_files.h"

namespace ferry::vm {

// Between one move and whoever may call it off.
struct DiskMoveControl {
  bool called_off = false;
  bool changes_over = false;  // then it cannot be
};

// A disk of a VM's own that is to go on in another file.
struct DiskMoveWish {
  std::string disk;
  std::string from;  // where it was when it was looked at, and what it was
  uint64_t from_inode = 0;
  DiskImage image;
  std::string to;     // absolute; no file has that name
  bool keep = false;  // the former file stays
  // Whether the former file is nobody else's; asked before it is removed.
  std::function<Task<absl::Status>()> may_remove;
  OverlayFiles* files = nullptr;  // must outlive the move
  std::shared_ptr<DiskMoveControl> control = std::make_shared<DiskMoveControl>();
  MergeProgress progress;
  uint64_t to_inode = 0;  // filled in
};

// The move that a VM is at, or that a former daemon was at and that is not settled.
struct DiskMoveState {
  std::optional<state::v1::DiskMoveRecord> record;
  bool is_unwritten = false;   // it is not known what is written down of where that disk is
  bool is_unreadable = false;  // what is written down is of a newer ferryd
  bool settles = false;        // somebody goes on trying to settle it
};

}  // namespace ferry::vm
