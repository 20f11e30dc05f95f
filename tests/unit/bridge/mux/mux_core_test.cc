#include "bridge/mux/mux_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/bridge/mux/mux_core_fixture.h"

namespace ferry::bridge {
namespace {

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

}  // namespace
}  // namespace ferry::bridge
