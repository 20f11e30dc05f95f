#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"

// Frames of the serial multiplexer. On the wire each frame is COBS-encoded and ended by a zero
// byte, so that a reader finds the next frame after any cut or damage.
//
// Decoded layout, little-endian: u32 checksum, u32 epoch, u32 sequence, u32 connection, u8 type,
// payload. The checksum is the low half of an XXH3 over the header's rest and the payload's XXH3.
namespace ferry::bridge {

inline constexpr uint16_t kMuxVersion = 1;
inline constexpr size_t kMuxHeaderSize = 17;
inline constexpr size_t kMaxMuxPayload = 32 * 1024;

enum class MuxFrameType : uint8_t {
  kHello = 1,         // host: a new epoch; payload u16 version
  kHelloAck = 2,      // guest: has entered the epoch; payload u16 version
  kHelloRequest = 3,  // guest: start an epoch; `epoch` is the one that it gave up, or 0
  kConnect = 4,       // guest: payload u32 port
  kAccept = 5,        // host
  kReset = 6,
  kData = 7,
  kCredit = 8,  // payload u32: bytes that the consumer has taken
  kFin = 9,     // no more data from this side
};

struct MuxFrame {
  MuxFrameType type = MuxFrameType::kReset;  // unchecked: may hold a value of no name
  uint32_t epoch = 0;
  uint32_t sequence = 0;
  uint32_t connection = 0;
  std::string_view payload;
};

// Appends the encoded frame and its delimiter to `out`. The payload may have kMaxMuxPayload bytes.
void AppendMuxFrame(const MuxFrame& frame, std::string& out);

// Cuts received bytes into frames; never holds more than one largest frame.
class MuxFrameDecoder {
 public:
  // Called with each whole frame, whose payload is valid during the call, or with nullopt for
  // something between two delimiters that is no intact frame.
  using Sink = absl::FunctionRef<void(const std::optional<MuxFrame>&)>;

  void Feed(std::string_view bytes, Sink sink);

  // Forgets a frame begun.
  void Reset();

 private:
  void Finish(std::string_view encoded, Sink sink);

  std::string partial_;
  bool oversized_ = false;
  std::string decoded_;
};

}  // namespace ferry::bridge
