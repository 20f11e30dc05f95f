#include "bridge/guest/resolver.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace ferry::bridge {
namespace {

CardNames NamesOf(const std::string& interface, const std::vector<std::string>& servers,
                  const std::string& domain = "") {
  CardNames names;
  names.interface = interface;
  for (const std::string& server : servers) names.servers.push_back(*net::ParseIp(server));
  names.domain = domain;
  return names;
}

TEST(ResolverTest, ServersComeInTheOrderOfTheCards) {
  EXPECT_EQ(ResolverText({NamesOf("eth0", {"192.0.2.2", "2001:db8::2"}, "example.org"),
                          NamesOf("eth1", {"192.0.2.2", "fe80::1"}, "example.net")}),
            "search example.org example.net\n"
            "nameserver 192.0.2.2\n"
            "nameserver 2001:db8::2\n"
            "nameserver fe80::1%eth1\n");
}

TEST(ResolverTest, ThereAreNoMoreThanAreAsked) {
  EXPECT_EQ(ResolverText({NamesOf("eth0", {"192.0.2.2", "192.0.2.3"}),
                          NamesOf("eth1", {"192.0.2.4", "192.0.2.5"})}),
            "nameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n");
}

TEST(ResolverTest, WithoutAServerThereIsNothingToSay) {
  EXPECT_EQ(ResolverText({}), "");
  EXPECT_EQ(ResolverText({NamesOf("eth0", {}, "example.org")}), "");
}

TEST(ResolverTest, TheFileIsReplaced) {
  char folder[] = "/tmp/ferry-resolver-XXXXXX";
  const std::string path = std::string(mkdtemp(folder)) + "/resolv.conf";
  for (const std::string& text : {std::string("nameserver 192.0.2.2\n"), std::string()}) {
    ASSERT_TRUE(WriteResolver(path, text).ok());
    std::ifstream file(path);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), text);
  }
  std::filesystem::remove_all(folder);
  const absl::Status gone = WriteResolver(path, "");
  EXPECT_NE(std::string(gone.message()).find(path), std::string::npos) << gone;
}

}  // namespace
}  // namespace ferry::bridge
