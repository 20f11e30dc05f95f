#include "bridge/mux/mux_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace ferry::bridge {
namespace {

using Kind = MuxEvent::Kind;

// Two cores and the wires between them, which the test can hold, cut and damage.
class MuxCoreTest : public testing::Test {
 protected:
  MuxCoreTest()
      : host(MuxRole::kHost, [this] { return next_epoch++; }),
        guest(MuxRole::kGuest, [] { return 0u; }) {}

  static std::string Drain(MuxCore& core) {
    std::string bytes(core.output());
    core.ConsumeOutput(bytes.size());
    return bytes;
  }

  // Carries bytes both ways until nothing moves.
  void Carry() {
    while (!host.output().empty() || !guest.output().empty()) {
      guest.Receive(Drain(host));
      host.Receive(Drain(guest));
    }
  }

  void Establish() {
    host.StartEpoch();
    Carry();
    ASSERT_TRUE(host.established());
    ASSERT_TRUE(guest.established());
    host.TakeEvents();
    guest.TakeEvents();
  }

  // Dials `port`, accepts it and returns its number.
  uint32_t Open(uint32_t port) {
    uint32_t id = guest.Connect(port).value();
    Carry();
    host.Accept(id);
    Carry();
    return id;
  }

  static std::vector<Kind> Kinds(MuxCore& core) {
    std::vector<Kind> kinds;
    for (const MuxEvent& event : core.TakeEvents()) kinds.push_back(event.kind);
    return kinds;
  }

  static std::string ReadAll(MuxCore& core, uint32_t id) {
    std::string all;
    char buffer[10000];
    for (;;) {
      MuxCore::ReadResult result = core.Read(id, buffer);
      if (result.size == 0) return all;
      all.append(buffer, result.size);
    }
  }

  std::string GuestFrame(MuxFrameType type, uint32_t sequence, uint32_t connection,
                         std::string_view payload) {
    std::string out;
    MuxFrame frame{.type = type,
                   .epoch = host.epoch(),
                   .sequence = sequence,
                   .connection = connection,
                   .payload = payload};
    AppendMuxFrame(frame, out);
    return out;
  }

