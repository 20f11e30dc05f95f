#include "tools/ferryctl/nic_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(NicSpecTest, ReadsAllParts) {
  const auto nic = ParseNic(
      "name=lan0,bridge=br0,mac=02:fe:00:00:00:01,address=192.0.2.7/24,address=2001:db8::7/64,"
      "gateway=192.0.2.1,gateway=2001:db8::1");
  ASSERT_TRUE(nic.ok()) << nic.status();
  EXPECT_EQ(nic->name(), "lan0");
  EXPECT_EQ(nic->bridge(), "br0");
  EXPECT_EQ(nic->mac(), "02:fe:00:00:00:01");
  EXPECT_THAT(nic->addresses(), ElementsAre("192.0.2.7/24", "2001:db8::7/64"));
  EXPECT_THAT(nic->gateways(), ElementsAre("192.0.2.1", "2001:db8::1"));
  EXPECT_TRUE(ParseNic("user")->user());
  EXPECT_EQ(ParseNic("tap=tap0")->tap(), "tap0");
}

TEST(NicSpecTest, AnAddressMayBeAServersAffair) {
  const auto nic = ParseNic("bridge=br0,address=dhcp,address=2001:db8::7/64,dns=192.0.2.2,dns=::2");
  ASSERT_TRUE(nic.ok()) << nic.status();
  EXPECT_TRUE(nic->dhcp());
  EXPECT_THAT(nic->addresses(), ElementsAre("2001:db8::7/64"));
  EXPECT_THAT(nic->name_servers(), ElementsAre("192.0.2.2", "::2"));
  EXPECT_FALSE(ParseNic("bridge=br0,address=192.0.2.7/24")->dhcp());
}

TEST(NicSpecTest, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> rows[] = {
      {"", "says nothing"},           {"name=a", "plugged in nowhere"},
      {"user,bridge=b", "one place"}, {"bridge=", "says nothing"},
      {"user,color=red", "unknown"},  {"user=1", "unknown"},
      {"bridge=a,,", "says nothing"}};
  for (const auto& [text, why] : rows) {
    EXPECT_THAT(std::string(ParseNic(text).status().message()), HasSubstr(why)) << text;
  }
}

}  // namespace
}  // namespace ferry::ctl
