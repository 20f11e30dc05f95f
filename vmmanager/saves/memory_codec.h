#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmmanager/saves/section_cipher.h"

struct XXH3_state_s;
struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

// How a VM's memory becomes the frames of a saved file (saved_file_format.h) and what it was again.
// No I/O.
namespace ferry::vm {

// Length and XXH3-128 of the memory as it is stored.
struct StoredMemory {
  uint64_t bytes = 0;
  uint64_t hash_low = 0;
  uint64_t hash_high = 0;
  bool operator==(const StoredMemory&) const = default;
};

// Computes a StoredMemory as bytes pass by.
class StoredMemoryHasher {
 public:
  StoredMemoryHasher();
  void Update(std::string_view bytes);
  StoredMemory Result() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
  uint64_t bytes_ = 0;
};

class MemoryEncoder {
 public:
  struct Settings {
    bool zstd = false;
    int level = 1;
    unsigned workers = 1;
  };
  // Gets what is to be stored next; the bytes are good for the call only.
  using Sink = absl::FunctionRef<absl::Status(std::string_view)>;

  // The cipher must outlive it; none if the memory is not to be encrypted.
  static absl::StatusOr<std::unique_ptr<MemoryEncoder>> Make(const Settings& settings,
                                                             SectionCipher* cipher);

  // Takes the memory's next bytes. After an error from here or from `sink` it is of no use.
  absl::Status Write(std::string_view bytes, Sink sink);
  // Whether memory is stored as it is, so that it can lie where it is stored from.
  bool stores_as_is() const { return zstd_ == nullptr && cipher_ == nullptr; }
  // Gives out what Write has kept to make a larger frame.
  absl::Status GivePending(Sink sink);
  // Where memory is stored as it is and nothing is kept: makes a frame of what lies behind
  // kFrameHeaderBytes of room, 1 to kMaxFrameBytes.
  void FrameInPlace(char* frame, size_t bytes);
  // Gives out what is left and the end mark.
  absl::Status Finish(Sink sink);

  uint64_t raw_bytes() const { return raw_bytes_; }
  StoredMemory stored() const { return hasher_.Result(); }

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };

  explicit MemoryEncoder(SectionCipher* cipher) : cipher_(cipher) {}
  absl::Status StartZstd(const Settings& settings);
  absl::Status Collect(std::string_view bytes, Sink sink);
  absl::Status Compress(std::string_view bytes, bool end, Sink sink);
  absl::Status GiveFrame(std::string_view content, bool last, Sink sink);
  absl::Status Give(std::string_view bytes, Sink sink);

  SectionCipher* cipher_;
  std::unique_ptr<ZSTD_CCtx_s, Free> zstd_;
  StoredMemoryHasher hasher_;
  std::string pending_;  // kMaxFrameBytes, of which pending_size_ wait to become a frame
  size_t pending_size_ = 0;
  std::string sealed_;
  uint64_t frames_ = 0;
  uint64_t raw_bytes_ = 0;
};

// Turn by turn: give it the bytes that it wants, then take pieces until there is none. It trusts
// nothing that it reads, and allocates nothing of a size that it has read, unless that is less than
// a bound.
class MemoryDecoder {
 public:
  struct Settings {
    bool zstd = false;
    uint64_t raw_bytes = 0;
    StoredMemory stored;
  };

  // As for the encoder. DATA_LOSS if so few bytes cannot be a memory.
  static absl::StatusOr<std::unique_ptr<MemoryDecoder>> Make(const Settings& settings,
                                                             SectionCipher* cipher);

  // How many bytes it wants now, at most kMaxFrameBytes + SectionCipher::kTagBytes. 0 once it had
  // all of the memory, and everything about it was right.
  size_t wants() const { return wants_; }
  // Takes exactly so many. It decrypts them where they are, and they must stay until NextPiece()
  // was empty.
  absl::Status Take(char* bytes);
  // What has come of them, or an empty piece.
  absl::StatusOr<std::string_view> NextPiece();

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };

  MemoryDecoder(const Settings& settings, SectionCipher* cipher)
      : settings_(settings), cipher_(cipher), left_(settings.stored.bytes) {}
  absl::Status TakeHeader(std::string_view bytes);
  absl::Status TakeContent(char* bytes, size_t size);
  absl::Status CheckEnd() const;
  absl::StatusOr<std::string_view> Unpack();
  absl::Status Count(size_t raw_bytes);

  Settings settings_;
  SectionCipher* cipher_;
  std::unique_ptr<ZSTD_DCtx_s, Free> zstd_;
  StoredMemoryHasher hasher_;
  uint64_t left_;  // of the stored bytes
  size_t wants_ = 0;
  bool header_next_ = true;
  bool last_opened_ = false;  // the frame that was sealed as the last one
  uint64_t frames_ = 0;
  uint64_t raw_bytes_ = 0;
  std::string_view content_;    // of the current frame, as far as it was not given out
  bool more_unpacked_ = false;  // zstd holds back what had no room
  bool zstd_ended_ = false;
  std::string unpacked_;
};

}  // namespace ferry::vm
