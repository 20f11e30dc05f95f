#include "guestmanager/port_allocator.h"

#include <gtest/gtest.h>

namespace ferry::guest {
namespace {

TEST(PortAllocatorTest, CountsUpFromTheFirstStdioPort) {
  PortAllocator ports;
  EXPECT_EQ(*ports.Allocate(), 0x40000001u);
  EXPECT_EQ(*ports.Allocate(), 0x40000002u);
  EXPECT_EQ(ports.NextPort(), 0x40000003u);
}

TEST(PortAllocatorTest, SeedingOnlyRaises) {
  PortAllocator ports;
  ports.SetNextPort(0x40000100);
  ports.SetNextPort(0);
  ports.SetNextPort(0x40000050);
  EXPECT_EQ(*ports.Allocate(), 0x40000100u);
}

TEST(PortAllocatorTest, EndsInsteadOfWrapping) {
  PortAllocator ports;
  ports.SetNextPort(0xFFFFFFFE);
  EXPECT_EQ(*ports.Allocate(), 0xFFFFFFFEu);
  EXPECT_TRUE(absl::IsResourceExhausted(ports.Allocate().status()));
  ports.SetNextPort(0x40000001);
  EXPECT_FALSE(ports.Allocate().ok());
}

}  // namespace
}  // namespace ferry::guest
