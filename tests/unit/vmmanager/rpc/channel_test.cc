#include "vmmanager/rpc/channel.h"

#include <gtest/gtest.h>

namespace ferry::rpc {
namespace {

TEST(ParseAddress, ReadsTheThreeForms) {
  EXPECT_EQ(ParseAddress("unix:/run/ferry/ferryd.sock")->path, "/run/ferry/ferryd.sock");
  EXPECT_EQ(ParseAddress("unix:///run/x.sock")->ToString(), "unix:/run/x.sock");
  const Address name = *ParseAddress("host-b:7700");
  EXPECT_EQ(name.host, "host-b");
  EXPECT_EQ(name.port, 7700);
  const Address v6 = *ParseAddress("[fd00::1]:7700");
  EXPECT_EQ(v6.host, "fd00::1");
  EXPECT_EQ(v6.ToString(), "[fd00::1]:7700");
}

TEST(ParseAddress, RefusesEverythingElse) {
  for (const char* text :
       {"", "host", "host:", "host:x", "host:70000", "host:-1", ":7700", "fd00::1:7700",
        "[fd00::1:7700", "unix:relative", "unix:", "http://host:80"}) {
    EXPECT_EQ(ParseAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseAddress("unix:/" + std::string(200, 'x')).ok());
}

TEST(Credentials, NeedAllThreeReadableFiles) {
  TlsFiles partial;
  partial.ca = "/nonexistent/ca.pem";
  EXPECT_FALSE(MakeChannel("host:1", partial).ok());
  const TlsFiles missing{"/nonexistent/ca.pem", "/nonexistent/cert.pem", "/nonexistent/key.pem"};
  EXPECT_FALSE(MakeChannel("host:1", missing).ok());
  EXPECT_TRUE(MakeChannel("unix:/run/x.sock", TlsFiles()).ok());
}

}  // namespace
}  // namespace ferry::rpc
