#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"

namespace ferry::vm {

// A file that a disk is to go on in.
struct OverlayWish {
  std::string below;  // the file that it is now, and its format
  std::string format;
  std::string file;
};

// The files that disks go on in, while no VMM has them. An interface, for the work is a tool's.
class OverlayFiles {
 public:
  virtual ~OverlayFiles() = default;

  // That name if no file has it, or else one like it that is free.
  virtual Task<absl::StatusOr<std::string>> FreeName(std::string file) = 0;
  // Makes an empty overlay, whole and on the disk, that belongs to whom the file below belongs to.
  // ALREADY_EXISTS if the name is taken.
  virtual Task<absl::Status> Make(OverlayWish wish) = 0;
  // Writes what is in an overlay into the file below it; that may be repeated. The overlay is of no
  // use afterwards. NOT_FOUND if it is not there, be it because its storage is not: nobody removes
  // one before it is written down that it was merged.
  virtual Task<absl::Status> Merge(std::string overlay) = 0;
  // The overlay goes on over another file, which has the same content as the former one.
  virtual Task<absl::Status> PutOver(std::string overlay, std::string below,
                                     std::string format) = 0;
  // Brings an overlay to the disk that may be in use. ABORTED unless it says there that it lies
  // over that file.
  virtual Task<absl::Status> CheckLiesOver(std::string overlay, std::string below) = 0;
  // Fine if it is not there.
  virtual Task<absl::Status> Remove(std::string file) = 0;
  // The same of one that may be somebody else's file: only what Make(wish) may have left goes.
  virtual Task<absl::Status> RemoveDraft(OverlayWish wish) = 0;
};

}  // namespace ferry::vm
