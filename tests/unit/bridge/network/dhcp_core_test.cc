#include "bridge/network/dhcp_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/bridge/network/dhcp_messages.h"

namespace ferry::net {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kLease = 3600;

class DhcpCoreTest : public ::testing::Test {
 protected:
  // Times lie half between the shortest and the longest that chance gives.
  DhcpCoreTest() : core_(mac_, [this] { return ++number_ * 1001 + 500; }) {}

  struct Sent {
    DhcpType type;
    uint32_t transaction;
    IpAddress has;
    std::string to;  // "" for everybody
  };

  // What the client has sent since it was looked at last.
  std::vector<Sent> TakeSent() {
    std::vector<Sent> all;
    for (const DhcpCore::Packet& packet : core_.TakePackets()) {
      Sent sent;
      sent.type = static_cast<DhcpType>(packet.bytes.at(242));
      sent.transaction = 0;
      for (int i = 4; i < 8; ++i) {
        sent.transaction = sent.transaction << 8 | static_cast<uint8_t>(packet.bytes[i]);
      }
      std::copy_n(packet.bytes.begin() + 12, 4, sent.has.bytes.begin());
      sent.to = packet.to.has_value() ? packet.to->ToString() : "";
      last_ = sent.transaction;
      all.push_back(sent);
    }
    return all;
  }

  std::vector<DhcpType> TakeTypes() {
    std::vector<DhcpType> types;
    for (const Sent& sent : TakeSent()) types.push_back(sent.type);
    return types;
  }

  // An answer to what was sent last.
  std::string Answer(DhcpType type, std::vector<DhcpOption> more = {}, uint32_t lease = kLease) {
    std::vector<DhcpOption> options = {{54, BytesOfIp(server_)},
                                       {1, BytesOfIp("255.255.255.0")},
                                       {3, BytesOfIp("192.0.2.1")},
                                       {6, BytesOfIp("192.0.2.2")},
                                       {51, Bytes(lease)}};
    options.insert(options.end(), more.begin(), more.end());
    return ServerMessage(type, last_, mac_, address_, options);
  }

  void Hear(DhcpType type, std::vector<DhcpOption> more = {}, uint32_t lease = kLease) {
    core_.Take(Answer(type, std::move(more), lease), now_);
  }

  // Lets time pass up to what is next to do, and returns how long that was.
  DhcpCore::Duration Next() {
    const DhcpCore::Duration wait = core_.wake_at() - now_;
    now_ = core_.wake_at();
    core_.OnTime(now_);
    return wait;
  }

  void Bind(uint32_t lease = kLease) {
    core_.Start(now_);
    TakeSent();
    Hear(DhcpType::kOffer, {}, lease);
    TakeSent();
    Hear(DhcpType::kAck, {}, lease);
    ASSERT_TRUE(core_.lease().has_value());
  }

  const MacAddress mac_ = *ParseMac("02:fe:00:00:00:07");
  uint32_t number_ = 0;
  DhcpCore core_;
  DhcpCore::Time now_{hours(1)};
  uint32_t last_ = 0;
  std::string server_ = "192.0.2.1";
  std::string address_ = "192.0.2.50";
};

TEST_F(DhcpCoreTest, AnOfferIsTakenAndBecomesALease) {
  core_.Start(now_);
  auto sent = TakeSent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].type, DhcpType::kDiscover);
  const uint32_t talk = sent[0].transaction;
  Hear(DhcpType::kOffer);
  EXPECT_FALSE(core_.lease().has_value());
  sent = TakeSent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].type, DhcpType::kRequest);
  EXPECT_EQ(sent[0].transaction, talk);
  EXPECT_EQ(sent[0].to, "");
  Hear(DhcpType::kAck);
  ASSERT_TRUE(core_.lease().has_value());
  EXPECT_EQ(core_.lease()->address.ToString(), "192.0.2.50/24");
  EXPECT_EQ(core_.lease()->router, *ParseIp("192.0.2.1"));
  EXPECT_THAT(core_.lease()->name_servers, ElementsAre(*ParseIp("192.0.2.2")));
  EXPECT_EQ(core_.wake_at(), now_ + seconds(kLease / 2));
  EXPECT_THAT(TakeSent(), IsEmpty());
}

TEST_F(DhcpCoreTest, AnOfferOfSecondsIsPassedOver) {
  core_.Start(now_);
  TakeSent();
  Hear(DhcpType::kOffer, {}, 9);
  EXPECT_THAT(TakeSent(), IsEmpty());
  Hear(DhcpType::kOffer);
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kRequest));
}

TEST_F(DhcpCoreTest, AsLongAsNobodyAnswersItAsksLessAndLessOften) {
  core_.Start(now_);
  std::vector<DhcpCore::Duration> waits;
  for (int i = 0; i < 7; ++i) waits.push_back(Next());
  EXPECT_THAT(waits, ElementsAre(seconds(2), seconds(4), seconds(8), seconds(16), seconds(32),
                                 seconds(32), seconds(32)));
  const auto sent = TakeSent();
  ASSERT_THAT(sent, SizeIs(8));
  for (const Sent& one : sent) EXPECT_EQ(one.type, DhcpType::kDiscover);
  Hear(DhcpType::kOffer);
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kRequest));
}

