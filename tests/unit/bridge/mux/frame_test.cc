#include "bridge/mux/frame.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace ferry::bridge {
namespace {

struct Received {
  MuxFrame frame;
  std::string payload;
};

// Collects what a decoder says.
struct Collector {
  std::vector<Received> frames;
  int damaged = 0;

  void Feed(MuxFrameDecoder& decoder, std::string_view bytes) {
    decoder.Feed(bytes, [this](const std::optional<MuxFrame>& frame) {
      if (!frame.has_value()) {
        ++damaged;
        return;
      }
      frames.push_back({*frame, std::string(frame->payload)});
    });
  }
};

std::string Encode(std::string_view payload, uint32_t sequence = 7) {
  std::string out;
  MuxFrame frame{.type = MuxFrameType::kData,
                 .epoch = 0xfeed0001,
                 .sequence = sequence,
                 .connection = 42,
                 .payload = payload};
  AppendMuxFrame(frame, out);
  return out;
}

std::string RandomBytes(size_t size, uint32_t seed, bool many_zeros) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    byte = many_zeros && random() % 2 ? '\0' : static_cast<char>(random());
  }
  return bytes;
}

void ExpectRoundTrip(const std::string& payload) {
  std::string wire = Encode(payload);
  ASSERT_EQ(wire.find('\0'), wire.size() - 1) << "a zero is the delimiter only";
  MuxFrameDecoder decoder;
  Collector collector;
  collector.Feed(decoder, wire);
  ASSERT_EQ(collector.frames.size(), 1u);
  EXPECT_EQ(collector.damaged, 0);
  const Received& got = collector.frames[0];
  EXPECT_EQ(got.frame.type, MuxFrameType::kData);
  EXPECT_EQ(got.frame.epoch, 0xfeed0001);
  EXPECT_EQ(got.frame.sequence, 7u);
  EXPECT_EQ(got.frame.connection, 42u);
  EXPECT_EQ(got.payload, payload);
}

TEST(MuxFrameTest, RoundTripsEveryShortLength) {
  for (size_t size = 0; size < 600; ++size) {
    ExpectRoundTrip(std::string(size, '\0'));
    ExpectRoundTrip(std::string(size, 'x'));
    ExpectRoundTrip(RandomBytes(size, size, true));
  }
}

TEST(MuxFrameTest, RoundTripsLargestPayloads) {
  for (size_t size = kMaxMuxPayload - 260; size <= kMaxMuxPayload; size += 13) {
    ExpectRoundTrip(RandomBytes(size, size, false));
  }
  ExpectRoundTrip(std::string(kMaxMuxPayload, '\0'));
  ExpectRoundTrip(std::string(kMaxMuxPayload, '\xff'));
}

TEST(MuxFrameTest, RoundTripsAZeroAtEveryPlaceAroundAFullBlock) {
  for (size_t at = 200; at < 300; ++at) {
    std::string payload(512, 'a');
    payload[at] = '\0';
    ExpectRoundTrip(payload);
    ExpectRoundTrip(payload.substr(0, at + 1));
  }
}

TEST(MuxFrameTest, RoundTripsRunsOfZerosOfEveryLengthAtEveryPlace) {
  for (size_t before = 0; before < 20; ++before) {
    for (size_t zeros = 0; zeros < 40; ++zeros) {
      for (size_t after : {0, 1, 7, 8, 9, 253, 254, 255}) {
        // Also ones, which are what empty blocks look like when encoded.
        ExpectRoundTrip(std::string(before, 1) + std::string(zeros, 0) + std::string(after, 1));
      }
    }
  }
  ExpectRoundTrip(std::string(kMaxMuxPayload, '\0'));
}

