#include "vmmanager/identity/certificate_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/vmmanager/identity/test_authority.h"

namespace ferry::identity {
namespace {

using ::testing::HasSubstr;

TEST(CertificateFilesTest, ReplacedFilesAreReadAndOthersAreNot) {
  TestAuthority authority;
  auto files = CertificateFiles::Open(authority.Issue("host", {Role::kPeer}));
  ASSERT_TRUE(files.ok()) << files.status();
  const auto first = (*files)->Current();
  EXPECT_EQ((*files)->Current(), first);
  authority.Issue("host", {Role::kPeer});
  const auto second = (*files)->Current();
  EXPECT_NE(second, first);
  EXPECT_NE(second->cert, first->cert);
  EXPECT_EQ((*files)->Current(), second);
}

TEST(CertificateFilesTest, WhatIsHalfReplacedIsNotUsed) {
  TestAuthority authority;
  const TlsFiles paths = authority.Issue("host", {Role::kPeer});
  auto files = CertificateFiles::Open(paths);
  ASSERT_TRUE(files.ok()) << files.status();
  const auto first = (*files)->Current();
  CertificateOrder order;
  order.name = "host";
  const auto next = Issue(authority.authority(), order);
  ASSERT_TRUE(next.ok());
  authority.Write("host.pem", next->certificate);  // the key is still the former one's
  EXPECT_EQ((*files)->Current(), first);
  authority.Write("host.key", next->key);
  EXPECT_EQ((*files)->Current()->cert, next->certificate);
  const auto second = (*files)->Current();
  std::filesystem::remove(paths.key);
  EXPECT_EQ((*files)->Current(), second);
  authority.Write("host.key", "no key at all");
  EXPECT_EQ((*files)->Current(), second);
}

TEST(CertificateFilesTest, WhatIsWrongIsNamed) {
  TestAuthority authority;
  const TlsFiles good = authority.Issue("host", {Role::kPeer});
  const auto error = [](const TlsFiles& files) {
    return std::string(CertificateFiles::Open(files).status().message());
  };
  TlsFiles bad = good;
  bad.ca = "";
  EXPECT_THAT(error(bad), HasSubstr("all three"));
  bad = good;
  bad.key = authority / "none.key";
  EXPECT_THAT(error(bad), HasSubstr("none.key"));
  bad = good;
  bad.cert = good.key;
  EXPECT_THAT(error(bad), HasSubstr("host.key\": no certificate"));
  bad = good;
  bad.key = authority.Issue("other", {Role::kPeer}).key;
  EXPECT_THAT(error(bad), HasSubstr("is not the key of"));
  authority.Write("text.pem", "hello");
  bad = good;
  bad.ca = authority / "text.pem";
  EXPECT_THAT(error(bad), HasSubstr("is not a PEM file"));
}

}  // namespace
}  // namespace ferry::identity
