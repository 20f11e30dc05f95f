#include "bridge/network/dhcp_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/escaping.h"
#include "tests/unit/bridge/network/dhcp_messages.h"

namespace ferry::net {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const MacAddress kMac = *ParseMac("02:fe:00:00:00:07");

DhcpReply Decoded(const std::string& bytes) {
  const absl::StatusOr<DhcpReply> reply = DecodeDhcp(bytes);
  EXPECT_TRUE(reply.ok()) << reply.status();
  return reply.value_or(DhcpReply());
}

std::string Offer(const std::vector<DhcpOption>& options,
                  const std::string& address = "192.0.2.50") {
  return ServerMessage(DhcpType::kOffer, 7, kMac, address, options);
}

TEST(DhcpMessageTest, ADiscoverIsAsRfc2131HasIt) {
  DhcpRequest request;
  request.transaction = 0x01020304;
  request.mac = kMac;
  request.seconds = 5;
  const std::string bytes = EncodeDhcp(request);
  ASSERT_EQ(bytes.size(), 300u);
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(0, 12)), "010106000102030400058000");
  EXPECT_EQ(bytes.substr(12, 16), std::string(16, '\0'));
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(28, 6)), "02fe00000007");
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(236, 14)),
            "638253633501013704010306"
            "0fff");
}

TEST(DhcpMessageTest, ARequestNamesAddressAndServer) {
  DhcpRequest request;
  request.type = DhcpType::kRequest;
  request.mac = kMac;
  request.wants = *ParseIp("192.0.2.50");
  request.server = *ParseIp("192.0.2.1");
  EXPECT_THAT(absl::BytesToHexString(EncodeDhcp(request)), HasSubstr("350103"
                                                                     "3204c0000232"
                                                                     "3604c0000201"));
}

TEST(DhcpMessageTest, WhoHasAnAddressIsAnsweredThere) {
  DhcpRequest request;
  request.type = DhcpType::kRequest;
  request.mac = kMac;
  request.has = *ParseIp("192.0.2.50");
  const std::string bytes = EncodeDhcp(request);
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(10, 6)), "0000c0000232");
}

TEST(DhcpMessageTest, AnOfferIsRead) {
  const DhcpReply reply = Decoded(Offer({{1, BytesOfIp("255.255.255.0")},
                                         {3, BytesOfIp("192.0.2.1")},
                                         {6, BytesOfIp("192.0.2.2") + BytesOfIp("192.0.2.3")},
                                         {15, "example.org"},
                                         {51, Bytes(3600)},
                                         {54, BytesOfIp("192.0.2.1")},
                                         {58, Bytes(1800)},
                                         {59, Bytes(3000)}}));
  EXPECT_EQ(reply.type, DhcpType::kOffer);
  EXPECT_EQ(reply.transaction, 7u);
  EXPECT_EQ(reply.mac, kMac);
  EXPECT_EQ(reply.address.ToString(), "192.0.2.50/24");
  EXPECT_EQ(reply.server, *ParseIp("192.0.2.1"));
  EXPECT_EQ(reply.router, *ParseIp("192.0.2.1"));
  EXPECT_THAT(reply.name_servers, ElementsAre(*ParseIp("192.0.2.2"), *ParseIp("192.0.2.3")));
  EXPECT_EQ(reply.domain, "example.org");
  EXPECT_EQ(reply.lease_seconds, 3600u);
  EXPECT_EQ(reply.renew_seconds, 1800u);
  EXPECT_EQ(reply.rebind_seconds, 3000u);
}

TEST(DhcpMessageTest, OptionsContinueInTheFieldsThatAreNotNeeded) {
  std::string bytes = Offer({{52, "\x03"}, {6, BytesOfIp("192.0.2.2").substr(0, 3)}});
  const std::string in_file = EncodeOptions({{6, "\x02"}, {51, Bytes(60)}}) + '\xff';
  const std::string in_name = EncodeOptions({{54, BytesOfIp("192.0.2.1")}}) + '\xff';
  bytes.replace(108, in_file.size(), in_file);
  bytes.replace(44, in_name.size(), in_name);
  const DhcpReply reply = Decoded(bytes);
  EXPECT_THAT(reply.name_servers, ElementsAre(*ParseIp("192.0.2.2")));
  EXPECT_EQ(reply.lease_seconds, 60u);
  EXPECT_EQ(reply.server, *ParseIp("192.0.2.1"));
}

