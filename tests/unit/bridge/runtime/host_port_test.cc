#include "bridge/runtime/host_port.h"

#include <gtest/gtest.h>

namespace ferry {
namespace {

TEST(HostPortTest, HostsAndPortsAreTold) {
  EXPECT_EQ(ParseHostPort("host.example:7000")->host, "host.example");
  EXPECT_EQ(ParseHostPort("[::1]:0")->host, "::1");
  EXPECT_EQ(FormatHostPort(*ParseHostPort("[fe80::1]:65535")), "[fe80::1]:65535");
  EXPECT_EQ(FormatHostPort(*ParseHostPort("127.0.0.1:80")), "127.0.0.1:80");
  for (const char* bad : {"", "host", ":1", "host:", "host:65536", "host:-1", "host:1x", "::1:80",
                          "[::1]", "[::1:80", "ho st:1", "host:000001"}) {
    EXPECT_EQ(ParseHostPort(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(HostPortTest, LoopbackIsToldFromWhatOthersCanReach) {
  for (const char* address : {"127.0.0.1", "127.0.0.1:80", "127.8.0.9:1", "[::1]", "::1",
                              "[::1]:80", "localhost", "localhost:80", "[::ffff:127.0.0.1]:80"}) {
    EXPECT_TRUE(IsLoopback(address)) << address;
    EXPECT_FALSE(IsWildcard(address)) << address;
  }
  for (const char* address : {"", "10.0.0.1:80", "127.example.net:80", "localhost.example.net",
                              "[fd00::1]:80", "1127.0.0.1", "unix:/run/ferryd.sock"}) {
    EXPECT_FALSE(IsLoopback(address)) << address;
    EXPECT_FALSE(IsWildcard(address)) << address;
  }
}

TEST(HostPortTest, WildcardsAreTold) {
  for (const char* address :
       {"0.0.0.0", "0.0.0.0:80", "[::]", "[::]:80", "[0:0:0:0:0:0:0:0]:80", "[::ffff:0.0.0.0]:1"}) {
    EXPECT_TRUE(IsWildcard(address)) << address;
    EXPECT_FALSE(IsLoopback(address)) << address;
  }
}

}  // namespace
}  // namespace ferry
