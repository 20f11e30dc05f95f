// What a peer that is greedy, broken or hostile can make a core do.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "bridge/mux/mux_core.h"
#include "tests/unit/bridge/mux/mux_core_fixture.h"

namespace ferry::bridge {
namespace {

TEST_F(MuxCoreTest, RefusesMoreConnectionsThanTheLimit) {
  Establish();
  std::string flood;
  const std::string port("\5\0\0\0", 4);
  for (uint32_t i = 0; i < kMaxMuxConnections + 10; ++i) {
    flood += GuestFrame(MuxFrameType::kConnect, i, 1000 + i, port);
  }
  host.Receive(flood);
  EXPECT_TRUE(host.established());
  EXPECT_EQ(host.connection_count(), kMaxMuxConnections);
  EXPECT_FALSE(host.output().empty()) << "the rest was reset";
}

TEST_F(MuxCoreTest, BoundsWhatAllConnectionsTogetherMakeItHold) {
  Establish();
  const std::string chunk(kMaxMuxPayload, 'x');
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 400; ++i) ids.push_back(Open(i));
  const uint32_t bridge = Open(1000);
  host.TakeEvents();
  for (uint32_t id : ids) {
    for (size_t sent = 0; sent < kMuxWindow; sent += chunk.size()) {
      const absl::StatusOr<size_t> ignored = guest.Write(id, chunk);
      Carry();
      ASSERT_LE(host.buffered(), kMaxMuxBuffered);
    }
    ASSERT_TRUE(guest.Write(bridge, "served").ok());
    Carry();
    ASSERT_EQ(ReadAll(host, bridge), "served") << "who reads is not to suffer";
  }
  EXPECT_TRUE(host.established());
  const std::vector<Kind> kinds = Kinds(host);
  const auto resets = std::count(kinds.begin(), kinds.end(), Kind::kReset);
  EXPECT_GT(resets, 0);
  int gone = 0;
  for (uint32_t id : ids) {
    char byte;
    const MuxCore::ReadResult read = host.Read(id, std::span<char>(&byte, 1));
    EXPECT_FALSE(read.ended);
    if (read.reset) ++gone;
  }
  EXPECT_EQ(gone, resets);
  guest.TakeEvents();
  for (uint32_t id : ids) host.Close(id);
  host.Close(bridge);
  EXPECT_EQ(host.buffered(), 0u);
}

TEST_F(MuxCoreTest, WhatWasReadCountsNoLonger) {
  Establish();
  const std::string chunk(kMaxMuxPayload, 'x');
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 400; ++i) ids.push_back(Open(i));
  host.TakeEvents();
  for (uint32_t id : ids) {
    for (size_t sent = 0; sent < kMuxWindow; sent += chunk.size()) {
      ASSERT_EQ(guest.Write(id, chunk).value_or(0), chunk.size());
    }
    Carry();
    ASSERT_EQ(ReadAll(host, id).size(), kMuxWindow);
    ASSERT_LE(host.buffered(), kMaxMuxBuffered);
  }
  for (const MuxEvent& event : host.TakeEvents()) EXPECT_NE(event.kind, Kind::kReset);
}

TEST_F(MuxCoreTest, DroppedDataIsNoEnd) {
  Establish();
  const std::string chunk(kMaxMuxPayload, 'x');
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 200; ++i) {
    ids.push_back(Open(i));
    for (size_t sent = 0; sent < kMuxWindow; sent += chunk.size()) {
      const absl::StatusOr<size_t> ignored = guest.Write(ids.back(), chunk);
    }
    const absl::Status ignored = guest.CloseWrite(ids.back());
    Carry();
  }
  int whole = 0;
  for (uint32_t id : ids) {
    const size_t size = ReadAll(host, id).size();
    char byte;
    const MuxCore::ReadResult last = host.Read(id, std::span<char>(&byte, 1));
    EXPECT_NE(last.ended, last.reset);
    EXPECT_EQ(size, last.ended ? kMuxWindow : 0u);
    whole += last.ended;
  }
  EXPECT_GT(whole, 0);
  EXPECT_LT(whole, 200);
}

TEST_F(MuxCoreTest, StopsReadingFromAPeerThatTakesNoAnswers) {
  Establish();
  const std::string port("\5\0\0\0", 4);
  uint32_t sequence = 0;
  while (host.WantsInput()) {
    ASSERT_LT(sequence, 1000000u);
    host.Receive(GuestFrame(MuxFrameType::kConnect, sequence, sequence, port));
    ++sequence;
  }
  EXPECT_LT(host.output().size(), 8u * 1024 * 1024);
}

