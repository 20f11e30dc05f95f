#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Frames of a resumable stdio stream, Ferry's extension to the guest compute service protocol. A
// stdio port's connection carries them when the guest announced the capability
// "ResumableStdioSupported"; otherwise it carries the plain bytes.
//
// A stream has one direction: its sender keeps every byte until it is acknowledged. Offsets are
// absolute from the process's start. On every new connection both sides first send kHello:
//   the sender says what it can resend   (generation, offset = oldest byte kept, end = next byte),
//   the receiver says where to go on     (generation, offset = next byte wanted; end unused).
// Then the sender sends kData from the wanted offset and kEof after the last byte; the receiver
// sends kAck(offset) for what its consumer has taken and kAck with kFlagEofTaken for the end. On an
// input stream that flag at an offset before the end says that the process takes no more.
//
// Layout, little-endian: u8 type, u8 flags, u16 zero, u32 payload length, u64 offset, payload.
// kHello's payload: u16 version, u16 zero, u32 generation, u64 end; a later version may append to
// it. Each side says the highest version that it speaks, and both use the lower of the two.
namespace ferry::bridge {

inline constexpr uint16_t kStreamVersion = 1;
inline constexpr size_t kStreamHeaderSize = 16;
inline constexpr size_t kMaxStreamPayload = 256 * 1024;

// What a sender retains for a receiver that does not acknowledge; then its source is held back.
inline constexpr size_t kStreamWindow = 1024 * 1024;

enum class StreamFrameType : uint8_t { kHello = 1, kData = 2, kAck = 3, kEof = 4 };

inline constexpr uint8_t kFlagEofTaken = 1;    // on kAck: the end was taken, or nothing more is
inline constexpr uint8_t kFlagEofReached = 1;  // on a sender's kHello: `end` is the stream's end

struct StreamHello {
  uint32_t generation = 0;
  uint64_t offset = 0;
  uint64_t end = 0;
  bool ended = false;
};

// One parsed frame. `payload` points into the decoder's buffer until its next call.
struct StreamFrame {
  StreamFrameType type = StreamFrameType::kData;
  uint8_t flags = 0;
  uint64_t offset = 0;
  std::string_view payload;
  StreamHello hello;  // filled for kHello
};

std::string EncodeHello(const StreamHello& hello, uint16_t version = kStreamVersion);
// Only the header; the payload follows it on the wire.
std::string EncodeDataHeader(uint64_t offset, size_t payload_size);
std::string EncodeAck(uint64_t offset, bool eof_taken);
std::string EncodeEof(uint64_t offset);

// Cuts a byte stream into frames. Bounded: beside what is added at one time it never holds more
// than one largest frame.
class StreamDecoder {
 public:
  // Adds received bytes; call Next() until it returns nullopt before adding more.
  void Append(std::string_view bytes);

  // The same for whoever can receive in place: `size` bytes for what comes next, valid until the
  // next call; Received() says how much of them was filled.
  std::span<char> Space(size_t size);
  void Received(size_t size) { end_ += size; }

  // The next whole frame, nullopt if more bytes are needed, INVALID_ARGUMENT (for good) on a
  // violation of the format.
  absl::StatusOr<std::optional<StreamFrame>> Next();

 private:
  // Not initialized: of what nobody fills, the kernel gives no page.
  std::unique_ptr<char[]> buffer_;
  size_t capacity_ = 0;
  size_t begin_ = 0;  // of what no frame was made of yet
  size_t end_ = 0;
};

}  // namespace ferry::bridge
