#include "bridge/protocol/frame.h"

#include <boost/endian/conversion.hpp>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

const unsigned char* Bytes(const char* text) {
  return reinterpret_cast<const unsigned char*>(text);
}

}  // namespace

absl::StatusOr<std::string> EncodeFrame(uint32_t type, int64_t id, std::string_view payload) {
  if (payload.size() > kMaxFrameSize - kFrameHeaderSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", payload.size(), " bytes does not fit into a bridge frame (",
                     kMaxFrameSize - kFrameHeaderSize, " bytes at most)"));
  }
  unsigned char header[kFrameHeaderSize];
  boost::endian::store_little_u32(header, type);
  boost::endian::store_little_u32(header + 4,
                                  static_cast<uint32_t>(kFrameHeaderSize + payload.size()));
  boost::endian::store_little_u64(header + 8, static_cast<uint64_t>(id));
  std::string frame(reinterpret_cast<const char*>(header), kFrameHeaderSize);
  frame.append(payload);
  return frame;
}

void FrameDecoder::Append(std::string_view bytes) {
  if (!failure_.ok()) return;
  buffer_.erase(0, consumed_);
  consumed_ = 0;
  buffer_.append(bytes);
}

absl::StatusOr<std::optional<Frame>> FrameDecoder::Next() {
  if (!failure_.ok()) return failure_;
  if (buffer_.size() - consumed_ < kFrameHeaderSize) return std::nullopt;
  const unsigned char* header = Bytes(buffer_.data() + consumed_);
  const uint32_t size = boost::endian::load_little_u32(header + 4);
  if (size < kFrameHeaderSize || size > kMaxFrameSize) {
    failure_ = absl::InvalidArgumentError(absl::StrCat("bridge frame with size ", size, " (",
                                                       kFrameHeaderSize, " to ", kMaxFrameSize,
                                                       " allowed)"));
    return failure_;
  }
  if (buffer_.size() - consumed_ < size) return std::nullopt;
  Frame frame;
  frame.type = boost::endian::load_little_u32(header);
  frame.id = static_cast<int64_t>(boost::endian::load_little_u64(header + 8));
  frame.payload = buffer_.substr(consumed_ + kFrameHeaderSize, size - kFrameHeaderSize);
  consumed_ += size;
  return frame;
}

}  // namespace ferry::bridge
