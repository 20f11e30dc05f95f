#include "bridge/network/address.h"

#include <gtest/gtest.h>

namespace ferry::net {
namespace {

TEST(AddressTest, InterfaceNamesAreBoundedAndPlain) {
  for (const char* good : {"br0", "e", "eth0.17", "a-b_c", "fifteen-letters"}) {
    EXPECT_TRUE(IsInterfaceName(good)) << good;
  }
  for (const char* bad :
       {"", "sixteen-letters-", ".", "..", "-a", "a/b", "a b", "a%d", "a:1", "a\n", "\xc3\xa4"}) {
    EXPECT_FALSE(IsInterfaceName(bad)) << bad;
  }
  EXPECT_FALSE(IsInterfaceName(std::string_view("a\0b", 3)));
}

TEST(AddressTest, MacsAreReadInBothSpellings) {
  const auto mac = ParseMac("02:fe:0A:b0:00:01");
  ASSERT_TRUE(mac.ok()) << mac.status();
  EXPECT_EQ(mac->ToString(), "02:fe:0a:b0:00:01");
  EXPECT_EQ(mac->ToHcsString(), "02-FE-0A-B0-00-01");
  EXPECT_EQ(*ParseMac(mac->ToHcsString()), *mac);
  for (const char* bad : {"", "02:fe:0a:b0:00", "02:fe:0a:b0:00:01:", "02:fe:0a:b0:00:0g",
                          "02:fe-0a:b0:00:01", "02.fe.0a.b0.00.01", "02:fe:0a:b0:00:1 "}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseMac(bad).status())) << bad;
  }
  EXPECT_TRUE(ParseMac("01:00:00:00:00:00")->is_multicast());
  EXPECT_FALSE(mac->is_multicast());
}

TEST(AddressTest, AddressesHaveALength) {
  EXPECT_EQ(ParsePrefix("192.0.2.7/24")->ToString(), "192.0.2.7/24");
  EXPECT_EQ(ParsePrefix("2001:DB8::0007/64")->ToString(), "2001:db8::7/64");
  for (const char* bad : {"192.0.2.7", "192.0.2.7/", "192.0.2.7/33", "192.0.2.7/-1", "192.0.2/24",
                          "192.0.2.7/ 8", "2001:db8::7/129", "/24", "x/1", "192.0.2.7/0008"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParsePrefix(bad).status())) << bad;
  }
}

TEST(AddressTest, ErrorsQuoteNoMoreThanTheirShare) {
  const auto status = ParseIp(std::string(100'000, '\x1b')).status();
  EXPECT_LT(status.message().size(), 500u);
  EXPECT_EQ(status.message().find('\x1b'), absl::string_view::npos);
}

TEST(AddressTest, PrefixesContainTheirOwnNetwork) {
  const IpPrefix prefix = *ParsePrefix("192.0.2.7/25");
  EXPECT_TRUE(prefix.Contains(*ParseIp("192.0.2.127")));
  EXPECT_FALSE(prefix.Contains(*ParseIp("192.0.2.128")));
  EXPECT_FALSE(prefix.Contains(*ParseIp("::1")));
  EXPECT_TRUE(ParsePrefix("2001:db8::7/64")->Contains(*ParseIp("2001:db8::ffff:1")));
  EXPECT_FALSE(ParsePrefix("2001:db8::7/64")->Contains(*ParseIp("2001:db8:0:1::1")));
}

TEST(AddressTest, NotEveryAddressIsAHosts) {
  for (const char* good : {"10.0.0.1", "192.0.2.7", "fe80::1", "2001:db8::1", "fd00::7"}) {
    EXPECT_TRUE(IsHostAddress(*ParseIp(good))) << good;
  }
  for (const char* bad :
       {"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"}) {
    EXPECT_FALSE(IsHostAddress(*ParseIp(bad))) << bad;
  }
}

}  // namespace
}  // namespace ferry::net
