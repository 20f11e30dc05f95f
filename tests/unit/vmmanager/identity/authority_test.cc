#include "vmmanager/identity/authority.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/x509_vfy.h>

#include <ctime>

#include "vmmanager/identity/certificate.h"

namespace ferry::identity {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What OpenSSL thinks of a certificate for that use, at that time; X509_V_OK if it is good.
int Verify(const std::string& authority, const std::string& certificate, int purpose,
           time_t when = ::time(nullptr)) {
  auto root = ParseCertificate(authority);
  auto leaf = ParseCertificate(certificate);
  X509_STORE* store = X509_STORE_new();
  X509_STORE_add_cert(store, root->get());
  X509_STORE_CTX* context = X509_STORE_CTX_new();
  X509_STORE_CTX_init(context, store, leaf->get(), nullptr);
  X509_STORE_CTX_set_purpose(context, purpose);
  X509_STORE_CTX_set_time(context, 0, when);
  X509_verify_cert(context);
  const int result = X509_STORE_CTX_get_error(context);
  X509_STORE_CTX_free(context);
  X509_STORE_free(store);
  return result;
}

class AuthorityTest : public testing::Test {
 protected:
  KeyAndCertificate authority_ = *MakeAuthority("Ferry CA", 1000 * 86'400);

  static CertificateOrder Order(const std::string& name, Roles roles) {
    CertificateOrder order;
    order.name = name;
    order.roles = roles;
    return order;
  }
};

TEST_F(AuthorityTest, AHostsCertificateServesAndCalls) {
  CertificateOrder order = Order("host-a", {Role::kPeer});
  order.addresses = {"DNS:host-a.example.net", "IP:192.0.2.1", "IP:fd00::1"};
  order.lifetime = 10 * 86'400;
  auto issued = Issue(authority_, order);
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_EQ(Verify(authority_.certificate, issued->certificate, X509_PURPOSE_SSL_SERVER),
            X509_V_OK);
  EXPECT_EQ(Verify(authority_.certificate, issued->certificate, X509_PURPOSE_SSL_CLIENT),
            X509_V_OK);
  auto certificate = ParseCertificate(issued->certificate);
  ASSERT_TRUE(certificate.ok());
  const CertificateInfo info = Describe(certificate->get());
  EXPECT_EQ(info.common_name, "host-a");
  EXPECT_EQ(info.issuer, "Ferry CA");
  EXPECT_FALSE(info.is_authority);
  EXPECT_THAT(info.names, ElementsAre("DNS:host-a.example.net", "IP:192.0.2.1", "IP:fd00::1",
                                      "URI:ferry://host-a/peer"));
  EXPECT_LE(info.not_before, ::time(nullptr));
  EXPECT_NEAR(static_cast<double>(info.not_after - ::time(nullptr)), 10 * 86'400.0, 60.0);
  EXPECT_EQ(IdentityOf(certificate->get())->name, "host-a");
  auto key = ParsePrivateKey(issued->key);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(X509_check_private_key(certificate->get(), key->get()), 1);
}

TEST_F(AuthorityTest, APersonsCertificateCannotServe) {
  auto issued = Issue(authority_, Order("alice", {Role::kOperator, Role::kViewer}));
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_EQ(Verify(authority_.certificate, issued->certificate, X509_PURPOSE_SSL_CLIENT),
            X509_V_OK);
  EXPECT_EQ(Verify(authority_.certificate, issued->certificate, X509_PURPOSE_SSL_SERVER),
            X509_V_ERR_INVALID_PURPOSE);
}

TEST_F(AuthorityTest, CertificatesEndAndDoNotSignOthers) {
  CertificateOrder order = Order("old", {Role::kAdmin});
  order.lifetime = -60;
  auto expired = Issue(authority_, order);
  ASSERT_TRUE(expired.ok()) << expired.status();
  EXPECT_EQ(Verify(authority_.certificate, expired->certificate, X509_PURPOSE_SSL_CLIENT),
            X509_V_ERR_CERT_HAS_EXPIRED);
  auto leaf = Issue(authority_, Order("leaf", {Role::kPeer}));
  auto below = Issue(*leaf, Order("below", {Role::kAdmin}));
  ASSERT_TRUE(below.ok());
  EXPECT_NE(Verify(leaf->certificate, below->certificate, X509_PURPOSE_SSL_CLIENT), X509_V_OK);
  const auto other = MakeAuthority("Ferry CA", 86'400);
  EXPECT_NE(Verify(other->certificate, leaf->certificate, X509_PURPOSE_SSL_CLIENT), X509_V_OK);
}

TEST_F(AuthorityTest, NothingOutlivesItsAuthority) {
  const KeyAndCertificate brief = *MakeAuthority("Ferry CA", 86'400);
  CertificateOrder order = Order("host-a", {Role::kPeer});
  order.lifetime = 2 * 86'400;
  const absl::Status refused = Issue(brief, order).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("would outlive its authority"));
  order.lifetime = 86'000;
  EXPECT_TRUE(Issue(brief, order).ok());
}

TEST_F(AuthorityTest, ANameIsTakenWholeOrNotAtAll) {
  const std::string longest(64, 'n');
  auto issued = Issue(authority_, Order(longest, {Role::kPeer}));
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_EQ(Describe(ParseCertificate(issued->certificate)->get()).common_name, longest);
  EXPECT_EQ(Issue(authority_, Order(longest + "n", {Role::kPeer})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeAuthority(longest + "n", 86'400).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(AuthorityTest, ValidityHasABeginningAndAnEnd) {
  CertificateInfo info;
  info.not_before = 100;
  info.not_after = 200;
  EXPECT_EQ(ValidityAt(info, 99), Validity::kNotYetValid);
  EXPECT_EQ(ValidityAt(info, 100), Validity::kValid);
  EXPECT_EQ(ValidityAt(info, 200), Validity::kValid);
  EXPECT_EQ(ValidityAt(info, 201), Validity::kExpired);
}

TEST_F(AuthorityTest, WhatIsNoCertificateIsAnErrorThatNamesTheFile) {
  for (const char* path : {"/nowhere", "/dev/null"}) {
    const absl::Status status = DescribeFile(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST_F(AuthorityTest, BadOrdersAreRefused) {
  for (const char* address : {"host-a", "DNS:", "DNS:*.example.net", "DNS:a,URI:ferry://x/admin",
                              "IP:300.0.0.1", "IP:host-a", "URI:ferry://x/admin", "DNS:a b"}) {
    CertificateOrder order = Order("host-a", {Role::kPeer});
    order.addresses = {address};
    EXPECT_EQ(Issue(authority_, order).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
  for (const char* name : {"", "a/b", "../a", "a,b", "a b", "-a"}) {
    EXPECT_EQ(Issue(authority_, Order(name, {Role::kPeer})).status().code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
  KeyAndCertificate mixed = authority_;
  mixed.key = MakeAuthority("x", 86'400)->key;
  const auto issued = Issue(mixed, Order("host-a", {}));
  EXPECT_THAT(std::string(issued.status().message()), HasSubstr("not that of its certificate"));
}

}  // namespace
}  // namespace ferry::identity
