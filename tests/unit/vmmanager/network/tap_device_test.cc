#include "vmmanager/network/tap_device.h"

#include <gtest/gtest.h>

#include "vmmanager/network/linux_host_network.h"

namespace ferry::vm {
namespace {

TEST(TapDeviceTest, ATapsAddressIsNoCardsAndTheHighest) {
  const net::MacAddress card = *net::ParseMac("02:fe:00:00:00:0a");
  EXPECT_EQ(TapAddress(card).ToString(), "fe:fe:00:00:00:0a");
}

TEST(BridgeMappingTest, NamesABridgeByAnother) {
  const auto mapping = ParseBridgeMapping("lan=br0");
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(mapping->first, "lan");
  EXPECT_EQ(mapping->second, "br0");
  for (const char* bad : {"", "lan", "lan=", "=br0", "a=b=c", "lan=br 0", "lan=br%d"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseBridgeMapping(bad).status())) << bad;
  }
}

}  // namespace
}  // namespace ferry::vm