TEST(DhcpMessageTest, AMaskThatIsNoneMakesTheAddressUseless) {
  const auto length = [](const std::string& mask, const std::string& address = "192.0.2.50") {
    return Decoded(Offer({{1, mask}}, address)).address.length;
  };
  EXPECT_EQ(length(BytesOfIp("255.255.255.255")), 32);
  EXPECT_EQ(length(BytesOfIp("128.0.0.0")), 1);
  EXPECT_EQ(length(BytesOfIp("0.0.0.0")), 0);
  EXPECT_EQ(length(BytesOfIp("255.0.255.0")), 0);
  // Without one the network is of the address's class.
  EXPECT_EQ(length("\x01"), 24);
  EXPECT_EQ(length("", "10.0.0.1"), 8);
  EXPECT_EQ(length("", "172.16.0.1"), 16);
  for (const char* nobody : {"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"}) {
    EXPECT_EQ(length(BytesOfIp("255.255.255.0"), nobody), 0) << nobody;
  }
}

TEST(DhcpMessageTest, WhatCannotBeIsLeftOut) {
  const std::string mask = BytesOfIp("255.255.255.0");
  const auto router = [&mask](const std::string& value) {
    return Decoded(Offer({{1, mask}, {3, value}})).router;
  };
  EXPECT_EQ(router(BytesOfIp("198.51.100.1")), std::nullopt) << "in another network";
  EXPECT_EQ(router(BytesOfIp("192.0.2.50")), std::nullopt) << "the client itself";
  EXPECT_EQ(router("\x01\x02\x03"), std::nullopt);
  std::string many;
  for (int i = 1; i < 60; ++i) many += BytesOfIp("192.0.2." + std::to_string(i));
  EXPECT_EQ(Decoded(Offer({{6, many}})).name_servers.size(), kMaxNameServers);
  EXPECT_THAT(Decoded(Offer({{6, BytesOfIp("127.0.0.1") + BytesOfIp("0.0.0.0")}})).name_servers,
              IsEmpty());
  for (const std::string& name :
       {std::string("a b"), std::string("a\nnameserver 192.0.2.66"), std::string(254, 'a'),
        std::string("\x1b[2J"), std::string(".a")}) {
    EXPECT_EQ(Decoded(Offer({{15, name}})).domain, "") << name;
  }
  EXPECT_EQ(Decoded(Offer({{15, std::string("example.org.\0\0", 14)}})).domain, "example.org");
  EXPECT_EQ(Decoded(Offer({{51, "\x01"}})).lease_seconds, std::nullopt);
}

TEST(DhcpMessageTest, WhatIsNoServersMessageIsRefused) {
  const std::string whole = Offer({});
  ASSERT_TRUE(DecodeDhcp(whole).ok());
  for (const size_t at : {0, 1, 2, 236, 239, 240, 241, 242}) {
    std::string bytes = whole;
    bytes[at] = '\x64';
    EXPECT_TRUE(absl::IsInvalidArgument(DecodeDhcp(bytes).status())) << at;
  }
  for (size_t size = 0; size + 1 < whole.size(); ++size) {
    EXPECT_FALSE(DecodeDhcp(whole.substr(0, size)).ok()) << size;
  }
  const std::string request = ServerMessage(DhcpType::kRequest, 7, kMac, "192.0.2.50", {});
  EXPECT_FALSE(DecodeDhcp(request).ok());
}

TEST(DhcpMessageTest, AnyBytesAreSurvived) {
  std::mt19937 random(1);
  const std::string whole =
      Offer({{1, BytesOfIp("255.255.255.0")}, {15, "example.org"}, {52, "\x03"}});
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = whole.substr(0, 200 + random() % (whole.size() - 199));
    for (int i = 0; i < 4; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    (void)DecodeDhcp(bytes);
  }
}

}  // namespace
}  // namespace ferry::net