  uint32_t next_epoch = 100;
  MuxCore host;
  MuxCore guest;
};

TEST_F(MuxCoreTest, HelloBringsBothEndsUp) {
  host.StartEpoch();
  EXPECT_FALSE(host.established());
  Carry();
  EXPECT_EQ(Kinds(host), std::vector{Kind::kLinkUp});
  EXPECT_EQ(Kinds(guest), std::vector{Kind::kLinkUp});
  EXPECT_EQ(guest.epoch(), host.epoch());
}

TEST_F(MuxCoreTest, NeighbouringReleasesUseTheOlderOnesVersion) {
  for (const auto& [of_host, of_guest] : {std::pair{1, 2}, std::pair{2, 1}, std::pair{2, 2}}) {
    MuxCore newer_host(
        MuxRole::kHost, [this] { return next_epoch++; }, of_host);
    MuxCore newer_guest(
        MuxRole::kGuest, [] { return 0u; }, of_guest);
    newer_guest.RequestEpoch();
    newer_host.StartEpoch();
    for (int round = 0; round < 3; ++round) {
      newer_guest.Receive(Drain(newer_host));
      newer_host.Receive(Drain(newer_guest));
    }
    ASSERT_TRUE(newer_host.established() && newer_guest.established()) << of_host << of_guest;
    EXPECT_EQ(newer_host.version(), std::min(of_host, of_guest));
    EXPECT_EQ(newer_guest.version(), std::min(of_host, of_guest));
  }
}

TEST_F(MuxCoreTest, WithVersionsToChooseFromALostAnswerIsAskedForAgain) {
  MuxCore newer_host(
      MuxRole::kHost, [this] { return next_epoch++; }, 2);
  newer_host.StartEpoch();
  guest.Receive(Drain(newer_host));
  Drain(guest);
  ASSERT_TRUE(guest.Connect(5).ok());
  newer_host.Receive(Drain(guest));
  EXPECT_FALSE(newer_host.established());
  guest.Receive(Drain(newer_host));
  newer_host.Receive(Drain(guest));
  EXPECT_TRUE(newer_host.established());
  EXPECT_EQ(newer_host.version(), 1);
}

TEST_F(MuxCoreTest, RequestBeforeTheAnswerKeepsTheOfferedEpoch) {
  host.StartEpoch();
  guest.RequestEpoch();
  uint32_t offered = host.epoch();
  host.Receive(Drain(guest));
  Carry();
  EXPECT_EQ(host.epoch(), offered);
  EXPECT_TRUE(host.established());
  EXPECT_EQ(Kinds(guest), std::vector{Kind::kLinkUp});
}

TEST_F(MuxCoreTest, RequestOfARestartedGuestStartsAnEpochAtOnce) {
  Establish();
  uint32_t former = host.epoch();
  MuxCore reborn(MuxRole::kGuest, [] { return 0u; });
  reborn.RequestEpoch();
  host.Receive(Drain(reborn));
  EXPECT_EQ(Kinds(host), std::vector{Kind::kLinkDown});
  reborn.Receive(Drain(host));
  host.Receive(Drain(reborn));
  EXPECT_TRUE(host.established());
  EXPECT_NE(host.epoch(), former);
  EXPECT_EQ(reborn.epoch(), host.epoch());
}

TEST_F(MuxCoreTest, RepeatedHelloResetsNothing) {
  host.StartEpoch();
  std::string hello = Drain(host);
  guest.Receive(hello);
  guest.TakeEvents();
  guest.Receive(hello);
  EXPECT_TRUE(guest.TakeEvents().empty());
  Carry();
  EXPECT_TRUE(host.established());
}

TEST_F(MuxCoreTest, RetryRepeatsOnlyWhatIsUnanswered) {
  host.StartEpoch();
  size_t size = host.output().size();
  host.RetryHandshake();
  EXPECT_EQ(host.output().size(), size) << "the first has not even gone out";
  Drain(host);
  host.RetryHandshake();
  EXPECT_FALSE(host.output().empty());
  guest.RetryHandshake();
  EXPECT_FALSE(guest.output().empty());
  Carry();
  ASSERT_TRUE(host.established());
  host.RetryHandshake();
  guest.RetryHandshake();
  EXPECT_TRUE(host.output().empty());
  EXPECT_TRUE(guest.output().empty());
}

TEST_F(MuxCoreTest, FirstFrameStandsForALostAnswer) {
  host.StartEpoch();
  guest.Receive(Drain(host));
  Drain(guest);
  ASSERT_TRUE(guest.Connect(5).ok());
  host.Receive(Drain(guest));
  EXPECT_EQ(Kinds(host), (std::vector{Kind::kLinkUp, Kind::kIncoming}));
}

TEST_F(MuxCoreTest, CarriesDataBothWays) {
  Establish();
  uint32_t id = guest.Connect(1234).value();
  Carry();
  std::vector<MuxEvent> events = host.TakeEvents();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, Kind::kIncoming);
  EXPECT_EQ(events[0].port, 1234u);
  EXPECT_FALSE(guest.Write(id, "too early").ok());
  host.Accept(id);
  Carry();
  EXPECT_EQ(Kinds(guest), std::vector{Kind::kAccepted});
  EXPECT_EQ(guest.Write(id, "ping").value(), 4u);
  EXPECT_EQ(host.Write(id, "pong").value(), 4u);
  Carry();
  EXPECT_EQ(ReadAll(host, id), "ping");
  EXPECT_EQ(ReadAll(guest, id), "pong");
}

