#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
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
  uint64_t inode = 0;  // the file's, if it is known
};

// What a disk in a file is, as the file says.
struct DiskImage {
  std::string format;          // "qcow2" or "raw"
  uint64_t bytes = 0;          // that a guest sees
  uint64_t used_bytes = 0;     // of room on its host, without what is below
  std::string below;           // the absolute path of the file that it is over; empty: none
  std::string below_format;    // empty: it does not say
  bool empty = false;          // an overlay on which nothing was written
  bool has_snapshots = false;  // inside it
};

// A copy of a disk.
struct DiskCopy {
  std::string from;  // not written to meanwhile; with what is below it
  std::string format;
  std::string to;  // reserved, as `inode`
  uint64_t inode = 0;
  std::string to_format = "qcow2";
  std::string below = {};  // what is in that file is left out, and the copy lies over it
  std::string below_format = {};
  std::function<void(double)> progress = {};  // told how much of it is done, 0 to 1
};

// An empty disk.
struct DiskShape {
  std::string file;  // reserved, as `inode`
  uint64_t inode = 0;
  std::string format;
  uint64_t bytes = 0;
  std::string below = {};  // what it lies over, if anything
  std::string below_format = {};
};

// Of a file system.
struct Room {
  uint64_t device = 0;  // which one it is
  uint64_t bytes = 0;   // that can still be written there
};

// A disk that is to be made, empty.
struct NewDisk {
  std::string file;
  std::string format;
  uint64_t bytes = 0;
  std::optional<std::pair<uid_t, gid_t>> owner;  // nullopt: as we are
  std::string below = {};                        // what it lies over, if anything
  std::string below_format = {};
};

// The files of disks, while no VMM has them. An interface, for the work is a tool's.
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
  // ALREADY_EXISTS if the name is taken. Durable.
  virtual Task<absl::Status> Create(NewDisk disk) = 0;
  // Makes one of a file that was reserved, whole and on the disk.
  virtual Task<absl::Status> Shape(DiskShape shape) = 0;
  // Makes a disk larger, as a guest sees it.
  virtual Task<absl::Status> Resize(std::string file, std::string format, uint64_t bytes) = 0;
  // An error if the file is not there, or nobody can look at it.
  virtual Task<absl::Status> CheckIsThere(std::string file) = 0;
  // The overlay goes on over another file, which has the same content as the former one.
  virtual Task<absl::Status> PutOver(std::string overlay, std::string below,
                                     std::string format) = 0;
  // Brings an overlay to the disk that may be in use. ABORTED unless it says there that it lies
  // over that file.
  virtual Task<absl::Status> CheckLiesOver(std::string overlay, std::string below) = 0;
  // Fine if it is not there.
  virtual Task<absl::Status> Remove(std::string file) = 0;
  // The same of one that may be somebody else's file: only what Make(wish), or Reserve, may have
  // left goes. Of what was reserved as `inode` only that.
  virtual Task<absl::Status> RemoveDraft(OverlayWish wish) = 0;
  // Takes the name with an empty file that belongs to whom the file `like` belongs to, for a copy;
  // durable. Returns its inode. ALREADY_EXISTS if the name is taken.
  virtual Task<absl::StatusOr<uint64_t>> Reserve(std::string file, std::string like) = 0;
  // ABORTED unless that is what the name still stands for.
  virtual Task<absl::Status> CheckReserved(std::string file, uint64_t inode) = 0;
  // The same, and all that was written to it is on the disk.
  virtual Task<absl::Status> BringToDisk(std::string file, uint64_t inode) = 0;
  // How many bytes a copy of the disk would have, with what is below it.
  virtual Task<absl::StatusOr<uint64_t>> Measure(std::string file, std::string format) = 0;
  // Where the file is, or would be.
  virtual Task<absl::StatusOr<Room>> RoomFor(std::string file) = 0;
  // Fills a file that was reserved; whole and on the disk when it returns. Being cancelled ends it.
  // RESOURCE_EXHAUSTED if there is no room.
  virtual Task<absl::Status> Copy(DiskCopy copy) = 0;
  // What is in a file, which may be anybody's, of a format that is known: what a guest has written
  // into a raw disk may look like anything. FAILED_PRECONDITION if it is no disk that can be used.
  virtual Task<absl::StatusOr<DiskImage>> Examine(std::string file, std::string format) = 0;
};

}  // namespace ferry::vm
