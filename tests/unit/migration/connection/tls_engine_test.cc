#include "migration/connection/tls_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/vmmanager/identity/test_authority.h"
#include "vmmanager/identity/certificate.h"

namespace ferry::migration {
namespace {

using testing::HasSubstr;
using ContextPtr = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;

ContextPtr ContextOf(const identity::TlsFiles& files) {
  ContextPtr context(SSL_CTX_new(TLS_method()), SSL_CTX_free);
  EXPECT_EQ(SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str()), 1);
  EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM), 1);
  EXPECT_EQ(SSL_CTX_load_verify_locations(context.get(), files.ca.c_str(), nullptr), 1);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return context;
}

class TlsEngineTest : public testing::Test {
 protected:
  void Make(const std::string& expected = "localhost") {
    client_ = *TlsEngine::MakeClient(client_context_.get(), expected);
    server_ = *TlsEngine::MakeServer(server_context_.get());
  }

  // Moves what one side has for the other.
  static void Carry(TlsEngine& from, TlsEngine& to) {
    std::string output;
    from.TakeOutput(output);
    Give(to, output);
  }

  static void Give(TlsEngine& to, std::string_view bytes) {
    const std::span<char> space = to.Space();
    ASSERT_GE(space.size(), bytes.size());
    std::copy_n(bytes.data(), bytes.size(), space.data());
    to.Received(bytes.size());
  }

  // The results of both sides when neither can go on.
  std::pair<absl::StatusOr<bool>, absl::StatusOr<bool>> ShakeHands() {
    absl::StatusOr<bool> client = false;
    absl::StatusOr<bool> server = false;
    for (int round = 0; round < 4; ++round) {
      if (client.ok() && !*client) client = client_->Handshake();
      Carry(*client_, *server_);
      if (server.ok() && !*server) server = server_->Handshake();
      Carry(*server_, *client_);
    }
    return {client, server};
  }

  void Establish() {
    Make();
    const auto [client, server] = ShakeHands();
    ASSERT_TRUE(client.ok() && *client) << client.status();
    ASSERT_TRUE(server.ok() && *server) << server.status();
  }

  identity::TestAuthority authority_;
  ContextPtr client_context_ = ContextOf(authority_.Issue("client", {identity::Role::kPeer}));
  ContextPtr server_context_ = ContextOf(authority_.Issue("server", {identity::Role::kPeer}));
  std::unique_ptr<TlsEngine> client_;
  std::unique_ptr<TlsEngine> server_;
};

TEST_F(TlsEngineTest, BothLearnWhomTheyTalkTo) {
  Establish();
  ASSERT_NE(client_->peer_certificate(), nullptr);
  EXPECT_EQ(identity::IdentityOf(client_->peer_certificate())->name, "server");
  EXPECT_EQ(identity::IdentityOf(server_->peer_certificate())->name, "client");
}

TEST_F(TlsEngineTest, AnAddressCanBeExpectedToo) {
  Make("127.0.0.1");
  const auto [client, server] = ShakeHands();
  EXPECT_TRUE(client.ok() && *client) << client.status();
}

TEST_F(TlsEngineTest, AnAddressMayHaveAZone) {
  identity::CertificateOrder order;
  order.name = "server";
  order.roles = {identity::Role::kPeer};
  order.addresses = {"IP:fe80::1"};
  order.lifetime = 3'600;
  server_context_ = ContextOf(authority_.Issue(order));
  Make("fe80::1%eth0");
  const auto [client, server] = ShakeHands();
  EXPECT_TRUE(client.ok() && *client) << client.status();
}

TEST_F(TlsEngineTest, AServerOfAnotherNameIsRefusedAndTold) {
  for (const char* expected : {"elsewhere", "127.0.0.2"}) {
    Make(expected);
    const auto [client, server] = ShakeHands();
    EXPECT_THAT(client.status().message(), HasSubstr("mismatch")) << expected;
    EXPECT_FALSE(server.ok()) << expected;
  }
}

TEST_F(TlsEngineTest, SomebodyMustBeExpected) {
  EXPECT_TRUE(absl::IsInvalidArgument(TlsEngine::MakeClient(client_context_.get(), "").status()));
}

TEST_F(TlsEngineTest, StrangersAreRefused) {
  identity::TestAuthority other;
  client_context_ = ContextOf(other.Issue("client", {identity::Role::kPeer}));
  Make();
  const auto [client, server] = ShakeHands();
  EXPECT_FALSE(client.ok() && server.ok());
}

TEST_F(TlsEngineTest, WhatIsNoTlsIsRefused) {
  Make();
  ASSERT_FALSE(*server_->Handshake());
  Give(*server_, "GET / HTTP/1.1\r\n\r\n");
  EXPECT_FALSE(server_->Handshake().ok());
}

TEST_F(TlsEngineTest, ManyRecordsGoAtOnce) {
  Establish();
  std::string plain(256 * 1024, '\0');
  for (size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<char>(i * 31 + i / 977);
  for (TlsEngine* from : {client_.get(), server_.get()}) {
    TlsEngine& to = from == client_.get() ? *server_ : *client_;
    ASSERT_TRUE(from->Encrypt(plain).ok());
    Carry(*from, to);
    std::string received(plain.size() + 1, '\0');
    const auto size = to.Decrypt(std::span<char>(received.data(), received.size()));
    ASSERT_TRUE(size.ok() && size->has_value());
    received.resize(**size);
    EXPECT_EQ(received, plain);
    EXPECT_EQ(*to.Decrypt(std::span<char>(received.data(), 1)), std::nullopt);
  }
}

TEST_F(TlsEngineTest, RecordsMayComeByteByByteAndBeReadSo) {
  Establish();
  const std::string plain(40'000, 'x');
  ASSERT_TRUE(client_->Encrypt(plain).ok());
  std::string wire;
  client_->TakeOutput(wire);
  EXPECT_GT(wire.size(), plain.size());
  std::string received;
  for (const char byte : wire) {
    Give(*server_, std::string_view(&byte, 1));
    char one = 0;
    while (*server_->Decrypt(std::span<char>(&one, 1)) == 1u) received += one;
  }
  EXPECT_EQ(received, plain);
}

TEST_F(TlsEngineTest, ADamagedRecordEndsTheConnectionBehindWhatCameBefore) {
  Establish();
  ASSERT_TRUE(client_->Encrypt("hello").ok());
  ASSERT_TRUE(client_->Encrypt("damaged").ok());
  std::string wire;
  client_->TakeOutput(wire);
  wire.back() = static_cast<char>(wire.back() ^ 1);
  Give(*server_, wire);
  char buffer[16];
  EXPECT_EQ(*server_->Decrypt(buffer), 5u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(std::string(server_->Decrypt(buffer).status().message()),
                HasSubstr("bad record mac"));
  }
}

}  // namespace
}  // namespace ferry::migration
