#include "migration/connection/handshake.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/unit/migration/connection/session_core_fixture.h"

namespace ferry::migration {
namespace {

TEST_F(SessionCoreTest, HandshakeTellsBothSidesTheOthersJournal) {
  Connect();
  EXPECT_EQ(source_->core.peer_journal_id(), "destination-journal");
  EXPECT_EQ(destination_->core.peer_journal_id(), "source-journal");
  EXPECT_EQ(source_->core.version(), kConnectionVersion);
}

TEST_F(SessionCoreTest, HandshakeRefusalsCarryTheirReason) {
  struct Case {
    HandshakeParams params;
    absl::StatusCode code;
  };
  Case wrong_token{TestParams(Role::kSource), absl::StatusCode::kPermissionDenied};
  wrong_token.params.token[31] ^= 1;
  Case wrong_session{TestParams(Role::kSource), absl::StatusCode::kNotFound};
  wrong_session.params.session_id = "session-2";
  Case short_token{TestParams(Role::kSource), absl::StatusCode::kPermissionDenied};
  short_token.params.token = "t";
  Case wrong_role{TestParams(Role::kSource), absl::StatusCode::kFailedPrecondition};
  wrong_role.params.role = Role::kDestination;
  for (const Case& c : {wrong_token, wrong_session, short_token, wrong_role}) {
    source_ = std::make_unique<End>(Role::kSource, SessionLimits{}, now_);
    destination_ = std::make_unique<End>(Role::kDestination, SessionLimits{}, now_);
    source_->core.SendHello(c.params);
    Run();
    EXPECT_EQ(source_->status.code(), c.code) << source_->status;
    EXPECT_FALSE(source_->core.established());
    EXPECT_FALSE(destination_->core.established());
  }
}

TEST_F(SessionCoreTest, VersionsNegotiateToTheHighestCommonOne) {
  Hello hello;
  hello.session_id = "session-1";
  hello.token = std::string(kSessionTokenSize, 't');
  hello.max_version = kConnectionVersion + 5;
  EXPECT_EQ(NegotiateVersion(hello), kConnectionVersion);
  EXPECT_FALSE(CheckHello(hello, TestParams(Role::kDestination)).has_value());
  hello.min_version = kConnectionVersion + 1;
  const auto refusal = CheckHello(hello, TestParams(Role::kDestination));
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, RefusalReason::kVersion);
  EXPECT_EQ(RefusalToStatus(*refusal).code(), absl::StatusCode::kFailedPrecondition);
}

// A host of release N speaks versions N-1 and N.
TEST_F(SessionCoreTest, HostsOneReleaseApartUseTheOlderOnesVersion) {
  const auto release = [](uint16_t n) {
    SessionLimits limits;
    limits.versions = {static_cast<uint16_t>(n - 1), n};
    return limits;
  };
  struct Case {
    uint16_t source, destination, version;  // 0: refused
  };
  for (const Case& c :
       {Case{3, 3, 3}, Case{3, 2, 2}, Case{2, 3, 2}, Case{4, 2, 0}, Case{2, 4, 0}}) {
    source_ = std::make_unique<End>(Role::kSource, release(c.source), now_);
    destination_ = std::make_unique<End>(Role::kDestination, release(c.destination), now_);
    destination_->versions = release(c.destination).versions;
    source_->core.SendHello(TestParams(Role::kSource));
    Run();
    ASSERT_EQ(source_->core.established(), c.version != 0) << c.source << " and " << c.destination;
    ASSERT_EQ(destination_->core.established(), c.version != 0);
    if (c.version != 0) {
      EXPECT_EQ(source_->core.version(), c.version);
      EXPECT_EQ(destination_->core.version(), c.version);
      ASSERT_TRUE(source_->core.SendMessage({MessageKind::kCut, "cut"}).ok());
      Run();
      EXPECT_EQ(destination_->messages.size(), 1u);
    } else {
      EXPECT_EQ(source_->status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_NE(source_->status.message().find("neighbouring releases"), std::string::npos);
    }
  }
}

TEST_F(SessionCoreTest, AVersionThatWasNotOfferedIsRefused) {
  source_ = std::make_unique<End>(Role::kSource, SessionLimits{}, now_);
  SessionLimits newer;
  newer.versions = {kConnectionVersion + 1, kConnectionVersion + 1};
  destination_ = std::make_unique<End>(Role::kDestination, newer, now_);
  source_->core.SendHello(TestParams(Role::kSource));
  Run();
  EXPECT_FALSE(source_->core.established());
  EXPECT_EQ(source_->status.code(), absl::StatusCode::kFailedPrecondition) << source_->status;
}

TEST_F(SessionCoreTest, HelloCutAnywhereIsRefused) {
  Hello hello;
  hello.session_id = "session-1";
  hello.token = "token";
  hello.journal_id = "journal";
  const std::string payload = EncodeHello(hello);
  for (size_t size = 0; size < payload.size(); ++size) {
    EXPECT_FALSE(DecodeHello(std::string_view(payload).substr(0, size)).ok()) << size;
  }
  const auto extended = DecodeHello(payload + "what a later version adds");
  ASSERT_TRUE(extended.ok());
  EXPECT_EQ(extended->session_id, "session-1");
  EXPECT_EQ(extended->journal_id, "journal");
}

TEST_F(SessionCoreTest, NothingButTheHandshakeIsTakenBeforeIt) {
  for (const FrameType type : {FrameType::kOpen, FrameType::kPing, FrameType::kMessage,
                               FrameType::kData, FrameType::kHelloAck}) {
    End end(Role::kDestination, SessionLimits{}, now_);
    End peer(Role::kSource, SessionLimits{}, now_);
    FrameHeader header;
    header.type = type;
    const auto raw = EncodeHeader(header);
    peer.wire.assign(raw.data(), raw.size());
    Deliver(&peer, &end);
    EXPECT_EQ(end.status.code(), absl::StatusCode::kInvalidArgument) << static_cast<int>(type);
  }
}

}  // namespace
}  // namespace ferry::migration
