#include "bridge/mux/frame.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace ferry::bridge {
namespace {

constexpr size_t kMaxRaw = kMuxHeaderSize + kMaxMuxPayload;
constexpr size_t kMaxBlock = 254;

// What COBS makes of `size` bytes at most, without the delimiter.
constexpr size_t CobsBound(size_t size) { return size + size / kMaxBlock + 2; }
constexpr size_t kMaxEncoded = CobsBound(kMaxRaw);

void PutU32(char* out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<char>(value >> (8 * i));
}

uint32_t GetU32(const char* in) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(in[i])) << (8 * i);
  }
  return value;
}

// `header` is the decoded frame's first 17 bytes; its checksum field is left out.
uint32_t Checksum(const char* header, std::string_view payload) {
  char input[kMuxHeaderSize - 4 + 8];
  std::memcpy(input, header + 4, kMuxHeaderSize - 4);
  uint64_t digest = XXH3_64bits(payload.data(), payload.size());
  PutU32(input + kMuxHeaderSize - 4, static_cast<uint32_t>(digest));
  PutU32(input + kMuxHeaderSize, static_cast<uint32_t>(digest >> 32));
  return static_cast<uint32_t>(XXH3_64bits(input, sizeof(input)));
}

// COBS is done by words: blocks may be as short as one byte, and memory that a guest sends is often
// zero altogether, where each byte is a block of its own.
static_assert(std::endian::native == std::endian::little);

uint64_t LoadWord(const char* in) {
  uint64_t word;
  std::memcpy(&word, in, sizeof(word));
  return word;
}

// How many bytes from `data` on are `value`.
size_t RunOf(char value, const char* data, const char* end) {
  const uint64_t pattern = static_cast<unsigned char>(value) * 0x0101010101010101u;
  const char* at = data;
  while (end - at >= 8) {
    const uint64_t difference = LoadWord(at) ^ pattern;
    if (difference != 0) return static_cast<size_t>(at - data) + std::countr_zero(difference) / 8;
    at += 8;
  }
  while (at < end && *at == value) ++at;
  return static_cast<size_t>(at - data);
}

// Copies up to `size` bytes and stops before the first zero; returns how many that were. `out` has
// room for all of them.
size_t CopyUntilZero(const char* data, size_t size, char* out) {
  size_t done = 0;
  for (; done + 8 <= size; done += 8) {
    const uint64_t word = LoadWord(data + done);
    std::memcpy(out + done, &word, sizeof(word));
    const uint64_t zeros = (word - 0x0101010101010101u) & ~word & 0x8080808080808080u;
    if (zeros != 0) return done + static_cast<size_t>(std::countr_zero(zeros)) / 8;
  }
  for (; done < size && data[done] != 0; ++done) out[done] = data[done];
  return done;
}

// Writes COBS blocks to a buffer of sufficient size.
class CobsWriter {
 public:
  explicit CobsWriter(char* out) : code_(out), out_(out + 1) {}

  void Append(const char* data, size_t size) {
    const char* end = data + size;
    while (data < end) {
      if (*data == 0) {
        const size_t zeros = RunOf(0, data, end);
        CloseBlock();
        AppendEmptyBlocks(zeros - 1);
        data += zeros;
        continue;
      }
      const size_t room = std::min(kMaxBlock - Run(), static_cast<size_t>(end - data));
      const size_t run = CopyUntilZero(data, room, out_);
      out_ += run;
      data += run;
      // A full block stands for no zero, so one that follows in the data is coded by the next.
      if (Run() == kMaxBlock) CloseBlock();
    }
  }

  // Returns the end of what was written.
  char* Finish() {
    CloseBlock();
    return code_;
  }

 private:
  size_t Run() const { return static_cast<size_t>(out_ - code_ - 1); }

  void CloseBlock() {
    *code_ = static_cast<char>(Run() + 1);
    code_ = out_++;
  }