TEST_F(DhcpCoreTest, AServerThatOffersAndIsSilentIsGivenUp) {
  core_.Start(now_);
  TakeSent();
  Hear(DhcpType::kOffer);
  for (int i = 0; i < 4; ++i) Next();
  const auto types = TakeTypes();
  EXPECT_THAT(types, ElementsAre(DhcpType::kRequest, DhcpType::kRequest, DhcpType::kRequest,
                                 DhcpType::kRequest, DhcpType::kDiscover));
}

TEST_F(DhcpCoreTest, WhatIsNoAnswerChangesNothing) {
  core_.Start(now_);
  TakeSent();
  Hear(DhcpType::kAck);
  Hear(DhcpType::kNak);
  core_.Take("", now_);
  core_.Take(ServerMessage(DhcpType::kOffer, last_ + 1, mac_, address_, {{54, "\1\2\3\4"}}), now_);
  const MacAddress other = *ParseMac("02:fe:00:00:00:08");
  core_.Take(ServerMessage(DhcpType::kOffer, last_, other, address_, {{54, "\1\2\3\4"}}), now_);
  core_.Take(ServerMessage(DhcpType::kOffer, last_, mac_, address_, {}), now_);
  core_.Take(ServerMessage(DhcpType::kOffer, last_, mac_, "0.0.0.0", {{54, "\1\2\3\4"}}), now_);
  EXPECT_THAT(TakeSent(), IsEmpty());
  Hear(DhcpType::kOffer);
  TakeSent();
  server_ = "192.0.2.9";
  Hear(DhcpType::kAck);
  Hear(DhcpType::kNak);
  server_ = "192.0.2.1";
  address_ = "192.0.2.51";
  Hear(DhcpType::kAck);
  address_ = "192.0.2.50";
  Hear(DhcpType::kAck, {}, 9);
  EXPECT_FALSE(core_.lease().has_value());
  EXPECT_THAT(TakeSent(), IsEmpty());
  Hear(DhcpType::kAck);
  EXPECT_TRUE(core_.lease().has_value());
}

TEST_F(DhcpCoreTest, ALeaseIsRenewedWithItsServer) {
  Bind();
  EXPECT_EQ(Next(), seconds(kLease / 2));
  const auto sent = TakeSent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].type, DhcpType::kRequest);
  EXPECT_EQ(sent[0].to, "192.0.2.1");
  EXPECT_EQ(sent[0].has, *ParseIp("192.0.2.50"));
  now_ += seconds(1);
  Hear(DhcpType::kAck);
  // Counted from the request.
  EXPECT_EQ(core_.wake_at(), now_ - seconds(1) + seconds(kLease / 2));
}

TEST_F(DhcpCoreTest, ALeaseThatNobodyRenewsEnds) {
  Bind();
  const DhcpCore::Time begun = now_;
  std::vector<std::string> to;
  while (core_.lease().has_value()) {
    Next();
    for (const Sent& sent : TakeSent()) {
      if (sent.type == DhcpType::kRequest) to.push_back(sent.to);
    }
  }
  EXPECT_EQ(now_ - begun, seconds(kLease));
  EXPECT_LT(to.size(), 20u);
  EXPECT_EQ(to.front(), "192.0.2.1");
  EXPECT_EQ(to.back(), "") << "any server";
  EXPECT_TRUE(std::is_partitioned(to.begin(), to.end(),
                                  [](const std::string& one) { return !one.empty(); }));
  // And it asks for another one.
  TakeSent();
  Next();
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kDiscover));
}

TEST_F(DhcpCoreTest, TheServersTimesAreTakenIfTheyCanBe) {
  core_.Start(now_);
  TakeSent();
  Hear(DhcpType::kOffer);
  TakeSent();
  Hear(DhcpType::kAck, {{58, Bytes(100)}, {59, Bytes(200)}});
  EXPECT_EQ(core_.wake_at(), now_ + seconds(100));
  for (const auto& [renew, rebind] :
       {std::pair(0u, 200u), std::pair(300u, 200u), std::pair(100u, kLease)}) {
    core_.Confirm(now_);
    TakeSent();
    Hear(DhcpType::kAck, {{58, Bytes(renew)}, {59, Bytes(rebind)}});
    EXPECT_EQ(core_.wake_at(), now_ + seconds(kLease / 2)) << renew << " " << rebind;
  }
}

TEST_F(DhcpCoreTest, ALeaseForEverIsNotRenewed) {
  Bind(UINT32_MAX);
  EXPECT_EQ(core_.wake_at(), DhcpCore::Time::max());
  core_.StoodStill(hours(24 * 365 * 200), now_);
  EXPECT_TRUE(core_.lease().has_value());
  EXPECT_EQ(core_.wake_at(), DhcpCore::Time::max());
}

