#include "bridge/stream/wire.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

namespace ferry::bridge {
namespace {

std::string AllKinds() {
  StreamHello hello{.generation = 7, .offset = 5, .end = 9, .ended = true};
  return EncodeHello(hello) + EncodeDataHeader(5, 4) + "abcd" + EncodeAck(9, true) + EncodeEof(9);
}

// Feeds `pieces` and renders what came out, so that runs can be compared.
std::string Render(const std::vector<std::string>& pieces) {
  StreamDecoder decoder;
  std::string out;
  for (const std::string& piece : pieces) {
    decoder.Append(piece);
    while (true) {
      absl::StatusOr<std::optional<StreamFrame>> next = decoder.Next();
      if (!next.ok()) return out + "error";
      if (!next->has_value()) break;
      const StreamFrame& frame = **next;
      out += std::to_string(static_cast<int>(frame.type)) + "/" + std::to_string(frame.flags) +
             "@" + std::to_string(frame.offset) + ":";
      if (frame.type == StreamFrameType::kHello) {
        out += std::to_string(frame.hello.generation) + "," + std::to_string(frame.hello.end);
      } else {
        out += frame.payload;
      }
      out += ";";
    }
  }
  return out;
}

constexpr char kRendered[] = "1/1@5:7,9;2/0@5:abcd;3/1@9:;4/0@9:;";

TEST(WireTest, RoundTripOfAllKinds) { EXPECT_EQ(Render({AllKinds()}), kRendered); }

TEST(WireTest, GoldenBytes) {
  EXPECT_EQ(EncodeDataHeader(0x0102, 3),
            std::string("\x02\0\0\0\x03\0\0\0\x02\x01\0\0\0\0\0\0", 16));
  StreamHello hello{.generation = 2, .offset = 1, .end = 3, .ended = false};
  EXPECT_EQ(EncodeHello(hello), std::string("\x01\0\0\0\x10\0\0\0\x01\0\0\0\0\0\0\0"
                                            "\x01\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0",
                                            32));
}

// What was received in place makes the same frames, whatever is left over from the piece before.
TEST(WireTest, PiecesMayBeReceivedInPlace) {
  const std::string data(300, 'x');
  std::string all;
  for (uint64_t frame = 0; frame < 20; ++frame) {
    all += EncodeDataHeader(frame * data.size(), data.size()) + data;
  }
  for (const size_t room : {1, 16, 100, 316, 317, 1000, 10000}) {
    StreamDecoder decoder;
    std::string came;
    for (size_t at = 0; at < all.size();) {
      const std::span<char> space = decoder.Space(room);
      ASSERT_EQ(space.size(), room);
      // A read may well bring less than there is room for.
      const size_t size = std::min({room, all.size() - at, room / 2 + 1});
      all.copy(space.data(), size, at);
      decoder.Received(size);
      at += size;
      while (true) {
        const auto next = decoder.Next();
        ASSERT_TRUE(next.ok());
        if (!next->has_value()) break;
        EXPECT_EQ((*next)->offset, came.size());
        came += (*next)->payload;
      }
    }
    EXPECT_EQ(came, std::string(6000, 'x')) << room;
  }
}

TEST(WireTest, SplitAtEveryByte) {
  const std::string all = AllKinds();
  for (size_t cut = 0; cut <= all.size(); ++cut) {
    EXPECT_EQ(Render({all.substr(0, cut), all.substr(cut)}), kRendered) << "cut at " << cut;
  }
  std::vector<std::string> single;
  for (char c : all) single.emplace_back(1, c);
  EXPECT_EQ(Render(single), kRendered);
}

TEST(WireTest, CutStreamYieldsNoPartialFrame) {
  const std::string data = EncodeDataHeader(0, 4) + "abcd";
  for (size_t cut = 0; cut < data.size(); ++cut) EXPECT_EQ(Render({data.substr(0, cut)}), "");
}

TEST(WireTest, HostileHeadersAreRefusedForGood) {
  const std::string good = EncodeDataHeader(0, 4) + "abcd";
  auto with = [&](size_t index, char value) {
    std::string bad = good;
    bad[index] = value;
    return bad;
  };
  EXPECT_EQ(Render({with(0, 0), good}), "error");
  EXPECT_EQ(Render({with(0, 9), good}), "error");
  EXPECT_EQ(Render({with(1, 1), good}), "error");
  EXPECT_EQ(Render({with(2, 1), good}), "error");
  EXPECT_EQ(Render({with(7, '\x7f'), good}), "error");
  EXPECT_EQ(Render({EncodeDataHeader(0, kMaxStreamPayload + 1)}), "error");
  EXPECT_EQ(Render({EncodeDataHeader(0, 0)}), "error");
  EXPECT_EQ(Render({EncodeDataHeader(~uint64_t{0}, 4)}), "error");
  EXPECT_EQ(Render({std::string("\x03\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0", 16)}), "error");
  StreamDecoder decoder;
  decoder.Append(with(0, 9));
  EXPECT_FALSE(decoder.Next().ok());
  decoder.Append(good);
  EXPECT_FALSE(decoder.Next().ok());
}

TEST(WireTest, BadHelloIsRefused) {
  std::string hello = EncodeHello(StreamHello{});
  std::string version = hello;
  version[kStreamHeaderSize] = 0;
  EXPECT_EQ(Render({version}), "error");
  std::string reserved = hello;
  reserved[kStreamHeaderSize + 2] = 1;
  EXPECT_EQ(Render({reserved}), "error");
  std::string size = hello;
  size[4] = 15;
  EXPECT_EQ(Render({size}), "error");
  size[4] = 1;
  size[5] = 1;
  EXPECT_EQ(Render({size}), "error") << "257 bytes";
  EXPECT_EQ(Render({hello}), "1/0@0:0,0;");
}

TEST(WireTest, HelloOfALaterReleaseIsUnderstood) {
  std::string later = EncodeHello(StreamHello{}, kStreamVersion + 1);
  later += "more";
  later[4] = 20;
  EXPECT_EQ(Render({later, EncodeEof(0)}), Render({EncodeHello(StreamHello{}), EncodeEof(0)}));
}

}  // namespace
}  // namespace ferry::bridge
