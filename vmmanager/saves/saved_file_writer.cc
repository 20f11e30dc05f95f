#include <openssl/rand.h>

#include <algorithm>
#include <utility>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/saves/memory_codec.h"
#include "vmmanager/saves/partial_file.h"
#include "vmmanager/saves/saved_file.h"
#include "vmmanager/saves/section_cipher.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr size_t kLeastRoom = 64ull * 1024;
constexpr size_t kSavePieceBytes = 1024ull * 1024;
constexpr int kMaxLevel = 19;
constexpr unsigned kMaxWorkers = 16;

absl::Status CheckOptions(const SavedFileOptions& options) {
  if (options.level < 1 || options.level > kMaxLevel) {
    return absl::InvalidArgumentError(
        StrCat("the compression level ", options.level, " is not between 1 and ", kMaxLevel));
  }
  if (options.workers < 1 || options.workers > kMaxWorkers) {
    return absl::InvalidArgumentError(
        StrCat(options.workers, " threads to compress with are not between 1 and ", kMaxWorkers));
  }
  return absl::OkStatus();
}

absl::Status CheckSize(const char* name, uint64_t size, uint64_t max) {
  if (size <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("the ", name, " of a saved VM has ", size, " bytes, more than the limit of ", max));
}

}  // namespace

SavedFileWriter::SavedFileWriter() = default;
SavedFileWriter::~SavedFileWriter() = default;

absl::StatusOr<std::unique_ptr<SavedFileWriter>> SavedFileWriter::Create(
    std::string path, const SavedFileOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<SavedFileWriter> writer(new SavedFileWriter);
  RETURN_IF_ERROR(writer->Start(std::move(path), options));
  return writer;
}

absl::Status SavedFileWriter::Start(std::string path, const SavedFileOptions& options) {
  const bool zstd = options.compression == SaveCompression::kZstd;
  SavedFilePrologue prologue;
  prologue.flags = (zstd ? kZstdFlag : 0) | (options.key ? kEncryptedFlag : 0);
  if (options.key) {
    if (RAND_bytes(reinterpret_cast<unsigned char*>(prologue.salt.data()), prologue.salt.size()) !=
        1) {
      return absl::InternalError("OpenSSL has no random bytes");
    }
  }
  prologue_ = EncodePrologue(prologue);
  if (options.key) {
    const std::string_view salt(prologue.salt.data(), prologue.salt.size());
    ASSIGN_OR_RETURN(cipher_, SectionCipher::Make(*options.key, salt, prologue_));
  }
  ASSIGN_OR_RETURN(encoder_,
                   MemoryEncoder::Make({zstd, options.level, options.workers}, cipher_.get()));
  ASSIGN_OR_RETURN(file_, PartialFile::Create(std::move(path), {options.bypass_cache}));
  info_.compression = options.compression;
  info_.encrypted = options.key.has_value();
  return file_->Append(prologue_);
}

absl::Status SavedFileWriter::WriteHead(std::string_view head) {
  RETURN_IF_ERROR(failed_);
  return Remember(AppendHead(head));
}

absl::Status SavedFileWriter::AppendHead(std::string_view head) {
  if (next_ != Next::kHead) return absl::FailedPreconditionError("the head is written already");
  RETURN_IF_ERROR(CheckSize("head", head.size(), kMaxHeadBytes));
  std::string buffer;
  ASSIGN_OR_RETURN(const std::string_view stored, Stored(true, head, buffer));
  index_.head = {file_->bytes(), stored.size()};
  std::ranges::copy(Sha256(stored), index_.head_sha256.begin());
  RETURN_IF_ERROR(file_->Append(stored));
  index_.memory.offset = file_->bytes();
  next_ = Next::kMemory;
  return absl::OkStatus();
}

absl::Status SavedFileWriter::WriteMemory(std::string_view bytes) {
  RETURN_IF_ERROR(failed_);
  return Remember(AppendMemory(bytes));
}

absl::StatusOr<size_t> SavedFileWriter::WriteMemoryFrom(PutMemory put) {
  RETURN_IF_ERROR(failed_);
  absl::StatusOr<size_t> count = AppendMemoryFrom(put);
  RETURN_IF_ERROR(Remember(count.status()));
  return count;
}

