#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Frames of the session connection between the source's and the destination's daemon.
//
// Layout, little-endian: u32 payload length, u8 type, u8 flags, u16 channel, u64 sequence, payload.
// `sequence` counts the frames of one direction from 0, so that a lost or repeated frame is
// noticed.
namespace ferry::migration {

inline constexpr uint16_t kConnectionVersion = 1;
inline constexpr uint16_t kMinConnectionVersion = 1;
inline constexpr size_t kFrameHeaderSize = 16;

// Largest payload of kData and of one fragment of kMessage; all other payloads are small.
inline constexpr size_t kMaxBulkPayload = 256 * 1024;
inline constexpr size_t kMaxFragment = 64 * 1024;
inline constexpr size_t kMaxSmallPayload = 2 * 1024;
inline constexpr size_t kMaxMessage = 64 * 1024 * 1024;

enum class FrameType : uint8_t {
  kHello = 1,     // source: who I am and which session I want
  kHelloAck = 2,  // destination: welcome
  kRefused = 3,   // destination: no, and why
  kOpen = 4,      // a new channel; payload: u8 kind
  kData = 5,      // bytes of a channel
  kCredit = 6,    // payload: u64, how many bytes of the channel may be sent in total
  kClose = 7,     // the sender's half of a channel ends; payload: u64 total, 16 bytes digest
  kReset = 8,     // the channel is gone; payload: text
  kMessage = 9,   // a fragment of a control message; the channel field holds the message's kind
  kPing = 10,     // payload: u64 id
  kPong = 11,     // payload: the ping's id
  kGoodbye = 12,  // nothing follows; payload: u8 status code, text
};

// On any frame: whoever does not know the type skips it. Without it an unknown type is refused.
inline constexpr uint8_t kFlagOptional = 0x80;
inline constexpr uint8_t kFlagFirst = 1;  // on kMessage
inline constexpr uint8_t kFlagLast = 2;   // on kMessage

struct FrameHeader {
  uint32_t length = 0;
  FrameType type = FrameType::kData;
  uint8_t flags = 0;
  uint16_t channel = 0;
  uint64_t sequence = 0;
};

std::array<char, kFrameHeaderSize> EncodeHeader(const FrameHeader& header);
FrameHeader ParseHeader(std::string_view bytes);

// A frame, or for kData and kMessage a part of one: those are handed on as they arrive, so bulk
// bytes are never copied nor collected. `payload` points into the decoder until its next call.
struct FramePiece {
  FrameHeader header;
  std::string_view payload;
  bool first = true;  // of this frame
  bool last = true;
};

// Cuts a byte stream into frames. Bounded: it holds one buffer of fixed size.
class FrameDecoder {
 public:
  explicit FrameDecoder(size_t buffer_size = 512 * 1024);

  // Where to read into (never empty); then Commit() what was read and call Next() until nullopt.
  std::span<char> Space();
  void Commit(size_t size) { end_ += size; }
  // Gives the buffer's memory back: nothing more will be read, and Space() is not called again.
  void Release() {
    std::vector<char>().swap(buffer_);
    begin_ = end_ = 0;
  }
  size_t capacity() const { return buffer_.capacity(); }

  // INVALID_ARGUMENT, for good, on a violation of the format. Unknown optional frames are reported
  // like others, piece by piece.
  absl::StatusOr<std::optional<FramePiece>> Next();

 private:
  absl::Status CheckHeader() const;

  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool in_frame_ = false;
  bool first_ = true;
  FrameHeader header_;
  size_t remaining_ = 0;
  absl::Status failure_;
};

bool IsKnownType(FrameType type);

// Little-endian integers, for payloads.
void AppendInt(std::string* out, uint64_t value, int bytes);

// Reads fields one after the other; after the first that is missing, ok() is false for good.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : rest_(bytes) {}
  uint64_t Int(int bytes);
  // Prefixed by a u16 length; longer than `limit` is an error.
  std::string_view Text(size_t limit);
  std::string_view Bytes(size_t size);
  bool ok() const { return ok_; }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace ferry::migration
