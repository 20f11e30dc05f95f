#include <gtest/gtest.h>

#include "bridge/transport/transport.h"

namespace ferry::bridge {
namespace {

// Literals, because both ends share the constants.
TEST(PortsTest, AreTheOnesThatAForeignEndDialsAndListensOn) {
  EXPECT_EQ(kBridgePort, 0x40000000u);
  EXPECT_EQ(kFirstStdioPort, 0x40000001u);
  EXPECT_EQ(kGuestLogPort, 109u);
}

}  // namespace
}  // namespace ferry::bridge
