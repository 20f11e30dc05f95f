#include "bridge/network/route_messages.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cstring>
#include <random>

#include "absl/strings/escaping.h"

namespace ferry::net {
namespace {

constexpr uint32_t kSequence = 7;

std::string Hex(const std::string& bytes) { return absl::BytesToHexString(bytes); }

// As the kernel of an x86 machine takes them.
TEST(RouteMessagesTest, GoldenRequests) {
  EXPECT_EQ(Hex(AskForLink("br0")),
            "280000001200050000000000000000000000000000000000000000000000000008000300"
            "62723000");
  LinkChange change;
  change.index = 5;
  change.up = true;
  change.master = 3;
  EXPECT_EQ(Hex(ChangeLink(change)),
            "280000001000050000000000000000000000000005000000010000000100000008000a00"
            "03000000");
  change.up = false;
  change.master.reset();
  EXPECT_EQ(Hex(ChangeLink(change)),
            "2000000010000500000000000000000000000000050000000000000001000000");
  EXPECT_EQ(Hex(AddAddress(2, *ParsePrefix("192.0.2.7/24"))),
            "2800000014000506000000000000000002180000020000000800020"
            "0c000020708000100c0000207");
  EXPECT_EQ(Hex(AddRoute(2, *ParseIp("192.0.2.1"), std::nullopt)),
            "2c00000018000506000000000000000002000000fe04000100000000"
            "08000500c00002010800040002000000");
}

TEST(RouteMessagesTest, GoldenRequestsOfWhatIsLeased) {
  EXPECT_EQ(Hex(RemoveAddress(2, *ParsePrefix("192.0.2.7/24"))),
            "2800000015000500000000000000000002180000020000000800020"
            "0c000020708000100c0000207");
  EXPECT_EQ(Hex(AddRoute(2, *ParseIp("192.0.2.1"), std::nullopt, 1027)),
            "3400000018000506000000000000000002000000fe04000100000000"
            "08000500c000020108000400020000000800060003040000");
  EXPECT_EQ(Hex(RemoveRoute(2, *ParseIp("192.0.2.1"), std::nullopt, 1027)),
            "3400000019000500000000000000000002000000fe04000100000000"
            "08000500c000020108000400020000000800060003040000");
}

TEST(RouteMessagesTest, AnIpv6AddressIsNotAskedFor) {
  const std::string request = AddAddress(2, *ParsePrefix("2001:db8::7/64"));
  struct ifaddrmsg header {};
  memcpy(&header, request.data() + sizeof(struct nlmsghdr), sizeof(header));
  EXPECT_EQ(header.ifa_family, AF_INET6);
  EXPECT_EQ(header.ifa_flags, IFA_F_NODAD);
}

std::string LinkAnswer(const std::string& name) {
  LinkChange change;
  change.index = 9;
  change.up = true;
  change.name = name;
  change.mac = *ParseMac("02:fe:00:00:00:09");
  change.mtu = 1400;
  change.master = 4;
  std::string answer = ChangeLink(change);  // the kernel tells of links as it is told
  SetSequence(&answer, kSequence);
  return answer;
}

std::string Acknowledgement(int error, uint32_t sequence = kSequence) {
  std::string bytes(36, '\0');
  bytes[0] = 36;
  bytes[4] = NLMSG_ERROR;
  const int32_t negative = -error;
  memcpy(bytes.data() + 16, &negative, sizeof(negative));
  SetSequence(&bytes, sequence);
  return bytes;
}

TEST(RouteMessagesTest, LinksAreReadUpToTheAcknowledgement) {
  RouteAnswer answer;
  EXPECT_FALSE(*answer.Take(LinkAnswer("ferry0"), kSequence));
  EXPECT_FALSE(*answer.Take(Acknowledgement(EPERM, kSequence - 1), kSequence)) << "another's";
  EXPECT_TRUE(*answer.Take(Acknowledgement(0), kSequence));
  EXPECT_EQ(answer.error(), 0);
  ASSERT_EQ(answer.links().size(), 1u);
  const Link& link = answer.links()[0];
  EXPECT_EQ(link.index, 9);
  EXPECT_EQ(link.name, "ferry0");
  EXPECT_EQ(link.mac.ToString(), "02:fe:00:00:00:09");
  EXPECT_EQ(link.mtu, 1400u);
  EXPECT_EQ(link.master, 4);
  EXPECT_TRUE(link.is_up);
  EXPECT_EQ(link.kind, "");
}

TEST(RouteMessagesTest, ARefusalIsTheKernelsErrno) {
  RouteAnswer answer;
  EXPECT_TRUE(*answer.Take(Acknowledgement(ENODEV), kSequence));
  EXPECT_EQ(answer.error(), ENODEV);
}

TEST(RouteMessagesTest, WhatIsCutShortIsNoAnswer) {
  const std::string whole = LinkAnswer("ferry0") + Acknowledgement(0);
  const size_t first = LinkAnswer("ferry0").size();
  for (size_t size = 1; size < whole.size(); ++size) {
    RouteAnswer answer;
    const auto taken = answer.Take(whole.substr(0, size), kSequence);
    if (size == first) {
      EXPECT_FALSE(*taken);
    } else {
      EXPECT_TRUE(absl::IsInternal(taken.status())) << size;
    }
  }
}

TEST(RouteMessagesTest, AnyBytesAreSurvived) {
  std::mt19937 random(1);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = LinkAnswer("ferry0") + Acknowledgement(0);
    for (int i = 0; i < 4; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    RouteAnswer answer;
    (void)answer.Take(bytes, kSequence);
  }
}

}  // namespace
}  // namespace ferry::net
