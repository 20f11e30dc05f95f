#include "vmmanager/network/tap_device.h"

#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

TEST(TapDeviceTest, ATapsAddressIsNoCardsAndTheHighest) {
  const net::MacAddress card = *net::ParseMac("02:fe:00:00:00:0a");
  EXPECT_EQ(TapAddress(card).ToString(), "fe:fe:00:00:00:0a");
}

}  // namespace
}  // namespace ferry::vm
