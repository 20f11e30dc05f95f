#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/saves/memory_codec.h"
#include "vmmanager/saves/saved_file.h"
#include "vmmanager/saves/section_cipher.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {

SavedFileReader::SavedFileReader(const std::string& path) : path_(path) {}
SavedFileReader::~SavedFileReader() = default;

absl::StatusOr<std::unique_ptr<SavedFileReader>> SavedFileReader::Open(
    const std::string& path, const std::optional<SaveKey>& key) {
  std::unique_ptr<SavedFileReader> reader(new SavedFileReader(path));
  RETURN_IF_ERROR(reader->Named(reader->Start(key)));
  return reader;
}

absl::Status SavedFileReader::Start(const std::optional<SaveKey>& key) {
  RETURN_IF_ERROR(OpenFile());
  RETURN_IF_ERROR(ReadFixedParts());
  RETURN_IF_ERROR(MakeCipher(key));
  RETURN_IF_ERROR(ReadHeadAndTail());
  return MakeDecoder();
}

absl::Status SavedFileReader::OpenFile() {
  // Opening a FIFO waits for its writer, unless told not to.
  file_.Reset(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info {};
  if (!file_.valid() || ::fstat(file_.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, "cannot be opened");
  }
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("is not a VM's saved state");
  file_bytes_ = static_cast<uint64_t>(info.st_size);
  return absl::OkStatus();
}

absl::Status SavedFileReader::ReadFixedParts() {
  prologue_.resize(std::min<uint64_t>(kPrologueBytes, file_bytes_));
  RETURN_IF_ERROR(ReadAt(0, prologue_.data(), prologue_.size(), "its beginning"));
  ASSIGN_OR_RETURN(settings_, DecodePrologue(prologue_));
  std::string index(std::min<uint64_t>(kIndexBytes, file_bytes_), '\0');
  RETURN_IF_ERROR(ReadAt(file_bytes_ - index.size(), index.data(), index.size(), "its index"));
  ASSIGN_OR_RETURN(index_, DecodeIndex(prologue_, index, file_bytes_));
  info_.file_bytes = file_bytes_;
  info_.memory_bytes = index_.raw_memory_bytes;
  info_.compression =
      (settings_.flags & kZstdFlag) != 0 ? SaveCompression::kZstd : SaveCompression::kNone;
  info_.encrypted = (settings_.flags & kEncryptedFlag) != 0;
  info_.sha256 = ToHex(std::string_view(index).substr(kIndexBytes - kSealBytes));
  return absl::OkStatus();
}

absl::Status SavedFileReader::MakeCipher(const std::optional<SaveKey>& key) {
  if (key && !info_.encrypted) {
    return absl::InvalidArgumentError("is not encrypted; leave out the key file");
  }
  if (!info_.encrypted) return absl::OkStatus();
  if (!key) return absl::FailedPreconditionError("is encrypted and needs its key file");
  const std::string_view salt(settings_.salt.data(), settings_.salt.size());
  ASSIGN_OR_RETURN(cipher_, SectionCipher::Make(*key, salt, prologue_));
  return absl::OkStatus();
}

absl::Status SavedFileReader::ReadHeadAndTail() {
  const std::string_view head_sha256(index_.head_sha256.data(), index_.head_sha256.size());
  const std::string_view tail_sha256(index_.tail_sha256.data(), index_.tail_sha256.size());
  ASSIGN_OR_RETURN(head_, ReadSection(true, index_.head, head_sha256));
  ASSIGN_OR_RETURN(tail_, ReadSection(false, index_.tail, tail_sha256));
  return absl::OkStatus();
}

absl::StatusOr<std::string> SavedFileReader::ReadSection(bool is_head,
                                                         const SavedFileIndex::Part& part,
                                                         std::string_view sha256) {
  const char* const name = is_head ? "the head" : "the tail";
  std::string bytes(part.length, '\0');  // DecodeIndex() has bounded it
  RETURN_IF_ERROR(ReadAt(part.offset, bytes.data(), bytes.size(), name));
  if (Sha256(bytes) != sha256) return DamagedSave(StrCat(name, " was altered"));
  if (cipher_ == nullptr) return bytes;
  using Section = SealedPlace::Section;
  const SealedPlace place{is_head ? Section::kHead : Section::kTail, true, 0};
  if (!cipher_->Open(place, bytes, bytes.data())) {
    // With the key that the head opened with.
    if (!is_head) return DamagedSave("the tail was altered, or is that of another file");
    // Whoever alters a file can make its digests anew, so this is not a wrong key for certain.
    return absl::FailedPreconditionError(
        "cannot be decrypted: the key is not the one that it was saved with, or the file was "
        "altered");
  }
  bytes.resize(bytes.size() - SectionCipher::kTagBytes);
  return bytes;
}

absl::Status SavedFileReader::MakeDecoder() {
  const StoredMemory stored{index_.memory.length, index_.memory_hash_low, index_.memory_hash_high};
  const bool zstd = info_.compression == SaveCompression::kZstd;
  ASSIGN_OR_RETURN(decoder_,
                   MemoryDecoder::Make({zstd, index_.raw_memory_bytes, stored}, cipher_.get()));
  memory_at_ = index_.memory.offset;
  // Only a hint.
  ::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  return absl::OkStatus();
}

absl::StatusOr<std::string_view> SavedFileReader::ReadMemory() {
  RETURN_IF_ERROR(failed_);
  absl::StatusOr<std::string_view> piece = NextMemory();
  if (piece.ok()) return piece;
  failed_ = Named(piece.status());
  return failed_;
}

absl::StatusOr<std::string_view> SavedFileReader::NextMemory() {
  while (true) {
    ASSIGN_OR_RETURN(const std::string_view piece, decoder_->NextPiece());
    if (!piece.empty()) return piece;
    const size_t size = decoder_->wants();
    if (size == 0) return std::string_view();
    if (frame_.size() < size) frame_.resize(size);
    RETURN_IF_ERROR(ReadAt(memory_at_, frame_.data(), size, "the memory"));
    memory_at_ += size;
    RETURN_IF_ERROR(decoder_->Take(frame_.data()));
  }
}

absl::Status SavedFileReader::ReadAt(uint64_t offset, char* bytes, size_t size,
                                     std::string_view what) {
  while (size > 0) {
    const ssize_t count = ::pread(file_.get(), bytes, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return absl::UnavailableError(StrCat("cannot be read: ", what, ": ", std::strerror(errno)));
    }
    // It was longer when it was opened.
    if (count == 0) return DamagedSave(StrCat(what, " is cut off"));
    bytes += count;
    size -= static_cast<size_t>(count);
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status SavedFileReader::Named(const absl::Status& status) const {
  if (status.ok()) return status;
  return absl::Status(status.code(), StrCat(path_, " ", std::string(status.message())));
}

}  // namespace ferry::vm