TEST(MuxFrameTest, DecodesWhateverThePieces) {
  std::string wire;
  for (uint32_t i = 0; i < 5; ++i) wire += Encode(RandomBytes(300 * i, i, true), i);
  for (size_t piece : {1, 2, 3, 7, 100, 1000}) {
    MuxFrameDecoder decoder;
    Collector collector;
    for (size_t at = 0; at < wire.size(); at += piece) {
      collector.Feed(decoder, std::string_view(wire).substr(at, piece));
    }
    ASSERT_EQ(collector.frames.size(), 5u) << piece;
    for (uint32_t i = 0; i < 5; ++i) {
      EXPECT_EQ(collector.frames[i].frame.sequence, i);
      EXPECT_EQ(collector.frames[i].payload, RandomBytes(300 * i, i, true));
    }
  }
}

TEST(MuxFrameTest, FindsTheNextFrameAfterACutAtEveryByte) {
  const std::string first = Encode(RandomBytes(300, 1, true), 1);
  const std::string second = Encode("second", 2);
  for (size_t cut = 0; cut + 1 < first.size(); ++cut) {
    MuxFrameDecoder decoder;
    Collector collector;
    // As a hello does, the second frame begins with a delimiter.
    collector.Feed(decoder, first.substr(0, cut) + '\0' + second);
    ASSERT_EQ(collector.frames.size(), 1u) << cut;
    EXPECT_EQ(collector.frames[0].payload, "second");
    EXPECT_EQ(collector.damaged, cut == 0 ? 0 : 1);
  }
}

TEST(MuxFrameTest, FindsTheNextFrameAfterTheHeadOfOneWasLost) {
  const std::string first = Encode(RandomBytes(300, 1, true), 1);
  for (size_t cut = 1; cut + 1 < first.size(); ++cut) {
    MuxFrameDecoder decoder;
    Collector collector;
    collector.Feed(decoder, first.substr(cut) + Encode("second", 2));
    ASSERT_EQ(collector.frames.size(), 1u) << cut;
    EXPECT_EQ(collector.frames[0].payload, "second");
    EXPECT_EQ(collector.damaged, 1);
  }
}

TEST(MuxFrameTest, NoticesAFlipOfEveryBitAndGoesOn) {
  const std::string first = Encode(RandomBytes(300, 1, true), 1);
  const std::string second = Encode("second", 2);
  for (size_t at = 0; at < first.size() * 8; ++at) {
    std::string flipped = first;
    flipped[at / 8] = static_cast<char>(flipped[at / 8] ^ (1 << (at % 8)));
    MuxFrameDecoder decoder;
    Collector collector;
    // A flipped delimiter swallows the frame behind it, so a third must still come.
    collector.Feed(decoder, flipped + second + Encode("third", 3));
    EXPECT_GE(collector.damaged, 1) << at;
    ASSERT_FALSE(collector.frames.empty());
    EXPECT_EQ(collector.frames.back().payload, "third");
    for (const Received& got : collector.frames) EXPECT_NE(got.frame.sequence, 1u) << at;
  }
}

TEST(MuxFrameTest, BoundsWhatItHoldsOfAnEndlessFrame) {
  MuxFrameDecoder decoder;
  Collector collector;
  const std::string garbage(10000, 'x');
  for (int i = 0; i < 100; ++i) collector.Feed(decoder, garbage);
  EXPECT_EQ(collector.damaged, 0);
  collector.Feed(decoder, std::string(1, '\0') + Encode("after"));
  EXPECT_EQ(collector.damaged, 1);
  ASSERT_EQ(collector.frames.size(), 1u);
  EXPECT_EQ(collector.frames[0].payload, "after");
}

TEST(MuxFrameTest, EmptyFramesAreNothing) {
  MuxFrameDecoder decoder;
  Collector collector;
  collector.Feed(decoder, std::string(50, '\0'));
  EXPECT_EQ(collector.damaged, 0);
  EXPECT_TRUE(collector.frames.empty());
}

TEST(MuxFrameTest, ResetForgetsAFrameBegun) {
  MuxFrameDecoder decoder;
  Collector collector;
  collector.Feed(decoder, "half a frame");
  decoder.Reset();
  collector.Feed(decoder, Encode("whole"));
  EXPECT_EQ(collector.damaged, 0);
  EXPECT_EQ(collector.frames.size(), 1u);
}

}  // namespace
}  // namespace ferry::bridge
