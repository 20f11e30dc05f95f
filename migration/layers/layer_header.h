#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// How an image's layer travels on a channel of a session connection: this header, the layer's
// bytes, the end of the sender's half; then what the receiver says of it, which is kLayerTaken or
// why it was not taken, and the end of its half.
namespace ferry::migration {

struct LayerHeader {
  std::string digest;  // "sha256:..." of the bytes
  uint64_t size = 0;   // of the bytes
};

inline constexpr size_t kLayerHeaderSize = 88;
// A channel that breaks says nothing.
inline constexpr std::string_view kLayerTaken = "taken";
// What the receiver may say, in bytes.
inline constexpr size_t kMaxLayerAnswer = 1024;

// The digest must be one.
std::string EncodeLayerHeader(const LayerHeader& header);
// INVALID_ARGUMENT if the bytes, kLayerHeaderSize of them, are no header.
absl::StatusOr<LayerHeader> DecodeLayerHeader(std::string_view bytes);

}  // namespace ferry::migration
