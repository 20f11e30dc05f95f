#include "bridge/stream/wire.h"

#include <boost/endian/conversion.hpp>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

constexpr size_t kHelloPayload = 16;
constexpr size_t kMaxHelloPayload = 256;

unsigned char* Bytes(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

std::string Header(StreamFrameType type, uint8_t flags, uint64_t offset, size_t payload_size) {
  std::string out(kStreamHeaderSize, '\0');
  unsigned char* bytes = Bytes(out);
  bytes[0] = static_cast<uint8_t>(type);
  bytes[1] = flags;
  boost::endian::store_little_u32(bytes + 4, static_cast<uint32_t>(payload_size));
  boost::endian::store_little_u64(bytes + 8, offset);
  return out;
}

absl::Status Violation(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("stdio stream: ", what));
}

// Checks all that a header alone can tell, so that no length is believed before.
absl::Status CheckHeader(uint8_t type, uint8_t flags, uint16_t zero, uint32_t size,
                         uint64_t offset) {
  if (zero != 0) return Violation("a reserved field is not zero");
  if (flags > 1) return Violation(absl::StrCat("unknown flags ", flags));
  switch (static_cast<StreamFrameType>(type)) {
    case StreamFrameType::kHello:
      if (size < kHelloPayload || size > kMaxHelloPayload)
        return Violation(absl::StrCat("a hello of ", size, " bytes"));
      return absl::OkStatus();
    case StreamFrameType::kData:
      if (flags != 0) return Violation("flags on a data frame");
      if (size == 0 || size > kMaxStreamPayload) {
        return Violation(absl::StrCat("a data frame of ", size, " bytes"));
      }
      if (offset + size < offset) return Violation("an offset beyond the end of all numbers");
      return absl::OkStatus();
    case StreamFrameType::kAck:
    case StreamFrameType::kEof:
      if (size != 0) return Violation(absl::StrCat("an ack or end with ", size, " bytes"));
      return absl::OkStatus();
  }
  return Violation(absl::StrCat("unknown frame type ", type));
}

absl::Status ParseHello(uint64_t offset, uint8_t flags, const unsigned char* payload,
                        StreamHello* hello) {
  const uint16_t version = boost::endian::load_little_u16(payload);
  if (version == 0) return Violation("the peer speaks no version");
  if (boost::endian::load_little_u16(payload + 2) != 0) {
    return Violation("a reserved field is not zero");
  }
  hello->offset = offset;
  hello->generation = boost::endian::load_little_u32(payload + 4);
  hello->end = boost::endian::load_little_u64(payload + 8);
  hello->ended = (flags & kFlagEofReached) != 0;
  return absl::OkStatus();
}

}  // namespace

std::string EncodeHello(const StreamHello& hello, uint16_t version) {
  std::string out = Header(StreamFrameType::kHello, hello.ended ? kFlagEofReached : 0, hello.offset,
                           kHelloPayload);
  out.append(kHelloPayload, '\0');
  unsigned char* payload = Bytes(out) + kStreamHeaderSize;
  boost::endian::store_little_u16(payload, version);
  boost::endian::store_little_u32(payload + 4, hello.generation);
  boost::endian::store_little_u64(payload + 8, hello.end);
  return out;
}

std::string EncodeDataHeader(uint64_t offset, size_t payload_size) {
  return Header(StreamFrameType::kData, 0, offset, payload_size);
}

std::string EncodeAck(uint64_t offset, bool eof_taken) {
  return Header(StreamFrameType::kAck, eof_taken ? kFlagEofTaken : 0, offset, 0);
}

std::string EncodeEof(uint64_t offset) { return Header(StreamFrameType::kEof, 0, offset, 0); }

void StreamDecoder::Append(std::string_view bytes) {
  if (bytes.empty()) return;
  std::memcpy(Space(bytes.size()).data(), bytes.data(), bytes.size());
  Received(bytes.size());
}

std::span<char> StreamDecoder::Space(size_t size) {
  const size_t kept = end_ - begin_;
  if (capacity_ - end_ < size) {
    // In most cases that is a few bytes to the front of the same buffer, or none.
    std::unique_ptr<char[]> larger;
    if (capacity_ - kept < size) {
      capacity_ = kept + size;
      larger = std::make_unique_for_overwrite<char[]>(capacity_);
    }
    if (kept > 0) std::memmove(larger ? larger.get() : buffer_.get(), buffer_.get() + begin_, kept);
    if (larger) buffer_ = std::move(larger);
    begin_ = 0;
    end_ = kept;
  }
  return {buffer_.get() + end_, size};
}

absl::StatusOr<std::optional<StreamFrame>> StreamDecoder::Next() {
  const size_t available = end_ - begin_;
  if (available < kStreamHeaderSize) return std::nullopt;
  const char* start = buffer_.get() + begin_;
  const auto* header = reinterpret_cast<const unsigned char*>(start);
  const uint32_t size = boost::endian::load_little_u32(header + 4);
  const uint64_t offset = boost::endian::load_little_u64(header + 8);
  // The bad header stays in place: every further call reports it again.
  absl::Status status =
      CheckHeader(header[0], header[1], boost::endian::load_little_u16(header + 2), size, offset);
  if (!status.ok()) return status;
  if (available < kStreamHeaderSize + size) return std::nullopt;

  StreamFrame frame;
  frame.type = static_cast<StreamFrameType>(header[0]);
  frame.flags = header[1];
  frame.offset = offset;
  frame.payload = std::string_view(start + kStreamHeaderSize, size);
  if (frame.type == StreamFrameType::kHello) {
    status = ParseHello(offset, frame.flags, header + kStreamHeaderSize, &frame.hello);
    if (!status.ok()) return status;
  }
  begin_ += kStreamHeaderSize + size;
  // The next bytes come to the same place, where the caches still have it.
  if (begin_ == end_) begin_ = end_ = 0;
  return frame;
}

}  // namespace ferry::bridge
