#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Frames of the bridge: a 16-byte little-endian header (u32 type, u32 size including the header,
// u64 id) and a JSON text.
namespace ferry::bridge {

inline constexpr size_t kFrameHeaderSize = 16;
inline constexpr size_t kMaxFrameSize = 0x10000;

struct Frame {
  uint32_t type = 0;
  int64_t id = 0;
  std::string payload;
};

// INVALID_ARGUMENT if the payload does not fit into a frame.
absl::StatusOr<std::string> EncodeFrame(uint32_t type, int64_t id, std::string_view payload);

// Cuts a byte stream into frames; it never buffers more than one frame and the last Append().
class FrameDecoder {
 public:
  void Append(std::string_view bytes);

  // The next whole frame, nullopt if more bytes are needed. INVALID_ARGUMENT (for good) when a
  // header has an impossible size: the stream can't be trusted from there on.
  absl::StatusOr<std::optional<Frame>> Next();

 private:
  std::string buffer_;
  size_t consumed_ = 0;
  absl::Status failure_;
};

}  // namespace ferry::bridge
