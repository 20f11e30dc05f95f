#include "bridge/protocol/frame.h"

#include <gtest/gtest.h>

#include "bridge/protocol/message_types.h"

namespace ferry::bridge {
namespace {

TEST(FrameTest, GoldenBytes) {
  absl::StatusOr<std::string> frame = EncodeFrame(kNegotiateProtocol, 0x0102, "{}");
  ASSERT_TRUE(frame.ok());
  EXPECT_EQ(*frame, std::string("\x01\x0b\x10\x10\x12\0\0\0\x02\x01\0\0\0\0\0\0{}", 18));
}

TEST(FrameTest, SplitAtEveryByte) {
  const std::string bytes = *EncodeFrame(kCreate, 1, "{\"a\":1}") + *EncodeFrame(kStart, 2, "");
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    FrameDecoder decoder;
    std::vector<Frame> frames;
    for (std::string_view piece :
         {std::string_view(bytes).substr(0, cut), std::string_view(bytes).substr(cut)}) {
      decoder.Append(piece);
      while (true) {
        absl::StatusOr<std::optional<Frame>> next = decoder.Next();
        ASSERT_TRUE(next.ok());
        if (!next->has_value()) break;
        frames.push_back(**std::move(next));
      }
    }
    ASSERT_EQ(frames.size(), 2u) << "cut at " << cut;
    EXPECT_EQ(frames[0].type, kCreate);
    EXPECT_EQ(frames[0].id, 1);
    EXPECT_EQ(frames[0].payload, "{\"a\":1}");
    EXPECT_EQ(frames[1].type, kStart);
    EXPECT_EQ(frames[1].payload, "");
  }
}

TEST(FrameTest, SizesOutOfBoundsAreRefusedForGood) {
  for (uint32_t size : {0u, 15u, 65537u, 0xFFFFFFFFu}) {
    std::string header = *EncodeFrame(kCreate, 1, "");
    for (int i = 0; i < 4; ++i) header[4 + i] = static_cast<char>(size >> (8 * i));
    FrameDecoder decoder;
    decoder.Append(header);
    EXPECT_EQ(decoder.Next().status().code(), absl::StatusCode::kInvalidArgument) << size;
    decoder.Append(*EncodeFrame(kCreate, 1, ""));
    EXPECT_FALSE(decoder.Next().ok()) << size;
  }
}

TEST(FrameTest, LargestFrameFitsAndLargerIsRefused) {
  absl::StatusOr<std::string> frame =
      EncodeFrame(kCreate, 1, std::string(kMaxFrameSize - kFrameHeaderSize, 'x'));
  ASSERT_TRUE(frame.ok());
  FrameDecoder decoder;
  decoder.Append(*frame);
  absl::StatusOr<std::optional<Frame>> next = decoder.Next();
  ASSERT_TRUE(next.ok() && next->has_value());
  EXPECT_FALSE(EncodeFrame(kCreate, 1, std::string(kMaxFrameSize, 'x')).ok());
}

}  // namespace
}  // namespace ferry::bridge
