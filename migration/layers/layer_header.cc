#include "migration/layers/layer_header.h"

#include "absl/strings/str_cat.h"
#include "vmmanager/layers/byte_source.h"

namespace ferry::migration {
namespace {

constexpr std::string_view kMagic = "FerryLy1";
constexpr size_t kDigestSize = 71;  // "sha256:" and 64 digits
constexpr size_t kSizeSize = 8;
constexpr size_t kPadding = kLayerHeaderSize - kMagic.size() - kDigestSize - kSizeSize;

}  // namespace

std::string EncodeLayerHeader(const LayerHeader& header) {
  std::string bytes(kMagic);
  bytes.append(header.digest);
  bytes.append(kPadding, '\0');
  for (size_t byte = kSizeSize; byte-- > 0;) {
    bytes.push_back(static_cast<char>(header.size >> (8 * byte)));
  }
  return bytes;
}

absl::StatusOr<LayerHeader> DecodeLayerHeader(std::string_view bytes) {
  LayerHeader header;
  if (bytes.size() != kLayerHeaderSize || bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("what came is no layer");
  }
  header.digest = bytes.substr(kMagic.size(), kDigestSize);
  if (!layers::IsDigest(header.digest)) {
    return absl::InvalidArgumentError("a layer came that names no digest");
  }
  for (const char byte : bytes.substr(kLayerHeaderSize - kSizeSize)) {
    header.size = header.size << 8 | static_cast<unsigned char>(byte);
  }
  return header;
}

}  // namespace ferry::migration
