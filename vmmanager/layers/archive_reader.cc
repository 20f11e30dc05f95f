#include "vmmanager/layers/archive_reader.h"

#include <archive_entry.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::layers {
namespace {

constexpr size_t kReadBlock = size_t{64} << 10;
constexpr size_t kMaxShown = 128;
constexpr la_int64_t kTarBlock = 512;

TarEntry::Kind KindOf(struct archive_entry* entry) {
  if (archive_entry_hardlink(entry) != nullptr) return TarEntry::Kind::kHardLink;
  switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
      return TarEntry::Kind::kFile;
    case AE_IFDIR:
      return TarEntry::Kind::kDirectory;
    case AE_IFLNK:
      return TarEntry::Kind::kSymlink;
    case AE_IFIFO:
      return TarEntry::Kind::kFifo;
    case AE_IFCHR:
    case AE_IFBLK:
      return TarEntry::Kind::kDevice;
    default:
      return TarEntry::Kind::kOther;
  }
}

void TakeXattrs(struct archive_entry* from, TarEntry* entry) {
  archive_entry_xattr_reset(from);
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  while (archive_entry_xattr_next(from, &name, &value, &size) == ARCHIVE_OK) {
    if (name == nullptr) continue;
    entry->xattrs[name] = std::string(static_cast<const char*>(value), size);
  }
}

}  // namespace

ArchiveInput::ArchiveInput(ByteSource& source)
    : source_(source), buffer_(kReadBlock), archive_(archive_read_new(), &archive_read_free) {}

la_ssize_t ArchiveInput::ReadBlock(struct archive*, void* self, const void** block) {
  auto* input = static_cast<ArchiveInput*>(self);
  *block = input->buffer_.data();
  const absl::StatusOr<size_t> count = input->source_.Read(absl::MakeSpan(input->buffer_));
  if (count.ok()) return static_cast<la_ssize_t>(*count);
  input->source_error_ = count.status();
  return ARCHIVE_FATAL;
}

absl::Status ArchiveInput::Open() {
  if (archive_read_open(get(), this, nullptr, &ReadBlock, nullptr) == ARCHIVE_OK) {
    return absl::OkStatus();
  }
  return Error();
}

absl::Status ArchiveInput::Error() const {
  if (!source_error_.ok()) return source_error_;
  const char* text = archive_error_string(get());
  return absl::InvalidArgumentError(
      absl::StrCat("the archive is damaged or cut short: ", text == nullptr ? "no reason" : text));
}

absl::Status Decompressor::Begin() {
  begun_ = true;
  archive_read_support_filter_gzip(input_.get());
  archive_read_support_filter_zstd(input_.get());
  archive_read_support_format_raw(input_.get());
  archive_read_support_format_empty(input_.get());
  RETURN_IF_ERROR(input_.Open());
  // Each packing multiplies what a few bytes may become. One of those counted is of plain bytes.
  if (archive_filter_count(input_.get()) > 2) {
    return absl::InvalidArgumentError("the archive is packed more than once");
  }
  struct archive_entry* entry = nullptr;
  const int result = archive_read_next_header(input_.get(), &entry);
  over_ = result == ARCHIVE_EOF;
  return over_ || result == ARCHIVE_OK ? absl::OkStatus() : input_.Error();
}

absl::StatusOr<size_t> Decompressor::Read(absl::Span<char> buffer) {
  if (!begun_) RETURN_IF_ERROR(Begin());
  if (over_) return 0;
  const la_ssize_t count = archive_read_data(input_.get(), buffer.data(), buffer.size());
  if (count < 0) return input_.Error();
  over_ = count == 0;
  return static_cast<size_t>(count);
}

absl::StatusOr<bool> TarReader::Next(TarEntry* entry) {
  if (!begun_) {
    begun_ = true;
    archive_read_support_format_tar(input_.get());
    RETURN_IF_ERROR(input_.Open());
  }
  struct archive_entry* found = nullptr;
  const int result = archive_read_next_header(input_.get(), &found);
  if (result == ARCHIVE_EOF) {
    // Where a header was looked for, and what was taken from there.
    const la_int64_t end = archive_read_header_position(input_.get());
    has_end_ = archive_filter_bytes(input_.get(), 0) - end >= kTarBlock;
    return false;
  }
  // A warning is of what nobody needs, or of a name, which is looked at below.
  if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return input_.Error();
  *entry = TarEntry();
  const char* path = archive_entry_pathname(found);
  if (path == nullptr) {
    return absl::InvalidArgumentError("the archive holds a name that is not UTF-8");
  }
  entry->path = path;
  entry->kind = KindOf(found);
  const char* target = entry->kind == TarEntry::Kind::kHardLink ? archive_entry_hardlink(found)
                                                                : archive_entry_symlink(found);
  if (target != nullptr) entry->target = target;
  entry->permissions = archive_entry_perm(found) & 07777;
  entry->uid = static_cast<uint64_t>(archive_entry_uid(found));
  entry->gid = static_cast<uint64_t>(archive_entry_gid(found));
  entry->mtime = archive_entry_mtime(found);
  entry->mtime_nanoseconds = static_cast<uint32_t>(archive_entry_mtime_nsec(found));
  entry->size = static_cast<uint64_t>(archive_entry_size(found));
  entry->position = static_cast<uint64_t>(archive_read_header_position(input_.get()));
  entry->sparse = archive_entry_sparse_count(found) > 0;
  TakeXattrs(found, entry);
  return true;
}

absl::StatusOr<size_t> TarReader::Read(absl::Span<char> buffer) {
  const la_ssize_t count = archive_read_data(input_.get(), buffer.data(), buffer.size());
  if (count < 0) return input_.Error();
  return static_cast<size_t>(count);
}

std::string Shown(absl::string_view text) {
  std::string shown = absl::Utf8SafeCHexEscape(text.substr(0, kMaxShown));
  if (text.size() > kMaxShown) shown += "...";
  return shown;
}

}  // namespace ferry::layers
