// Sessions whose caller died.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

class ExpiryTest : public DrivenTest {
 protected:
  void ExpectExpired(MigrationHost& host, const std::string& id) {
    Until([&] { return Describe(host, id, Quietly::kYes).done(); });
    const v1::Session session = Describe(host, id, Quietly::kYes);
    EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_CANCELLED);
    EXPECT_EQ(session.reason(), "expired");
    EXPECT_THAT(session.error(), HasSubstr("nobody asked about the session for 1 s"));
  }

  // To look at a session by its id counts as asking about it, and to list all does not.
  enum class Quietly { kYes };
  static v1::Session Describe(MigrationHost& host, const std::string& id, Quietly) {
    for (const v1::Session& session : host.sessions->List("")) {
      if (session.session_id() == id) return session;
    }
    return {};
  }

  bool IsState(MigrationHost& host, const std::string& id, v1::SessionState state) {
    return Describe(host, id, Quietly::kYes).state() == state;
  }
};

TEST_F(ExpiryTest, AnExportedSourceRunsOn) {
  auto vm = Boot();
  ASSERT_TRUE(Export("s1", "web", 1).ok());
  ExpectExpired(a_, "s1");
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  ExpectRolledBack(vm);
  TransferBoth("s2");
}

TEST_F(ExpiryTest, AnImportedAndAPreparedDestinationAreGivenUp) {
  Boot();
  Boot("other");
  ASSERT_TRUE(Import("s1", *Export("s1"), 1).ok());
  ASSERT_TRUE(Import("s2", *Export("s2", "other"), 1).ok());
  ASSERT_TRUE(Prepare(b_, "s2").ok());
  ExpectExpired(b_, "s1");
  ExpectExpired(b_, "s2");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(Kinds(b_, "s2").back(), "REFUSED");
  ExpectEmpty(b_);
}

TEST_F(ExpiryTest, ATransferThatNobodyFinalizesGoesBack) {
  auto vm = Boot();
  ASSERT_TRUE(Import("s1", *Export("s1", "web", 1)).ok());
  const auto prepared = *Prepare(b_, "s1");
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", prepared).ok());
  ExpectExpired(a_, "s1");
  // The destination hears of it over the session connection, and why.
  Until([&] { return Describe(b_, "s1", Quietly::kYes).done(); });
  EXPECT_EQ(Describe(b_, "s1", Quietly::kYes).reason(), "expired");
  ExpectRolledBack(vm);
}

TEST_F(ExpiryTest, ADestinationThatNobodyFinalizesGivesTheVmBack) {
  auto vm = Boot();
  ASSERT_TRUE(Import("s1", *Export("s1"), 1).ok());
  const auto prepared = *Prepare(b_, "s1");
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", prepared).ok());
  ExpectExpired(b_, "s1");
  Until([&] { return Describe(a_, "s1", Quietly::kYes).done(); });
  EXPECT_EQ(Describe(a_, "s1", Quietly::kYes).reason(), "expired");
  ExpectRolledBack(vm);
}

TEST_F(ExpiryTest, ACommittedSourceSettlesWithTheDestinationItself) {
  auto vm = Boot();
  ASSERT_TRUE(Import("s1", *Export("s1", "web", 1)).ok());
  const auto prepared = *Prepare(b_, "s1");
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", prepared).ok());
  Until([&] { return IsState(a_, "s1", v1::SESSION_STATE_TRANSFER_COMPLETED); });
  ASSERT_TRUE(Stop(a_, "s1").ok());
  // Its caller dies with the GO in its hands.
  Until([&] { return Describe(a_, "s1", Quietly::kYes).done(); });
  EXPECT_EQ(Describe(a_, "s1", Quietly::kYes).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  ExpectMoved(vm, 2);
}

TEST_F(ExpiryTest, ADestinationThatCannotBeDialledIsTriedAgain) {
  auto vm = Boot();
  a_.deps->limits.ask_again = milliseconds(5);
  int failures = 2;
  a_.deps->make_peer = [&failures, peers = a_.deps->make_peer](const std::string& address) {
    if (failures-- > 0) return decltype(peers(address))(absl::UnavailableError("not now"));
    return peers(address);
  };
  ASSERT_TRUE(Import("s1", *Export("s1", "web", 1)).ok());
  const auto prepared = *Prepare(b_, "s1");
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", prepared).ok());
  Until([&] { return IsState(a_, "s1", v1::SESSION_STATE_TRANSFER_COMPLETED); });
  ASSERT_TRUE(Stop(a_, "s1").ok());
  Until([&] { return Describe(a_, "s1", Quietly::kYes).done(); });
  ExpectMoved(vm, 2);
  EXPECT_LT(failures, 0);
}

TEST_F(ExpiryTest, WhoFollowsASessionKeepsIt) {
  Boot();
  Boot("other");
  ASSERT_TRUE(Export("s1", "web", 1).ok());
  const Notifier::Subscription follows(*Await(a_.sessions->Notifications("s1")));
  // The other one begins later and is gone; so the first one's time is over, too.
  ASSERT_TRUE(Export("s2", "other", 1).ok());
  ExpectExpired(a_, "s2");
  EXPECT_TRUE(IsState(a_, "s1", v1::SESSION_STATE_SOURCE_EXPORTED));
}

TEST_F(ExpiryTest, WhoComesBackInTimeGoesOn) {
  auto vm = Boot();
  Boot("other");
  ASSERT_TRUE(Import("s1", *Export("s1", "web", 1), 1).ok());
  ASSERT_TRUE(Export("s2", "other", 1).ok());
  Until([&] {
    // Asked about again and again, and the other one not.
    (void)a_.sessions->Describe("s1");
    (void)b_.sessions->Describe("s1");
    return Describe(a_, "s2", Quietly::kYes).done();
  });
  EXPECT_TRUE(IsState(a_, "s1", v1::SESSION_STATE_SOURCE_EXPORTED));
  EXPECT_TRUE(IsState(b_, "s1", v1::SESSION_STATE_DESTINATION_IMPORTED));
}

}  // namespace
}  // namespace ferry::migration
