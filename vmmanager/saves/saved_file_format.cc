#include "vmmanager/saves/saved_file_format.h"

#include <algorithm>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/saves/section_cipher.h"
#include "vmmanager/state/envelope.h"

namespace ferry::vm {
namespace {

constexpr std::string_view kSaveMagic = "FERRYSAV";
constexpr uint32_t kSaveVersion = 1;

template <typename T>
void PutLittle(std::string& bytes, T value) {
  for (size_t i = 0; i < sizeof value; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

template <typename T>
T TakeLittle(std::string_view& bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; ++i) {
    value |= static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  bytes.remove_prefix(sizeof value);
  return value;
}

template <size_t N>
std::array<char, N> TakeArray(std::string_view& bytes) {
  std::array<char, N> value;
  std::copy_n(bytes.begin(), N, value.begin());
  bytes.remove_prefix(N);
  return value;
}

SavedFileIndex::Part TakePart(std::string_view& bytes) {
  SavedFileIndex::Part part;
  part.offset = TakeLittle<uint64_t>(bytes);
  part.length = TakeLittle<uint64_t>(bytes);
  return part;
}

// Moves `end` behind the part, which must begin there and have at most `max` bytes.
absl::Status PassPart(const char* name, const SavedFileIndex::Part& part, uint64_t max,
                      uint64_t& end) {
  if (part.offset != end || part.length > max) {
    return DamagedSave(StrCat("the index has the ", name, " at a place where it cannot be"));
  }
  end += part.length;
  return absl::OkStatus();
}

// Where everything must be follows from the lengths.
absl::Status CheckParts(const SavedFileIndex& index, uint64_t file_bytes) {
  const uint64_t room = file_bytes - kIndexBytes;
  uint64_t end = kPrologueBytes;
  RETURN_IF_ERROR(PassPart("head", index.head,
                           std::min(room - end, kMaxHeadBytes + SectionCipher::kTagBytes), end));
  RETURN_IF_ERROR(PassPart("memory", index.memory, room - end, end));
  RETURN_IF_ERROR(PassPart("tail", index.tail,
                           std::min(room - end, kMaxTailBytes + SectionCipher::kTagBytes), end));
  if (end != room) return DamagedSave("the index tells of other lengths than the file has");
  return absl::OkStatus();
}

}  // namespace

std::string EncodePrologue(const SavedFilePrologue& prologue) {
  std::string bytes(kSaveMagic);
  PutLittle(bytes, kSaveVersion);
  PutLittle(bytes, prologue.flags);
  return bytes.append(prologue.salt.data(), prologue.salt.size());
}

absl::StatusOr<SavedFilePrologue> DecodePrologue(std::string_view bytes) {
  if (!bytes.starts_with(kSaveMagic)) {
    return absl::InvalidArgumentError("is not a VM's saved state");
  }
  if (bytes.size() < kPrologueBytes) return DamagedSave("it is cut off");
  bytes = bytes.substr(kSaveMagic.size(), kPrologueBytes - kSaveMagic.size());
  const uint32_t version = TakeLittle<uint32_t>(bytes);
  if (version != kSaveVersion) {
    return absl::FailedPreconditionError(StrCat("has version ", version, " of a saved VM's file; ",
                                                "this ferryd knows ", kSaveVersion));
  }
  SavedFilePrologue prologue;
  prologue.flags = TakeLittle<uint32_t>(bytes);
  if ((prologue.flags & ~(kZstdFlag | kEncryptedFlag)) != 0) {
    return absl::FailedPreconditionError(
        "was saved in a way that this ferryd does not know; use a newer ferryd here");
  }
  prologue.salt = TakeArray<16>(bytes);
  return prologue;
}

std::string EncodeIndex(std::string_view prologue, const SavedFileIndex& index) {
  std::string bytes;
  for (const SavedFileIndex::Part& part : {index.head, index.memory, index.tail}) {
    PutLittle(bytes, part.offset);
    PutLittle(bytes, part.length);
  }
  PutLittle(bytes, index.raw_memory_bytes);
  PutLittle(bytes, index.memory_hash_low);
  PutLittle(bytes, index.memory_hash_high);
  bytes.append(index.head_sha256.data(), index.head_sha256.size());
  bytes.append(index.tail_sha256.data(), index.tail_sha256.size());
  PutLittle(bytes, index.file_bytes);
  return bytes + Sha256(StrCat(prologue, bytes));
}

absl::StatusOr<SavedFileIndex> DecodeIndex(std::string_view prologue, std::string_view bytes,
                                           uint64_t file_bytes) {
  if (bytes.size() != kIndexBytes || file_bytes < kPrologueBytes + kIndexBytes) {
    return DamagedSave("its index is cut off");
  }
  // The seal comes first: what it does not cover means nothing.
  const std::string_view sealed = bytes.substr(0, kIndexBytes - kSealBytes);
  if (Sha256(StrCat(prologue, sealed)) != bytes.substr(sealed.size())) {
    return DamagedSave("its index was altered, or its end is missing");
  }
  std::string_view rest = sealed;
  SavedFileIndex index;
  index.head = TakePart(rest);
  index.memory = TakePart(rest);
  index.tail = TakePart(rest);
  index.raw_memory_bytes = TakeLittle<uint64_t>(rest);
  index.memory_hash_low = TakeLittle<uint64_t>(rest);
  index.memory_hash_high = TakeLittle<uint64_t>(rest);
  index.head_sha256 = TakeArray<32>(rest);
  index.tail_sha256 = TakeArray<32>(rest);
  index.file_bytes = TakeLittle<uint64_t>(rest);
  if (index.file_bytes != file_bytes) {
    return DamagedSave(
        StrCat("its length is ", file_bytes, " bytes and should be ", index.file_bytes));
  }
  RETURN_IF_ERROR(CheckParts(index, file_bytes));
  return index;
}

std::string EncodeFrameHeader(size_t stored_bytes) {
  std::string bytes;
  PutLittle(bytes, static_cast<uint32_t>(stored_bytes));
  return bytes;
}

uint32_t DecodeFrameHeader(std::string_view bytes) { return TakeLittle<uint32_t>(bytes); }

absl::Status DamagedSave(std::string_view what) {
  return absl::DataLossError(StrCat("is damaged: ", what));
}

}  // namespace ferry::vm