TEST_F(DhcpCoreTest, OnAnotherHostTheLeaseIsConfirmed) {
  Bind();
  now_ += minutes(10);
  core_.Confirm(now_);
  const auto sent = TakeSent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].type, DhcpType::kRequest);
  EXPECT_EQ(sent[0].has, IpAddress());
  EXPECT_EQ(sent[0].to, "");
  EXPECT_TRUE(core_.lease().has_value());
  server_ = "192.0.2.9";
  Hear(DhcpType::kAck);
  EXPECT_EQ(core_.lease()->server, *ParseIp("192.0.2.9"));
  EXPECT_EQ(core_.wake_at(), now_ + seconds(kLease / 2));
}

TEST_F(DhcpCoreTest, ALeaseThatNobodyConfirmsStaysForItsTime) {
  Bind();
  const DhcpCore::Time begun = now_;
  now_ += minutes(10);
  core_.Confirm(now_);
  for (int i = 0; i < 3; ++i) Next();
  EXPECT_THAT(TakeTypes(), SizeIs(3));
  EXPECT_TRUE(core_.lease().has_value());
  EXPECT_EQ(core_.wake_at(), begun + seconds(kLease / 2));
}

TEST_F(DhcpCoreTest, ARefusedLeaseIsLetGoOfAndAnotherOneAskedForAtOnce) {
  Bind();
  core_.Confirm(now_);
  TakeSent();
  Hear(DhcpType::kNak);
  EXPECT_FALSE(core_.lease().has_value());
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kDiscover));
}

TEST_F(DhcpCoreTest, WhoRefusesEverythingIsAskedLessAndLessOften) {
  core_.Start(now_);
  std::vector<DhcpCore::Duration> waits;
  for (int i = 0; i < 7; ++i) {
    TakeSent();
    Hear(DhcpType::kOffer);
    TakeSent();
    Hear(DhcpType::kNak);
    if (i > 0) waits.push_back(Next());
  }
  EXPECT_THAT(waits, ElementsAre(seconds(2), seconds(4), seconds(8), seconds(16), seconds(32),
                                 seconds(32)));
}

TEST_F(DhcpCoreTest, WhoWaitsForAnAnswerAsksAtOnceOnAnotherHost) {
  core_.Start(now_);
  for (int i = 0; i < 6; ++i) Next();
  TakeSent();
  core_.Confirm(now_);
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kDiscover));
  EXPECT_EQ(core_.wake_at(), now_ + seconds(2));
}

TEST_F(DhcpCoreTest, AStandstillCountsAsTime) {
  Bind();
  core_.StoodStill(minutes(20), now_);
  EXPECT_EQ(core_.wake_at(), now_ + seconds(kLease / 2) - minutes(20));
  EXPECT_THAT(TakeSent(), IsEmpty());
  core_.StoodStill(-hours(5), now_);
  EXPECT_EQ(core_.wake_at(), now_ + seconds(kLease / 2) - minutes(20));
}

TEST_F(DhcpCoreTest, ALeaseThatEndedInAStandstillIsConfirmedOrLetGoOf) {
  Bind();
  core_.StoodStill(hours(48), now_);
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kRequest));
  EXPECT_TRUE(core_.lease().has_value()) << "it may still be had";
  for (int i = 0; i < 3; ++i) Next();
  EXPECT_FALSE(core_.lease().has_value());
  EXPECT_THAT(TakeTypes(),
              ElementsAre(DhcpType::kRequest, DhcpType::kRequest, DhcpType::kDiscover));
}

TEST_F(DhcpCoreTest, ALeaseThatEndedDoesNotStayBecauseItIsAskedForAgainAndAgain) {
  Bind();
  core_.StoodStill(hours(48), now_);
  for (int i = 0; i < 2; ++i) {
    now_ += seconds(6);
    core_.Confirm(now_);
    EXPECT_TRUE(core_.lease().has_value());
  }
  now_ += seconds(6);
  core_.Confirm(now_);
  EXPECT_FALSE(core_.lease().has_value());
}

// The agent negotiates first, and is told of the clock then.
TEST_F(DhcpCoreTest, AStandstillThatIsToldOfLateDoesNotCountTwice) {
  Bind();
  core_.Confirm(now_);
  TakeSent();
  const std::string early = Answer(DhcpType::kAck);
  core_.StoodStill(hours(48), now_);
  core_.Take(early, now_);
  EXPECT_THAT(TakeTypes(), ElementsAre(DhcpType::kRequest));
  Hear(DhcpType::kAck);
  EXPECT_EQ(core_.wake_at(), now_ + seconds(kLease / 2));
}

TEST_F(DhcpCoreTest, AShortStandstillIsNoReasonToAskAgain) {
  Bind();
  core_.Confirm(now_);
  TakeSent();
  core_.StoodStill(std::chrono::milliseconds(20), now_);
  EXPECT_THAT(TakeSent(), IsEmpty());
}

}  // namespace
}  // namespace ferry::net
