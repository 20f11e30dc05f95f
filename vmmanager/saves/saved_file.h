#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/saves/file_identity.h"
#include "vmmanager/saves/save_key.h"
#include "vmmanager/saves/saved_file_format.h"

// The file that a VM is saved in: a head, the memory, and a tail, each of them any bytes. It is
// there as a whole or not at all, and every change of it is seen when it is read.
//
// Everything here blocks: it is for a thread of its own.
namespace ferry::vm {

class MemoryDecoder;
class MemoryEncoder;
class PartialFile;
class SectionCipher;

enum class SaveCompression { kNone, kZstd };

struct SavedFileOptions {
  SaveCompression compression = SaveCompression::kNone;
  int level = 1;              // 1 to 19
  unsigned workers = 1;       // 1 to 16, threads that compress
  bool bypass_cache = false;  // O_DIRECT where the file system can
  std::optional<SaveKey> key;
};

struct SavedFileInfo {
  uint64_t file_bytes = 0;
  uint64_t memory_bytes = 0;  // uncompressed
  SaveCompression compression = SaveCompression::kNone;
  bool encrypted = false;
  std::string sha256;  // of the index and what comes before it, in hex: identifies the file
};

// After an error, everything but destroying it fails with the same one.
class SavedFileWriter {
 public:
  // Makes a temporary file beside `path`. Destroyed without Commit, it removes that, and `path` is
  // as it was. INVALID_ARGUMENT if an option is out of its range.
  static absl::StatusOr<std::unique_ptr<SavedFileWriter>> Create(std::string path,
                                                                 const SavedFileOptions& options);
  ~SavedFileWriter();
  SavedFileWriter(const SavedFileWriter&) = delete;
  SavedFileWriter& operator=(const SavedFileWriter&) = delete;

  // Once, before the memory; at most 64 MiB.
  absl::Status WriteHead(std::string_view head);
  // Any number of times, pieces of any size.
  absl::Status WriteMemory(std::string_view bytes);
  // The same, but puts them where they are written from, which spares copying them. Gets a place
  // that has room for 64 KiB at least, and returns how many bytes it put there; few make a large
  // file of many frames.
  using PutMemory = absl::FunctionRef<absl::StatusOr<size_t>(std::span<char>)>;
  // How many it put there.
  absl::StatusOr<size_t> WriteMemoryFrom(PutMemory put);
  // The tail has at most 1 MiB. The file has its name, and is on the disk, when this returns.
  // RESOURCE_EXHAUSTED from here and those above: there is no room.
  absl::StatusOr<SavedFileInfo> Commit(std::string_view tail);

  // What was written so far; the file's bytes may still be in a buffer here.
  uint64_t memory_bytes() const;
  uint64_t file_bytes() const;
  // What it is already, and will be once it has its name.
  absl::StatusOr<FileIdentity> identity() const;

 private:
  SavedFileWriter();
  absl::Status Start(std::string path, const SavedFileOptions& options);
  absl::Status AppendHead(std::string_view head);
  absl::Status CheckMemoryIsNext() const;
  absl::Status AppendMemory(std::string_view bytes);
  absl::StatusOr<size_t> AppendMemoryFrom(PutMemory put);
  absl::StatusOr<size_t> AppendInPlace(PutMemory put);
  absl::StatusOr<SavedFileInfo> Finish(std::string_view tail);
  absl::Status FinishMemory();
  // The section as it is stored: `buffer` if it had to be encrypted.
  absl::StatusOr<std::string_view> Stored(bool is_head, std::string_view plain,
                                          std::string& buffer);
  absl::Status Remember(absl::Status status);

  enum class Next { kHead, kMemory, kNothing };

  std::unique_ptr<PartialFile> file_;
  std::unique_ptr<SectionCipher> cipher_;  // none if not encrypted
  std::unique_ptr<MemoryEncoder> encoder_;
  std::string prologue_;
  std::vector<char> piece_;  // of memory that is not stored as it is
  SavedFileInfo info_;
  SavedFileIndex index_;
  Next next_ = Next::kHead;
  absl::Status failed_;
};

class SavedFileReader {
 public:
  // Reads and checks all but the memory. INVALID_ARGUMENT if it is no saved VM or needs no key,
  // FAILED_PRECONDITION if it is of another version, needs a key or another key, DATA_LOSS if it
  // was cut or altered, NOT_FOUND.
  static absl::StatusOr<std::unique_ptr<SavedFileReader>> Open(const std::string& path,
                                                               const std::optional<SaveKey>& key);
  ~SavedFileReader();
  SavedFileReader(const SavedFileReader&) = delete;
  SavedFileReader& operator=(const SavedFileReader&) = delete;

  const std::string& head() const { return head_; }
  const std::string& tail() const { return tail_; }
  const SavedFileInfo& info() const { return info_; }

  // The next piece of memory, at most 1 MiB and valid until the next call. An empty one once all
  // was read and its length and digest were right: until then, what was read may have been altered.
  // DATA_LOSS if it was; again and again then.
  absl::StatusOr<std::string_view> ReadMemory();

 private:
  explicit SavedFileReader(const std::string& path);
  absl::Status Start(const std::optional<SaveKey>& key);
  absl::Status OpenFile();
  absl::Status ReadFixedParts();
  absl::Status MakeCipher(const std::optional<SaveKey>& key);
  absl::Status ReadHeadAndTail();
  absl::Status MakeDecoder();
  absl::StatusOr<std::string> ReadSection(bool is_head, const SavedFileIndex::Part& part,
                                          std::string_view sha256);
  absl::Status ReadAt(uint64_t offset, char* bytes, size_t size, std::string_view what);
  absl::StatusOr<std::string_view> NextMemory();
  // Says which file it is about.
  absl::Status Named(const absl::Status& status) const;

  std::string path_;
  UniqueFd file_;
  uint64_t file_bytes_ = 0;
  std::unique_ptr<SectionCipher> cipher_;  // none if not encrypted
  std::unique_ptr<MemoryDecoder> decoder_;
  std::string prologue_;
  SavedFilePrologue settings_;
  SavedFileIndex index_;
  SavedFileInfo info_;
  std::string head_;
  std::string tail_;
  uint64_t memory_at_ = 0;  // the next byte of it in the file
  std::vector<char> frame_;
  absl::Status failed_;
};

}  // namespace ferry::vm
