#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/saves/file_identity.h"
#include "vmmanager/saves/writeback.h"

namespace ferry::vm {

// A file that is written from front to back and gets its name only once it is whole and on the
// disk; it never takes another file's place (ALREADY_EXISTS). Until then it has no name, and goes
// away with the object or the process. Where the file system has no such files it is `path` +
// ".partial-" + something random, and goes away with the object. All of it blocks. After an error
// it is of no use.
class PartialFile {
 public:
  struct Options {
    bool bypass_cache = false;  // if the file system can
  };
  static absl::StatusOr<std::unique_ptr<PartialFile>> Create(std::string path,
                                                             const Options& options);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  absl::Status Append(std::string_view bytes);
  // Where what comes next may be put instead, which spares copying it: at least so many bytes
  // (512 KiB at most), until the next call of anything else.
  absl::StatusOr<std::span<char>> Room(size_t at_least);
  // So many bytes were put there.
  void Took(size_t bytes);
  absl::Status Commit();

  uint64_t bytes() const { return bytes_; }
  // That it has with and without its name.
  absl::StatusOr<FileIdentity> identity() const { return IdentityOf(file_.get()); }

 private:
  struct Free {
    void operator()(char* buffer) const { std::free(buffer); }
  };

  using Buffer = std::unique_ptr<char, Free>;

  PartialFile(std::string path, std::string draft, UniqueFd file, bool direct, Buffer buffer);
  // What was collected, of which whole blocks only.
  absl::Status WriteBlocks();
  absl::Status WriteOut(std::string_view bytes);
  absl::Status StopBypass();
  absl::Status Failure(int error) const;

  std::string path_;
  std::string draft_;  // empty: it has no name yet, or its own
  UniqueFd file_;
  bool direct_;
  Buffer buffer_;
  size_t collected_ = 0;
  uint64_t bytes_ = 0;                    // appended
  uint64_t written_ = 0;                  // of these
  std::unique_ptr<Writeback> writeback_;  // nullptr: all of it is left to fsync
};

// The folder that `path` lies in, which may be ".".
std::string SaveFolderOf(const std::string& path);

// Brings names that came to it, or went, to the disk. Blocks.
absl::Status SyncFolderOf(const std::string& path);

// What to say if a file in `folder` could not be written on. RESOURCE_EXHAUSTED if it has no room.
absl::Status SaveWriteFailure(int error, std::string_view folder, uint64_t bytes_written,
                              std::optional<uint64_t> bytes_free);

}  // namespace ferry::vm
