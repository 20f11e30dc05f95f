#pragma once

#include <archive.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmmanager/layers/byte_source.h"

// libarchive behind sources of bytes. It is told to understand tar, gzip and zstd, and nothing
// else.
namespace ferry::layers {

// Feeds libarchive from a source, and keeps the source's error.
class ArchiveInput {
 public:
  explicit ArchiveInput(ByteSource& source);

  struct archive* get() const {
    return archive_.get();
  }
  absl::Status Open();
  // What failed, in the source's words, or else in libarchive's. INVALID_ARGUMENT if the bytes are
  // to blame.
  absl::Status Error() const;

 private:
  static la_ssize_t ReadBlock(struct archive*, void* self, const void** block);

  ByteSource& source_;
  std::vector<char> buffer_;
  absl::Status source_error_;
  std::unique_ptr<struct archive, decltype(&archive_read_free)> archive_;
};

// The bytes of a source without their compression by gzip or zstd; plain ones as they are.
class Decompressor final : public ByteSource {
 public:
  explicit Decompressor(ByteSource& source) : input_(source) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override;

 private:
  absl::Status Begin();

  ArchiveInput input_;
  bool begun_ = false;
  bool over_ = false;
};

struct TarEntry {
  enum class Kind { kFile, kDirectory, kSymlink, kHardLink, kFifo, kDevice, kOther };
  std::string path;  // as it is written in the archive
  Kind kind = Kind::kOther;
  std::string target;  // of links, as it is written
  uint32_t permissions = 0;
  uint64_t uid = 0;
  uint64_t gid = 0;
  int64_t mtime = 0;
  uint32_t mtime_nanoseconds = 0;
  uint64_t size = 0;                          // of files
  uint64_t position = 0;                      // of its header, from the source's first byte
  bool sparse = false;                        // it has holes
  std::map<std::string, std::string> xattrs;  // whole names, such as "user.note"
};

// Reads a plain tar of any of its dialects.
class TarReader {
 public:
  explicit TarReader(ByteSource& source) : input_(source) {}

  // False at the end. What was not read of the entry before is skipped.
  absl::StatusOr<bool> Next(TarEntry* entry);
  // Data of the entry; 0 at its end, or where only a hole is left of it. Other holes read as zeros.
  absl::StatusOr<size_t> Read(absl::Span<char> buffer);

  // Once there is no more: whether a block of zeros said so. Otherwise something may be missing.
  bool has_end() const { return has_end_; }

 private:
  ArchiveInput input_;
  bool begun_ = false;
  bool has_end_ = false;
};

// The text in a form for errors: short, on one line, without control characters.
std::string Shown(absl::string_view text);

}  // namespace ferry::layers