struct Violation {
  const char* name;
  MuxFrameType type;
  std::string payload;
};

class MuxViolationTest : public MuxCoreTest, public testing::WithParamInterface<Violation> {};

TEST_P(MuxViolationTest, EndsTheEpoch) {
  Establish();
  uint32_t id = Open(5);
  uint32_t former = host.epoch();
  host.Receive(GuestFrame(GetParam().type, 1, id, GetParam().payload));
  EXPECT_NE(host.epoch(), former);
  EXPECT_EQ(host.connection_count(), 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Hostile, MuxViolationTest,
    testing::Values(
        Violation{"UnknownType", static_cast<MuxFrameType>(200), ""},
        Violation{"ZeroType", static_cast<MuxFrameType>(0), ""},
        Violation{"ConnectOfAnOpenNumber", MuxFrameType::kConnect, std::string(4, '\0')},
        Violation{"ConnectWithoutPort", MuxFrameType::kConnect, "abc"},
        Violation{"AcceptFromTheGuest", MuxFrameType::kAccept, ""},
        Violation{"EmptyData", MuxFrameType::kData, ""},
        Violation{"CreditBeyondTheWindow", MuxFrameType::kCredit, std::string("\1\0\0\0", 4)},
        Violation{"CreditOverflow", MuxFrameType::kCredit, std::string(4, '\xff')},
        Violation{"CreditCutShort", MuxFrameType::kCredit, "ab"}),
    [](const testing::TestParamInfo<Violation>& param) { return param.param.name; });

TEST_F(MuxCoreTest, DataBeyondTheWindowEndsTheEpoch) {
  Establish();
  uint32_t id = Open(5);
  uint32_t former = host.epoch();
  const std::string piece(kMaxMuxPayload, 'x');
  uint32_t sequence = 1;
  for (size_t sent = 0; sent < kMuxWindow; sent += piece.size()) {
    host.Receive(GuestFrame(MuxFrameType::kData, sequence++, id, piece));
  }
  EXPECT_EQ(host.epoch(), former);
  host.Receive(GuestFrame(MuxFrameType::kData, sequence, id, "x"));
  EXPECT_NE(host.epoch(), former);
}

TEST_F(MuxCoreTest, DataAfterTheEndEndsTheEpoch) {
  Establish();
  uint32_t id = Open(5);
  uint32_t former = host.epoch();
  host.Receive(GuestFrame(MuxFrameType::kFin, 1, id, "") +
               GuestFrame(MuxFrameType::kData, 2, id, "x"));
  EXPECT_NE(host.epoch(), former);
}

TEST_F(MuxCoreTest, FramesForUnknownConnectionsAreIgnored) {
  Establish();
  uint32_t former = host.epoch();
  host.Receive(GuestFrame(MuxFrameType::kData, 0, 0xffffffff, "x") +
               GuestFrame(MuxFrameType::kCredit, 1, 77, std::string(4, '\1')) +
               GuestFrame(MuxFrameType::kReset, 2, 78, "") +
               GuestFrame(MuxFrameType::kFin, 3, 79, ""));
  EXPECT_EQ(host.epoch(), former);
  EXPECT_TRUE(host.TakeEvents().empty());
}

TEST_F(MuxCoreTest, SurvivesRandomBytesAndRecovers) {
  std::mt19937 random(20240501);
  Establish();
  for (int round = 0; round < 300; ++round) {
    std::string noise(random() % 400, '\0');
    for (char& byte : noise) byte = static_cast<char>(random() % 4 == 0 ? 0 : random());
    (random() % 2 ? host : guest).Receive(noise);
    if (random() % 3 == 0) {
      // A well-formed frame with absurd contents.
      std::string payload(random() % 8, static_cast<char>(random()));
      host.Receive(GuestFrame(static_cast<MuxFrameType>(random() % 12), random() % 3, random() % 5,
                              payload));
    }
    Carry();
  }
  host.Receive(std::string(1, '\0'));
  guest.Receive(std::string(1, '\0'));
  Carry();
  ASSERT_TRUE(host.established());
  ASSERT_TRUE(guest.established());
  uint32_t id = Open(9);
  ASSERT_TRUE(guest.Write(id, "still here").ok());
  Carry();
  EXPECT_EQ(ReadAll(host, id), "still here");
}

}  // namespace
}  // namespace ferry::bridge