TEST_F(MuxCoreTest, RefusalReachesTheDialer) {
  Establish();
  uint32_t id = guest.Connect(5).value();
  Carry();
  host.Close(id);
  Carry();
  EXPECT_EQ(Kinds(guest), std::vector{Kind::kReset});
  guest.Close(id);
  EXPECT_EQ(guest.connection_count(), 0u);
  EXPECT_TRUE(guest.output().empty()) << "nothing is left to reset";
}

TEST_F(MuxCoreTest, ConnectWithoutALinkIsUnavailable) {
  EXPECT_TRUE(absl::IsUnavailable(guest.Connect(5).status()));
}

TEST_F(MuxCoreTest, HalfCloseLetsTheOtherSideGoOn) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(guest.Write(id, "last words").ok());
  ASSERT_TRUE(guest.CloseWrite(id).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(guest.Write(id, "more").status()));
  Carry();
  EXPECT_EQ(ReadAll(host, id), "last words");
  char buffer[1];
  EXPECT_TRUE(host.Read(id, buffer).ended);
  ASSERT_TRUE(host.Write(id, "answer").ok());
  ASSERT_TRUE(host.CloseWrite(id).ok());
  Carry();
  EXPECT_EQ(ReadAll(guest, id), "answer");
  EXPECT_TRUE(guest.Read(id, buffer).ended);
  host.Close(id);
  guest.Close(id);
  EXPECT_TRUE(host.output().empty()) << "ended in order: no reset is sent";
  EXPECT_TRUE(guest.output().empty());
}

TEST_F(MuxCoreTest, ResetComesAfterWhatWasWritten) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(host.Write(id, "tail").ok());
  host.Close(id);
  Carry();
  EXPECT_EQ(ReadAll(guest, id), "tail");
  char buffer[1];
  EXPECT_TRUE(guest.Read(id, buffer).reset);
  EXPECT_TRUE(absl::IsNotFound(guest.Write(id, "x").status()));
}

TEST_F(MuxCoreTest, AStalledConnectionDoesNotBlockAnother) {
  Establish();
  uint32_t stalled = Open(5);
  uint32_t other = Open(6);
  const std::string much(2 * kMuxWindow, 'x');
  EXPECT_EQ(guest.Write(stalled, much).value(), kMuxWindow);
  Carry();
  EXPECT_EQ(guest.Write(stalled, much).value(), 0u) << "nobody takes it";
  size_t carried = 0;
  while (carried < 8 * kMuxWindow) {
    carried += guest.Write(other, much).value();
    Carry();
    ReadAll(host, other);
    Carry();
  }
  guest.TakeEvents();
  EXPECT_EQ(ReadAll(host, stalled).size(), kMuxWindow);
  Carry();
  EXPECT_EQ(Kinds(guest), std::vector{Kind::kWritable});
  EXPECT_GT(guest.Write(stalled, much).value(), 0u);
}

TEST_F(MuxCoreTest, OutputSpaceIsBoundedAndAnnouncesItself) {
  Establish();
  const std::string much(kMuxWindow, 'x');
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < 8; ++i) ids.push_back(Open(i));
  guest.TakeEvents();
  size_t taken = 0;
  for (uint32_t id : ids) taken += guest.Write(id, much).value();
  EXPECT_LT(taken, 8 * kMuxWindow);
  EXPECT_LT(guest.output().size(), 2u * 1024 * 1024);
  host.Receive(Drain(guest));
  EXPECT_FALSE(guest.TakeEvents().empty());
  EXPECT_GT(guest.Write(ids.back(), much).value(), 0u);
}

