#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmmanager/layers/limits.h"

// The names of a layer, in memory. Nothing here is ever a path of the host.
namespace ferry::layers {

struct FileAttributes {
  uint32_t permissions = 0;  // with the set-id and sticky bits
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t mtime = 0;
  uint32_t mtime_nanoseconds = 0;
  std::map<std::string, std::string> xattrs;  // whole names
};

// To overlayfs: what lower layers have in this folder is not there.
inline constexpr char kOverlayOpaque[] = "trusted.overlay.opaque";

enum class NodeKind { kFile, kDirectory, kSymlink, kFifo, kWhiteout };

struct Node {
  NodeKind kind = NodeKind::kDirectory;
  uint64_t inode = 0;         // in the image; of folders once that is finished
  FileAttributes attributes;  // of folders; the others' are in the image already
  std::map<std::string, std::unique_ptr<Node>> children;

  bool is_directory() const { return kind == NodeKind::kDirectory; }
};

// The parts of a path in an archive: "./usr//lib/" is usr, lib, and so is "/usr/lib", for nothing
// lies outside of an archive; "./" has none. INVALID_ARGUMENT if it leads upwards, or is longer or
// deeper than a file system takes.
absl::StatusOr<std::vector<std::string>> SplitPath(absl::string_view path);

// Paths are given in parts. Links are never followed: what lies "in" one is refused. Folders that
// are there only because something lies in them count as entries, too.
class FileTree {
 public:
  // The budget must live as long.
  explicit FileTree(Budget& budget);

  Node& root() { return root_; }

  // The folder with this name, made if it is not there, as are those above it. One that takes a
  // whiteout's place hides what the whiteout hid.
  absl::StatusOr<Node*> Directory(const std::vector<std::string>& path);
  // Puts something that is no folder there, in place of another such thing, but not of a folder.
  absl::StatusOr<Node*> Put(const std::vector<std::string>& path, NodeKind kind, uint64_t inode);
  // nullptr if there is nothing.
  const Node* Find(const std::vector<std::string>& path) const;

 private:
  absl::StatusOr<Node*> Descend(const std::vector<std::string>& path, size_t parts);

  Budget& budget_;
  Node root_;
};

}  // namespace ferry::layers
