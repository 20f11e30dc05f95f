#include "vmmanager/layers/blob_archive.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/layers/file_tree.h"

namespace ferry::layers {
namespace {

constexpr size_t kMaxBlobs = 20'000;
constexpr int kMaxLinks = 8;  // that lead to one another
constexpr size_t kDocumentPiece = size_t{64} << 10;

// One file of the archive, read from its header on.
class EntrySource final : public ByteSource {
 public:
  EntrySource(int fd, uint64_t position, uint64_t end)
      : file_(fd, position, end - position), tar_(file_) {}

  absl::Status Begin() {
    TarEntry entry;
    ASSIGN_OR_RETURN(const bool found, tar_.Next(&entry));
    if (found && entry.kind == TarEntry::Kind::kFile) return absl::OkStatus();
    return absl::InvalidArgumentError("the archive changed while it was read");
  }

  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override { return tar_.Read(buffer); }

 private:
  FileSource file_;
  TarReader tar_;
};

// Where a symbolic link in the folder of `path` leads to. INVALID_ARGUMENT if out of the archive.
absl::StatusOr<std::string> Resolve(const std::string& path, const std::string& target) {
  if (absl::StartsWith(target, "/")) {
    return absl::InvalidArgumentError(absl::StrCat("\"", Shown(path), "\" is an absolute link"));
  }
  std::vector<std::string> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
  if (!parts.empty()) parts.pop_back();
  for (const absl::string_view part : absl::StrSplit(target, '/', absl::SkipEmpty())) {
    if (part == ".") continue;
    if (part != "..") {
      parts.emplace_back(part);
    } else if (parts.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", Shown(path), "\" is a link that leads out of the archive"));
    } else {
      parts.pop_back();
    }
  }
  return absl::StrJoin(parts, "/");
}

}  // namespace

absl::StatusOr<BlobArchive> BlobArchive::Read(int fd, uint64_t size) {
  BlobArchive archive(fd, size);
  FileSource file(fd, 0, size);
  TarReader tar(file);
  TarEntry entry;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, tar.Next(&entry));
    if (!more) return archive;
    RETURN_IF_ERROR(archive.Add(entry));
    if (archive.files_.size() <= kMaxBlobs) continue;
    archive.files_.clear();
    return archive;
  }
}

absl::Status BlobArchive::Add(const TarEntry& entry) {
  ASSIGN_OR_RETURN(const std::vector<std::string> parts, SplitPath(entry.path));
  const std::string path = absl::StrJoin(parts, "/");
  File file;
  file.position = entry.position;
  // Also one that is a hole as a whole, of which libarchive does not tell.
  file.sparse = entry.sparse || entry.size > size_ - std::min(size_, entry.position);
  switch (entry.kind) {
    case TarEntry::Kind::kFile:
      break;
    case TarEntry::Kind::kSymlink: {
      // One that leads nowhere matters only to who follows it.
      const absl::StatusOr<std::string> link = Resolve(path, entry.target);
      if (!link.ok()) return absl::OkStatus();
      file.link = *link;
      break;
    }
    case TarEntry::Kind::kHardLink: {
      const absl::StatusOr<std::vector<std::string>> link = SplitPath(entry.target);
      if (!link.ok()) return absl::OkStatus();
      file.link = absl::StrJoin(*link, "/");
      break;
    }
    default:
      return absl::OkStatus();
  }
  files_[path] = std::move(file);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ByteSource>> BlobArchive::Open(const std::string& path) const {
  std::string at = path;
  for (int hops = 0; hops <= kMaxLinks; ++hops) {
    const auto file = files_.find(at);
    if (file == files_.end()) break;
    if (file->second.sparse) {
      return absl::InvalidArgumentError(absl::StrCat("\"", Shown(at), "\" has holes"));
    }
    if (file->second.link.empty()) {
      auto source = std::make_unique<EntrySource>(fd_, file->second.position, size_);
      RETURN_IF_ERROR(source->Begin());
      return source;
    }
    at = file->second.link;
  }
  return absl::NotFoundError(absl::StrCat("the archive does not hold \"", Shown(path), "\""));
}

absl::StatusOr<std::string> BlobArchive::ReadAll(const std::string& path, size_t max) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, Open(path));
  std::string text;
  std::vector<char> piece(kDocumentPiece);
  while (true) {
    ASSIGN_OR_RETURN(const size_t count, source->Read(absl::MakeSpan(piece)));
    if (count == 0) return text;
    text.append(piece.data(), count);
    if (text.size() > max) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", Shown(path), "\" is larger than ", max, " bytes"));
    }
  }
}

}  // namespace ferry::layers
