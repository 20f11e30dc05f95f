#include "vmmanager/layers/layer_builder.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/archive_reader.h"
#include "vmmanager/layers/erofs_writer.h"
#include "vmmanager/layers/file_tree.h"

namespace ferry::layers {
namespace {

constexpr absl::string_view kWhiteout = ".wh.";
constexpr absl::string_view kWhiteoutMeta = ".wh..wh.";  // of aufs, which is long gone
constexpr absl::string_view kOpaque = ".wh..wh..opq";
constexpr size_t kDataPiece = size_t{256} << 10;

absl::Status About(const TarEntry& entry, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", Shown(entry.path), "\" ", why));
}

// The extended attributes that a layer keeps; those that are the host's own affair are left out.
absl::StatusOr<std::map<std::string, std::string>> KeptXattrs(const TarEntry& entry) {
  std::map<std::string, std::string> kept;
  for (const auto& [name, value] : entry.xattrs) {
    if (absl::StartsWith(name, "trusted.")) {
      return About(entry, absl::StrCat("has the attribute ", Shown(name),
                                       ", which only overlayfs itself may set"));
    }
    const bool of_a_user = absl::StartsWith(name, "user.") && name.size() > 5 &&
                           !absl::StartsWith(name, "user.overlay.");
    if (of_a_user || name == "security.capability") kept[name] = value;
  }
  return kept;
}

absl::StatusOr<FileAttributes> AttributesOf(const TarEntry& entry) {
  FileAttributes attributes;
  attributes.permissions = entry.permissions;
  constexpr uint64_t kMaxId = std::numeric_limits<uint32_t>::max() - 1;
  if (entry.uid > kMaxId || entry.gid > kMaxId) return About(entry, "has no valid owner");
  attributes.uid = static_cast<uint32_t>(entry.uid);
  attributes.gid = static_cast<uint32_t>(entry.gid);
  attributes.mtime = std::max<int64_t>(entry.mtime, 0);
  attributes.mtime_nanoseconds =
      entry.mtime_nanoseconds < 1'000'000'000 ? entry.mtime_nanoseconds : 0;
  ASSIGN_OR_RETURN(attributes.xattrs, KeptXattrs(entry));
  return attributes;
}

class LayerBuilder {
 public:
  LayerBuilder(TarReader& tar, Whiteouts whiteouts, Budget& budget, int image)
      : tar_(tar), whiteouts_(whiteouts), budget_(budget), writer_(image, budget), tree_(budget) {}

