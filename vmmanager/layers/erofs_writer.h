#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "vmmanager/layers/erofs_format.h"
#include "vmmanager/layers/file_tree.h"
#include "vmmanager/layers/limits.h"

namespace ferry::layers {

// Writes an uncompressed EROFS image into an empty file, front to back: contents as they come,
// folders at the end. The same calls make the same bytes; nothing of the machine or of the time
// gets in. Errors are of the disk, except where said.
class ErofsWriter {
 public:
  // The descriptor is the caller's, and the budget, of which the disk's space is taken.
  ErofsWriter(int fd, Budget& budget) : fd_(fd), budget_(budget) {}

  // A regular file: its data in between, exactly `size` bytes. End returns its inode.
  // INVALID_ARGUMENT if the attributes take too much space.
  absl::Status BeginFile(const FileAttributes& attributes, uint64_t size);
  absl::Status Append(absl::Span<const char> data);
  absl::StatusOr<uint64_t> EndFile();

  // INVALID_ARGUMENT if the target or the attributes are too long.
  absl::StatusOr<uint64_t> AddSymlink(const FileAttributes& attributes, const std::string& target);
  absl::StatusOr<uint64_t> AddFifo(const FileAttributes& attributes);
  // To overlayfs: what has this name in a lower layer is not there.
  absl::StatusOr<uint64_t> AddWhiteout();

  // Writes the folders and the super block. The tree's folders get their inodes.
  absl::Status Finish(Node& root);

 private:
  absl::StatusOr<uint64_t> AddInode(erofs::Inode inode, const std::string& xattrs,
                                    const std::string& tail);
  absl::Status PlaceFolders(Node& node, std::map<uint64_t, uint32_t>* links);
  absl::Status PlaceFolder(Node& node);
  absl::Status WriteFolders(Node& node, const Node& parent);
  absl::Status WriteFolder(Node& node, const Node& parent);
  absl::Status WriteLinkCounts(const std::map<uint64_t, uint32_t>& links);
  absl::Status WriteSuperBlock();
  uint64_t ReserveMeta(uint64_t size);
  uint64_t ReserveBlocks(uint64_t count);
  absl::Status WriteAt(uint64_t position, absl::Span<const char> data);

  const int fd_;
  Budget& budget_;
  uint64_t end_ = erofs::kBlock;  // of the file; always at a block's boundary
  uint64_t meta_next_ = 0;        // free space for inodes in a block that has some already
  uint64_t meta_end_ = 0;
  uint64_t inodes_ = 0;

  // The file that is being written.
  erofs::Inode file_;
  std::string file_xattrs_;
  std::string tail_;  // to follow the inode
  uint64_t file_position_ = 0;
  uint64_t file_blocks_end_ = 0;  // where data ends that goes into blocks
  uint64_t file_left_ = 0;
};

}  // namespace ferry::layers
