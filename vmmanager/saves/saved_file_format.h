#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The records of fixed size in the file that a VM is saved in. All numbers are little-endian.
//
//   prologue  magic "FERRYSAV", version u32, flags u32 (1: zstd, 2: encrypted), salt (16 bytes;
//             zeros unless encrypted)
//   head      bytes
//   memory    frames of {stored length u32, so many bytes}; a length of 0 is the end mark
//   tail      bytes
//   index     at the very end, so that it can be written last and found first:
//             offset u64 and length u64 of head, memory and tail; length of the raw memory u64;
//             XXH3-128 of the stored memory with its frame headers (low u64, high u64); SHA-256 of
//             the stored head and of the stored tail; length of the file u64; the seal, which is
//             SHA-256 of the prologue and of the index before it
//
// The parts follow one another without gaps. With zstd the memory is one zstd stream, cut into
// frames anywhere. If the file is encrypted, then head, tail and each frame are sealed on their own
// (section_cipher.h), 16 bytes longer than what they hold, and there is at least one frame.
// Prologue, index and head are all that it takes to tell what a file holds.
namespace ferry::vm {

inline constexpr uint64_t kMaxHeadBytes = 64ull * 1024 * 1024;
inline constexpr uint64_t kMaxTailBytes = 1024ull * 1024;
inline constexpr size_t kMaxFrameBytes = 1024ull * 1024;  // of what is in it
inline constexpr size_t kFrameHeaderBytes = 4;
inline constexpr size_t kPrologueBytes = 32;
inline constexpr size_t kIndexBytes = 176;
inline constexpr size_t kSealBytes = 32;

inline constexpr uint32_t kZstdFlag = 1;
inline constexpr uint32_t kEncryptedFlag = 2;

struct SavedFilePrologue {
  uint32_t flags = 0;
  std::array<char, 16> salt{};
  bool operator==(const SavedFilePrologue&) const = default;
};

struct SavedFileIndex {
  struct Part {
    uint64_t offset = 0;
    uint64_t length = 0;
    bool operator==(const Part&) const = default;
  };
  Part head;
  Part memory;
  Part tail;
  uint64_t raw_memory_bytes = 0;
  uint64_t memory_hash_low = 0;
  uint64_t memory_hash_high = 0;
  std::array<char, 32> head_sha256{};
  std::array<char, 32> tail_sha256{};
  uint64_t file_bytes = 0;
  bool operator==(const SavedFileIndex&) const = default;
};

std::string EncodePrologue(const SavedFilePrologue& prologue);
// `bytes` is the front of a file, up to kPrologueBytes. INVALID_ARGUMENT if it is another kind of
// file, FAILED_PRECONDITION if it is of another version or has unknown flags, DATA_LOSS if it is
// cut off. Messages go on from the file's name, as all of this folder do.
absl::StatusOr<SavedFilePrologue> DecodePrologue(std::string_view bytes);

// With its seal.
std::string EncodeIndex(std::string_view prologue, const SavedFileIndex& index);
// Of a file that has `file_bytes`. What is returned lies within the file and the limits above.
// DATA_LOSS otherwise.
absl::StatusOr<SavedFileIndex> DecodeIndex(std::string_view prologue, std::string_view bytes,
                                           uint64_t file_bytes);

std::string EncodeFrameHeader(size_t stored_bytes);
uint32_t DecodeFrameHeader(std::string_view bytes);

// DATA_LOSS that says what is wrong.
absl::Status DamagedSave(std::string_view what);

}  // namespace ferry::vm