  absl::Status Build(LayerSource* built) {
    TarEntry entry;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, tar_.Next(&entry));
      if (!more) break;
      RETURN_IF_ERROR(budget_.SpendEntry());
      RETURN_IF_ERROR(Add(entry));
      ++built->entries;
      if (entry.kind == TarEntry::Kind::kFile) built->bytes += entry.size;
    }
    return writer_.Finish(tree_.root());
  }

 private:
  absl::Status Add(const TarEntry& entry) {
    ASSIGN_OR_RETURN(const std::vector<std::string> path, SplitPath(entry.path));
    if (whiteouts_ == Whiteouts::kOci && !path.empty() &&
        absl::StartsWith(path.back(), kWhiteout)) {
      return AddWhiteout(entry, path);
    }
    ASSIGN_OR_RETURN(const FileAttributes attributes, AttributesOf(entry));
    switch (entry.kind) {
      case TarEntry::Kind::kFile:
        return AddFile(entry, path, attributes);
      case TarEntry::Kind::kDirectory: {
        ASSIGN_OR_RETURN(Node* const folder, tree_.Directory(path));
        SetFolder(folder, attributes);
        return absl::OkStatus();
      }
      case TarEntry::Kind::kSymlink:
        return AddSymlink(entry, path, attributes);
      case TarEntry::Kind::kHardLink:
        return AddHardLink(entry, path);
      case TarEntry::Kind::kFifo: {
        ASSIGN_OR_RETURN(const uint64_t inode, writer_.AddFifo(attributes));
        return tree_.Put(path, NodeKind::kFifo, inode).status();
      }
      case TarEntry::Kind::kDevice:
        return About(entry,
                     "is a device; a layer may hold none, for containers get theirs from their "
                     "runtime. Leave it out (tar --exclude=./dev/*)");
      case TarEntry::Kind::kOther:
        break;
    }
    return About(entry, "is neither a file nor a folder nor a link");
  }

  // A folder that was hidden before its own entry came stays opaque.
  static void SetFolder(Node* folder, FileAttributes attributes) {
    if (folder->attributes.xattrs.contains(kOverlayOpaque)) {
      attributes.xattrs[kOverlayOpaque] = "y";
    }
    folder->attributes = std::move(attributes);
  }

  absl::Status AddWhiteout(const TarEntry& entry, std::vector<std::string> path) {
    if (entry.kind != TarEntry::Kind::kFile && entry.kind != TarEntry::Kind::kHardLink) {
      return About(entry, "has a whiteout's name, but is no file");
    }
    const std::string name = path.back();
    path.pop_back();
    if (name == kOpaque) {
      ASSIGN_OR_RETURN(Node* const folder, tree_.Directory(path));
      folder->attributes.xattrs[kOverlayOpaque] = "y";
      return absl::OkStatus();
    }
    if (absl::StartsWith(name, kWhiteoutMeta)) return absl::OkStatus();
    const std::string hidden(absl::StripPrefix(name, kWhiteout));
    if (hidden.empty() || hidden == "." || hidden == "..") {
      return About(entry, "is a whiteout of nothing");
    }
    path.push_back(hidden);
    // What the same layer has under this name is what is there, and all that is.
    if (const Node* const found = tree_.Find(path)) {
      if (!found->is_directory()) return absl::OkStatus();
      ASSIGN_OR_RETURN(Node* const folder, tree_.Directory(path));
      folder->attributes.xattrs[kOverlayOpaque] = "y";
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const uint64_t inode, writer_.AddWhiteout());
    return tree_.Put(path, NodeKind::kWhiteout, inode).status();
  }

  absl::Status AddFile(const TarEntry& entry, const std::vector<std::string>& path,
                       const FileAttributes& attributes) {
    // Holes cost nothing in a tar, but somebody will read them.
    RETURN_IF_ERROR(budget_.SpendFile(entry.size));
    RETURN_IF_ERROR(Explained(entry, writer_.BeginFile(attributes, entry.size)));
    data_.resize(kDataPiece);
    bool over = false;
    for (uint64_t left = entry.size; left > 0;) {
      const size_t wanted = static_cast<size_t>(std::min<uint64_t>(left, data_.size()));
      size_t count = wanted;
      if (!over) {
        ASSIGN_OR_RETURN(count, tar_.Read(absl::MakeSpan(data_).first(wanted)));
      }
      // What is left is a hole, for data that is missing is an error.
      if (count == 0) {
        over = true;
        count = wanted;
        std::fill(data_.begin(), data_.end(), '\0');
      }
      RETURN_IF_ERROR(writer_.Append(absl::MakeConstSpan(data_).first(count)));
      left -= count;
    }
    ASSIGN_OR_RETURN(const uint64_t inode, writer_.EndFile());
    return tree_.Put(path, NodeKind::kFile, inode).status();
  }

  absl::Status AddSymlink(const TarEntry& entry, const std::vector<std::string>& path,
                          const FileAttributes& attributes) {
    // Where it leads to is decided in the container, whose root it cannot leave.
    if (entry.target.empty()) return About(entry, "is a link to nothing");
    const absl::StatusOr<uint64_t> inode = writer_.AddSymlink(attributes, entry.target);
    RETURN_IF_ERROR(Explained(entry, inode.status()));
    return tree_.Put(path, NodeKind::kSymlink, *inode).status();
  }

  absl::Status AddHardLink(const TarEntry& entry, const std::vector<std::string>& path) {
    if (absl::StartsWith(entry.target, "/")) {
      return About(
          entry, absl::StrCat("is a hard link to the absolute path \"", Shown(entry.target), "\""));
    }
    const absl::StatusOr<std::vector<std::string>> target = SplitPath(entry.target);
    if (!target.ok()) {
      return About(entry, absl::StrCat("is a hard link: ", target.status().message()));
    }
    const Node* const found = tree_.Find(*target);
    if (found == nullptr || found->is_directory() || found->kind == NodeKind::kWhiteout) {
      return About(entry, absl::StrCat("is a hard link to \"", Shown(entry.target),
                                       "\", which is no file that came before it"));
    }
    return tree_.Put(path, found->kind, found->inode).status();
  }

  static absl::Status Explained(const TarEntry& entry, const absl::Status& status) {
    if (!absl::IsInvalidArgument(status)) return status;
    return About(entry, absl::StrCat("cannot be kept: ", status.message()));
  }

  TarReader& tar_;
  const Whiteouts whiteouts_;
  Budget& budget_;
  ErofsWriter writer_;
  FileTree tree_;
  std::vector<char> data_;
};

}  // namespace

absl::StatusOr<LayerSource> BuildLayer(ByteSource& source, Whiteouts whiteouts, Budget& budget,
                                       int image) {
  Decompressor plain(source);
  BoundedSource bounded(plain, budget);
  HashingSource hashed(bounded);
  TarReader tar(hashed);
  LayerSource built;
  LayerBuilder builder(tar, whiteouts, budget, image);
  RETURN_IF_ERROR(builder.Build(&built));
  ASSIGN_OR_RETURN(built.diff_id, hashed.Finish());
  // A layer of OCI has a digest that tells, and some programs leave its end out.
  if (whiteouts == Whiteouts::kLiteral && !tar.has_end()) {
    return absl::InvalidArgumentError("the archive is cut short: its end is missing");
  }
  return built;
}

}  // namespace ferry::layers