absl::StatusOr<size_t> SavedFileWriter::AppendMemoryFrom(PutMemory put) {
  RETURN_IF_ERROR(CheckMemoryIsNext());
  if (encoder_->stores_as_is()) return AppendInPlace(put);
  piece_.resize(kSavePieceBytes);
  ASSIGN_OR_RETURN(const size_t count, put(std::span(piece_)));
  RETURN_IF_ERROR(AppendMemory({piece_.data(), count}));
  return count;
}

absl::StatusOr<size_t> SavedFileWriter::AppendInPlace(PutMemory put) {
  RETURN_IF_ERROR(
      encoder_->GivePending([this](std::string_view out) { return file_->Append(out); }));
  ASSIGN_OR_RETURN(const std::span<char> frame, file_->Room(kFrameHeaderBytes + kLeastRoom));
  const size_t room = std::min(frame.size() - kFrameHeaderBytes, kMaxFrameBytes);
  ASSIGN_OR_RETURN(const size_t count, put(frame.subspan(kFrameHeaderBytes, room)));
  // An empty frame is the end mark.
  if (count == 0) return count;
  encoder_->FrameInPlace(frame.data(), count);
  file_->Took(kFrameHeaderBytes + count);
  return count;
}

absl::Status SavedFileWriter::CheckMemoryIsNext() const {
  if (next_ == Next::kMemory) return absl::OkStatus();
  return absl::FailedPreconditionError("a saved VM's memory goes between its head and its tail");
}

absl::Status SavedFileWriter::AppendMemory(std::string_view bytes) {
  RETURN_IF_ERROR(CheckMemoryIsNext());
  return encoder_->Write(bytes, [this](std::string_view out) { return file_->Append(out); });
}

absl::StatusOr<SavedFileInfo> SavedFileWriter::Commit(std::string_view tail) {
  RETURN_IF_ERROR(failed_);
  absl::StatusOr<SavedFileInfo> info = Finish(tail);
  RETURN_IF_ERROR(Remember(info.status()));
  return info;
}

absl::StatusOr<SavedFileInfo> SavedFileWriter::Finish(std::string_view tail) {
  if (next_ != Next::kMemory) {
    return absl::FailedPreconditionError("a saved VM's tail goes after its head, once");
  }
  RETURN_IF_ERROR(CheckSize("tail", tail.size(), kMaxTailBytes));
  next_ = Next::kNothing;
  RETURN_IF_ERROR(FinishMemory());
  std::string buffer;
  ASSIGN_OR_RETURN(const std::string_view stored, Stored(false, tail, buffer));
  index_.tail = {file_->bytes(), stored.size()};
  std::ranges::copy(Sha256(stored), index_.tail_sha256.begin());
  RETURN_IF_ERROR(file_->Append(stored));
  index_.file_bytes = file_->bytes() + kIndexBytes;
  const std::string index = EncodeIndex(prologue_, index_);
  RETURN_IF_ERROR(file_->Append(index));
  RETURN_IF_ERROR(file_->Commit());
  info_.file_bytes = index_.file_bytes;
  info_.memory_bytes = index_.raw_memory_bytes;
  info_.sha256 = ToHex(std::string_view(index).substr(kIndexBytes - kSealBytes));
  return info_;
}

absl::Status SavedFileWriter::FinishMemory() {
  RETURN_IF_ERROR(encoder_->Finish([this](std::string_view out) { return file_->Append(out); }));
  const StoredMemory stored = encoder_->stored();
  index_.memory.length = stored.bytes;
  index_.memory_hash_low = stored.hash_low;
  index_.memory_hash_high = stored.hash_high;
  index_.raw_memory_bytes = encoder_->raw_bytes();
  return absl::OkStatus();
}

absl::StatusOr<std::string_view> SavedFileWriter::Stored(bool is_head, std::string_view plain,
                                                         std::string& buffer) {
  if (cipher_ == nullptr) return plain;
  buffer.resize(plain.size() + SectionCipher::kTagBytes);
  using Section = SealedPlace::Section;
  const SealedPlace place{is_head ? Section::kHead : Section::kTail, true, 0};
  RETURN_IF_ERROR(cipher_->Seal(place, plain, buffer.data()));
  return std::string_view(buffer);
}

absl::Status SavedFileWriter::Remember(absl::Status status) {
  if (!status.ok()) failed_ = status;
  return status;
}

uint64_t SavedFileWriter::memory_bytes() const { return encoder_->raw_bytes(); }
uint64_t SavedFileWriter::file_bytes() const { return file_->bytes(); }

absl::StatusOr<FileIdentity> SavedFileWriter::identity() const { return file_->identity(); }

}  // namespace ferry::vm
