#include "migration/connection/frame.h"

#include <gtest/gtest.h>

#include <cstring>

namespace ferry::migration {
namespace {

struct Collected {
  FrameHeader header;
  std::string payload;
};

std::string Frame(FrameType type, std::string_view payload, uint8_t flags = 0, uint16_t channel = 0,
                  uint64_t sequence = 0) {
  FrameHeader header;
  header.length = static_cast<uint32_t>(payload.size());
  header.type = type;
  header.flags = flags;
  header.channel = channel;
  header.sequence = sequence;
  const auto bytes = EncodeHeader(header);
  return std::string(bytes.data(), bytes.size()) + std::string(payload);
}

// Feeds `bytes` in chunks of the given sizes (the last one repeats) and joins pieces.
absl::StatusOr<std::vector<Collected>> Decode(FrameDecoder* decoder, std::string_view bytes,
                                              const std::vector<size_t>& chunks) {
  std::vector<Collected> frames;
  size_t index = 0;
  while (!bytes.empty()) {
    const std::span<char> space = decoder->Space();
    const size_t wanted = chunks[std::min(index++, chunks.size() - 1)];
    const size_t size = std::min({space.size(), bytes.size(), wanted});
    std::memcpy(space.data(), bytes.data(), size);
    decoder->Commit(size);
    bytes.remove_prefix(size);
    while (true) {
      auto piece = decoder->Next();
      if (!piece.ok()) return piece.status();
      if (!piece->has_value()) break;
      if ((*piece)->first) frames.push_back({(*piece)->header, ""});
      frames.back().payload.append((*piece)->payload);
      EXPECT_LE(frames.back().payload.size(), (*piece)->header.length);
      EXPECT_EQ((*piece)->last, frames.back().payload.size() == (*piece)->header.length);
    }
  }
  return frames;
}

TEST(FrameTest, HeaderRoundTripKeepsAllFields) {
  FrameHeader header{0x01020304, FrameType::kMessage, 0x83, 0xfffe, 0x1122334455667788};
  const auto bytes = EncodeHeader(header);
  const FrameHeader parsed = ParseHeader(std::string_view(bytes.data(), bytes.size()));
  EXPECT_EQ(parsed.length, header.length);
  EXPECT_EQ(parsed.type, header.type);
  EXPECT_EQ(parsed.flags, header.flags);
  EXPECT_EQ(parsed.channel, header.channel);
  EXPECT_EQ(parsed.sequence, header.sequence);
  EXPECT_EQ(bytes[0], 4) << "little-endian on the wire";
}

TEST(FrameTest, SplitAtEveryByteGivesTheSameFrames) {
  const std::string bytes = Frame(FrameType::kPing, "12345678", 0, 0, 0) +
                            Frame(FrameType::kData, "bulk bytes", 0, 2, 1) +
                            Frame(FrameType::kData, "", 0, 2, 2) +
                            Frame(FrameType::kMessage, "vote", kFlagFirst | kFlagLast, 7, 3);
  for (size_t split = 1; split < bytes.size(); ++split) {
    FrameDecoder decoder;
    const auto frames = Decode(&decoder, bytes, {split, bytes.size()});
    ASSERT_TRUE(frames.ok()) << frames.status();
    ASSERT_EQ(frames->size(), 4u) << "split at " << split;
    EXPECT_EQ((*frames)[0].payload, "12345678");
    EXPECT_EQ((*frames)[1].payload, "bulk bytes");
    EXPECT_EQ((*frames)[1].header.channel, 2);
    EXPECT_EQ((*frames)[2].payload, "");
    EXPECT_EQ((*frames)[3].payload, "vote");
    EXPECT_EQ((*frames)[3].header.sequence, 3u);
  }
}

TEST(FrameTest, LargePayloadsPassThroughASmallBuffer) {
  std::string bulk(kMaxBulkPayload, 'x');
  for (size_t i = 0; i < bulk.size(); ++i) bulk[i] = static_cast<char>(i * 7);
  const std::string bytes = Frame(FrameType::kData, bulk) + Frame(FrameType::kPong, "abcdefgh");
  FrameDecoder decoder(1);  // grows to its minimum
  const auto frames = Decode(&decoder, bytes, {1, 5, 3000});
  ASSERT_TRUE(frames.ok()) << frames.status();
  ASSERT_EQ(frames->size(), 2u);
  EXPECT_EQ((*frames)[0].payload, bulk);
  EXPECT_EQ((*frames)[1].payload, "abcdefgh");
}

TEST(FrameDecoderTest, GivesItsMemoryBack) {
  FrameDecoder decoder;
  EXPECT_GT(decoder.capacity(), size_t{kMaxBulkPayload});
  decoder.Release();
  EXPECT_EQ(decoder.capacity(), 0u);
  EXPECT_FALSE(decoder.Next()->has_value());
}

TEST(FrameTest, OversizedFramesAreRefusedByTheirHeaderAlone) {
  const std::vector<std::pair<FrameType, size_t>> limits = {
      {FrameType::kData, kMaxBulkPayload},
      {FrameType::kMessage, kMaxFragment},
      {FrameType::kHello, kMaxSmallPayload},
      {FrameType::kGoodbye, kMaxSmallPayload}};
  for (const auto& [type, limit] : limits) {
    FrameHeader header;
    header.type = type;
    header.length = static_cast<uint32_t>(limit + 1);
    const auto raw = EncodeHeader(header);
    FrameDecoder decoder;
    const auto frames = Decode(&decoder, std::string_view(raw.data(), raw.size()), {16});
    EXPECT_EQ(frames.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(FrameTest, UnknownCriticalTypeIsRefusedForGood) {
  FrameDecoder decoder;
  const auto unknown = static_cast<FrameType>(77);
  EXPECT_EQ(Decode(&decoder, Frame(unknown, "?"), {100}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Decode(&decoder, Frame(FrameType::kPing, "12345678"), {100}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FrameTest, UnknownOptionalTypeIsPassedOverWhole) {
  FrameDecoder decoder;
  const auto unknown = static_cast<FrameType>(77);
  const auto frames = Decode(
      &decoder,
      Frame(unknown, std::string(10000, 'o'), kFlagOptional) + Frame(FrameType::kPing, "12345678"),
      {900});
  ASSERT_TRUE(frames.ok()) << frames.status();
  ASSERT_EQ(frames->size(), 2u);
  EXPECT_EQ((*frames)[1].payload, "12345678");
}

TEST(FrameTest, FieldReaderStaysFailedAfterTheFirstMissingField) {
  std::string bytes;
  AppendInt(&bytes, 3, 2);
  bytes += "abc";
  AppendInt(&bytes, 0x0102, 2);
  FieldReader reader(bytes);
  EXPECT_EQ(reader.Text(3), "abc");
  EXPECT_EQ(reader.Int(2), 0x0102u);
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.Int(1), 0u);
  EXPECT_FALSE(reader.ok());
  FieldReader limited(bytes);
  EXPECT_EQ(limited.Text(2), "");
  EXPECT_FALSE(limited.ok());
  EXPECT_EQ(limited.Int(1), 0u);
}

}  // namespace
}  // namespace ferry::migration
