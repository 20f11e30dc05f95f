#include "vmmanager/layers/file_tree.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/archive_reader.h"
#include "vmmanager/layers/limits.h"

namespace ferry::layers {
namespace {

constexpr uint32_t kUsualFolder = 0755;

absl::Status Bad(absl::string_view path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", Shown(path), "\" ", why));
}

std::string Joined(const std::vector<std::string>& path) { return absl::StrJoin(path, "/"); }

}  // namespace

absl::StatusOr<std::vector<std::string>> SplitPath(absl::string_view path) {
  if (path.empty()) return Bad(path, "is no name for a file");
  if (path.size() > kMaxPath) return Bad(path, "is too long a path");
  std::vector<std::string> parts;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return Bad(path, "leads out of the archive");
    if (part.size() > kMaxName) return Bad(path, "has too long a name in it");
    parts.emplace_back(part);
  }
  if (parts.size() > kMaxDepth) return Bad(path, "lies too deep");
  return parts;
}

FileTree::FileTree(Budget& budget) : budget_(budget) {
  root_.attributes.permissions = kUsualFolder;
}

absl::StatusOr<Node*> FileTree::Descend(const std::vector<std::string>& path, size_t parts) {
  Node* at = &root_;
  for (size_t i = 0; i < parts; ++i) {
    std::unique_ptr<Node>& child = at->children[path[i]];
    if (!child) {
      // The last one has an entry of its own.
      if (i + 1 < path.size()) RETURN_IF_ERROR(budget_.SpendEntry());
      child = std::make_unique<Node>();
      child->attributes.permissions = kUsualFolder;
    }
    if (child->kind == NodeKind::kWhiteout) {
      *child = Node();
      child->attributes.permissions = kUsualFolder;
      child->attributes.xattrs[kOverlayOpaque] = "y";
    }
    if (!child->is_directory()) {
      return Bad(Joined(path), absl::StrCat("lies in or is \"", Shown(path[i]),
                                            "\", which the archive has already, as no folder"));
    }
    at = child.get();
  }
  return at;
}

absl::StatusOr<Node*> FileTree::Directory(const std::vector<std::string>& path) {
  return Descend(path, path.size());
}

absl::StatusOr<Node*> FileTree::Put(const std::vector<std::string>& path, NodeKind kind,
                                    uint64_t inode) {
  if (path.empty()) return absl::InvalidArgumentError("the archive's root is not a folder");
  ASSIGN_OR_RETURN(Node* const folder, Descend(path, path.size() - 1));
  std::unique_ptr<Node>& child = folder->children[path.back()];
  if (child && child->is_directory()) {
    return Bad(Joined(path), "is in the archive already, as a folder");
  }
  child = std::make_unique<Node>();
  child->kind = kind;
  child->inode = inode;
  return child.get();
}

const Node* FileTree::Find(const std::vector<std::string>& path) const {
  const Node* at = &root_;
  for (const std::string& part : path) {
    const auto child = at->children.find(part);
    if (child == at->children.end()) return nullptr;
    at = child->second.get();
  }
  return at;
}

}  // namespace ferry::layers
