#include "migration/connection/frame.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ferry::migration {
namespace {

size_t PayloadLimit(FrameType type) {
  switch (type) {
    case FrameType::kData:
      return kMaxBulkPayload;
    case FrameType::kMessage:
      return kMaxFragment;
    default:
      // What later versions add as optional may be larger; it is skipped in pieces.
      return IsKnownType(type) ? kMaxSmallPayload : kMaxBulkPayload;
  }
}

bool InPieces(FrameType type) {
  return type == FrameType::kData || type == FrameType::kMessage || !IsKnownType(type);
}

void StoreInt(char* out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out[i] = static_cast<char>(value >> (8 * i));
}

uint64_t LoadInt(const char* in, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= uint64_t{static_cast<uint8_t>(in[i])} << (8 * i);
  return value;
}

}  // namespace

bool IsKnownType(FrameType type) {
  return type >= FrameType::kHello && type <= FrameType::kGoodbye;
}

std::array<char, kFrameHeaderSize> EncodeHeader(const FrameHeader& header) {
  std::array<char, kFrameHeaderSize> out;
  StoreInt(&out[0], header.length, 4);
  StoreInt(&out[4], static_cast<uint8_t>(header.type), 1);
  StoreInt(&out[5], header.flags, 1);
  StoreInt(&out[6], header.channel, 2);
  StoreInt(&out[8], header.sequence, 8);
  return out;
}

FrameHeader ParseHeader(std::string_view bytes) {
  FrameHeader header;
  header.length = static_cast<uint32_t>(LoadInt(&bytes[0], 4));
  header.type = static_cast<FrameType>(LoadInt(&bytes[4], 1));
  header.flags = static_cast<uint8_t>(LoadInt(&bytes[5], 1));
  header.channel = static_cast<uint16_t>(LoadInt(&bytes[6], 2));
  header.sequence = LoadInt(&bytes[8], 8);
  return header;
}

FrameDecoder::FrameDecoder(size_t buffer_size)
    : buffer_(std::max(buffer_size, 2 * (kFrameHeaderSize + kMaxSmallPayload))) {}

std::span<char> FrameDecoder::Space() {
  // At most a header or one small frame is left over, so this moves next to nothing.
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return std::span<char>(buffer_).subspan(end_);
}

absl::Status FrameDecoder::CheckHeader() const {
  const int type = static_cast<int>(header_.type);
  if (!IsKnownType(header_.type) && (header_.flags & kFlagOptional) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the peer sent a frame of unknown type ", type,
                     " that must not be ignored; both daemons need compatible releases"));
  }
  if (header_.length > PayloadLimit(header_.type)) {
    return absl::InvalidArgumentError(absl::StrCat("a frame of type ", type, " claims ",
                                                   header_.length, " bytes, more than the allowed ",
                                                   PayloadLimit(header_.type)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<FramePiece>> FrameDecoder::Next() {
  if (!failure_.ok()) return failure_;
  if (!in_frame_) {
    if (end_ - begin_ < kFrameHeaderSize) return std::nullopt;
    header_ = ParseHeader(std::string_view(buffer_.data() + begin_, kFrameHeaderSize));
    failure_ = CheckHeader();
    if (!failure_.ok()) return failure_;
    begin_ += kFrameHeaderSize;
    remaining_ = header_.length;
    in_frame_ = true;
    first_ = true;
  }
  const size_t available = std::min(remaining_, end_ - begin_);
  const bool whole = available == remaining_;
  if (!whole && (available == 0 || !InPieces(header_.type))) return std::nullopt;

  FramePiece piece;
  piece.header = header_;
  piece.payload = std::string_view(buffer_.data() + begin_, available);
  piece.first = std::exchange(first_, false);
  piece.last = whole;
  begin_ += available;
  remaining_ -= available;
  in_frame_ = !whole;
  return piece;
}

void AppendInt(std::string* out, uint64_t value, int bytes) {
  char raw[8];
  StoreInt(raw, value, bytes);
  out->append(raw, bytes);
}

uint64_t FieldReader::Int(int bytes) {
  const std::string_view raw = Bytes(bytes);
  return ok_ ? LoadInt(raw.data(), bytes) : 0;
}

std::string_view FieldReader::Text(size_t limit) {
  const size_t size = Int(2);
  if (size > limit) ok_ = false;
  return Bytes(size);
}

std::string_view FieldReader::Bytes(size_t size) {
  if (!ok_ || rest_.size() < size) {
    ok_ = false;
    return {};
  }
  const std::string_view bytes = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return bytes;
}

}  // namespace ferry::migration