  // The open block is empty, and so are the next ones: a zero each.
  void AppendEmptyBlocks(size_t count) {
    std::memset(code_, 1, count);
    code_ += count;
    out_ = code_ + 1;
  }

  char* code_;  // where the open block's length goes
  char* out_;
};

// Returns the decoded size, or nullopt if `in` is no COBS. `out` holds at least in.size() bytes.
std::optional<size_t> CobsDecode(std::string_view in, char* out) {
  const char* begin = out;
  const char* data = in.data();
  const char* end = data + in.size();
  while (data < end) {
    const size_t code = static_cast<unsigned char>(*data);
    if (code == 1) {
      // Empty blocks: a zero each, but none after the last block of all.
      const size_t blocks = RunOf(1, data, end);
      data += blocks;
      const size_t zeros = data < end ? blocks : blocks - 1;
      std::memset(out, 0, zeros);
      out += zeros;
      continue;
    }
    const size_t left = static_cast<size_t>(end - data);
    if (code == 0 || code > left) return std::nullopt;
    if (code <= 9 && left >= 9) {
      // Never beyond `out`, which is no further on than `data` is in its equally long buffer.
      std::memcpy(out, data + 1, 8);
    } else {
      std::memcpy(out, data + 1, code - 1);
    }
    out += code - 1;
    data += code;
    if (code != kMaxBlock + 1 && data < end) *out++ = 0;
  }
  return static_cast<size_t>(out - begin);
}

}  // namespace

void AppendMuxFrame(const MuxFrame& frame, std::string& out) {
  char header[kMuxHeaderSize];
  PutU32(header + 4, frame.epoch);
  PutU32(header + 8, frame.sequence);
  PutU32(header + 12, frame.connection);
  header[16] = static_cast<char>(frame.type);
  PutU32(header, Checksum(header, frame.payload));

  size_t start = out.size();
  out.resize(start + CobsBound(kMuxHeaderSize + frame.payload.size()) + 1);
  CobsWriter writer(out.data() + start);
  writer.Append(header, sizeof(header));
  writer.Append(frame.payload.data(), frame.payload.size());
  char* end = writer.Finish();
  *end++ = 0;
  out.resize(static_cast<size_t>(end - out.data()));
}

void MuxFrameDecoder::Feed(std::string_view bytes, Sink sink) {
  while (!bytes.empty()) {
    size_t cut = bytes.find('\0');
    std::string_view piece = bytes.substr(0, cut);
    if (partial_.size() + piece.size() > kMaxEncoded) oversized_ = true;
    if (cut == std::string_view::npos) {
      if (!oversized_) partial_.append(piece);
      return;
    }
    bytes.remove_prefix(cut + 1);
    if (oversized_) {
      Reset();
      sink(std::nullopt);
    } else if (partial_.empty()) {
      if (!piece.empty()) Finish(piece, sink);
    } else {
      partial_.append(piece);
      Finish(partial_, sink);
      partial_.clear();
    }
  }
}

void MuxFrameDecoder::Finish(std::string_view encoded, Sink sink) {
  decoded_.resize(kMaxEncoded);
  std::optional<size_t> size = CobsDecode(encoded, decoded_.data());
  if (!size.has_value() || *size < kMuxHeaderSize || *size > kMaxRaw) return sink(std::nullopt);
  const char* header = decoded_.data();
  MuxFrame frame;
  frame.payload = std::string_view(header + kMuxHeaderSize, *size - kMuxHeaderSize);
  if (GetU32(header) != Checksum(header, frame.payload)) return sink(std::nullopt);
  frame.epoch = GetU32(header + 4);
  frame.sequence = GetU32(header + 8);
  frame.connection = GetU32(header + 12);
  frame.type = static_cast<MuxFrameType>(header[16]);
  sink(frame);
}

void MuxFrameDecoder::Reset() {
  partial_.clear();
  oversized_ = false;
}

}  // namespace ferry::bridge