TEST_F(MuxCoreTest, NewEpochInMidTransferDropsEverything) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(guest.Write(id, std::string(100000, 'x')).ok());
  std::string cut = Drain(guest);
  host.Receive(cut.substr(0, cut.size() / 2));
  host.TakeEvents();
  guest.TakeEvents();
  host.StartEpoch();
  EXPECT_EQ(Kinds(host), std::vector{Kind::kLinkDown});
  EXPECT_EQ(host.connection_count(), 0u);
  guest.Receive(Drain(host));
  EXPECT_EQ(Kinds(guest), (std::vector{Kind::kLinkDown, Kind::kLinkUp}));
  EXPECT_EQ(guest.connection_count(), 0u);
  // The second half of the cut frame and whole frames of the old epoch arrive late.
  host.Receive(cut.substr(cut.size() / 2));
  Carry();
  EXPECT_TRUE(host.established());
  uint32_t again = Open(5);
  ASSERT_TRUE(guest.Write(again, "new").ok());
  Carry();
  EXPECT_EQ(ReadAll(host, again), "new");
}

TEST_F(MuxCoreTest, AMissingFrameEndsTheEpochAtTheHost) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(guest.Write(id, "lost").ok());
  Drain(guest);
  uint32_t former = host.epoch();
  ASSERT_TRUE(guest.Write(id, "seen").ok());
  Carry();
  EXPECT_NE(host.epoch(), former);
  EXPECT_TRUE(host.established());
  EXPECT_EQ(guest.epoch(), host.epoch());
  EXPECT_EQ(guest.connection_count(), 0u);
}

TEST_F(MuxCoreTest, AMissingFrameMakesTheGuestAskForAnEpoch) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(host.Write(id, "lost").ok());
  Drain(host);
  uint32_t former = host.epoch();
  ASSERT_TRUE(host.Write(id, "seen").ok());
  guest.Receive(Drain(host));
  EXPECT_FALSE(guest.established());
  Carry();
  EXPECT_NE(host.epoch(), former);
  EXPECT_TRUE(guest.established());
  EXPECT_EQ(host.connection_count(), 0u);
}

TEST_F(MuxCoreTest, AFlippedByteNeverReachesTheReader) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(host.Write(id, "precious bytes").ok());
  std::string wire = Drain(host);
  for (size_t at = 0; at < wire.size(); ++at) {
    std::string flipped = wire;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    MuxCore copy = guest;
    copy.Receive(flipped + std::string(1, '\0'));
    EXPECT_FALSE(copy.established()) << at;
    EXPECT_EQ(copy.connection_count(), 0u);
  }
}

TEST_F(MuxCoreTest, AGivenUpEpochIsNotEnteredAgain) {
  host.StartEpoch();
  std::string hello(host.output());
  Carry();
  guest.Receive(std::string("garbage\0", 8));
  EXPECT_FALSE(guest.established());
  guest.Receive(hello);
  EXPECT_FALSE(guest.established());
  Carry();
  EXPECT_TRUE(guest.established());
}

TEST_F(MuxCoreTest, DamageBeforeTheAnswerIsALeftover) {
  host.StartEpoch();
  uint32_t offered = host.epoch();
  host.Receive(std::string("tail of a frame of the former host's\0", 37));
  Carry();
  EXPECT_TRUE(host.established());
  EXPECT_EQ(host.epoch(), offered);
}

TEST_F(MuxCoreTest, HelloEndsAHalfFrameWhateverItsCut) {
  Establish();
  uint32_t id = Open(5);
  ASSERT_TRUE(host.Write(id, std::string(300, 'h')).ok());
  std::string wire = Drain(host);
  for (size_t cut = 0; cut < wire.size(); ++cut) {
    MuxCore moved = guest;
    moved.TakeEvents();
    moved.Receive(wire.substr(0, cut));
    MuxCore destination(MuxRole::kHost, [this] { return next_epoch++; });
    destination.StartEpoch();
    while (!destination.output().empty() || !moved.output().empty()) {
      moved.Receive(Drain(destination));
      destination.Receive(Drain(moved));
    }
    EXPECT_TRUE(destination.established()) << cut;
    EXPECT_TRUE(moved.established()) << cut;
    EXPECT_EQ(moved.epoch(), destination.epoch());
    EXPECT_EQ(moved.connection_count(), 0u);
  }
}

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
