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

}  // namespace
}  // namespace ferry
