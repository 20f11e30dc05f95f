// A source that was forced goes on telling the destination, though its session is done.
#include "tests/unit/migration/controller/forcing_fixture.h"

namespace ferry::migration {
namespace {

class ForcedTellingTest : public ForcingTest {};

TEST_F(ForcedTellingTest, IsToldAfterARestartWithoutTouchingTheVmAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Await(vm->Pause()).ok());
  Reload(a_);
  EXPECT_TRUE(a_.sessions->Claims().empty());
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  ASSERT_TRUE(Await(vm->Resume()).ok());
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcedTellingTest, IsToldAfterARestartAlsoWhereANewerSessionHasTheVm) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Export("newer").ok());
  Reload(a_);
  const auto claims = a_.sessions->Claims();
  ASSERT_EQ(claims.size(), 1u);
  EXPECT_EQ(claims.at(vm->id()).session_id, "newer");
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  AwaitTold(id);
  Wait(a_, "newer");
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  EXPECT_EQ(Kinds(a_, "newer").back(), "ABORT");
  ExpectRunsAtSourceOnly(vm, id);
}

// The destination is lost for good: whoever waits for the session's end does not wait for that.
TEST_F(ForcedTellingTest, IsDoneAtOnceAndToldUntilItIsCleanedUp) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  auto waiting = Begin(LastPhase(id));
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_EQ(Finish(waiting), v1::MIGRATION_PHASE_RECOVERY_DONE);
  const v1::Session session = Describe(a_, id);
  EXPECT_TRUE(session.done());
  EXPECT_EQ(session.vm_location(), "host-a:1");
  EXPECT_EQ(session.state(), v1::SESSION_STATE_FINALIZED);
  EXPECT_THAT(session.error(), HasSubstr("host-b:1, which has yet to be told"));
  // Across restarts.
  for (int i = 0; i < 2; ++i) {
    Reload(a_);
    EXPECT_TRUE(a_.sessions->Claims().empty());
    Await(a_.sessions->Recover());
    Settle();
    EXPECT_TRUE(a_.sessions->Find(id).ok());
    EXPECT_TRUE(Describe(a_, id).done());
    EXPECT_THAT(Describe(a_, id).error(), HasSubstr("has yet to be told"));
    EXPECT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  }
  ASSERT_TRUE(Cleanup(a_, id).ok());
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("was never told"));
  Reload(a_);
  EXPECT_TRUE(absl::IsNotFound(a_.sessions->Find(id).status()));
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("was never told"));
  EXPECT_TRUE(Runs(a_, vm->id()));
}

TEST_F(ForcedTellingTest, WhatItIsToldIsNotRetired) {
  Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  for (int i = 0; i < 70; ++i) {
    const std::string other = absl::StrCat("other", i);
    ASSERT_TRUE(Export(other).ok());
    ASSERT_TRUE(Resume(a_, other).ok());
  }
  int retired = 0;
  for (int i = 0; i < 70; ++i) {
    if (!a_.sessions->Find(absl::StrCat("other", i)).ok()) ++retired;
  }
  EXPECT_EQ(retired, 5);
  EXPECT_TRUE(a_.sessions->Find(id).ok());
  peer_->Release("Settle");
  AwaitTold(id);
}

TEST_F(ForcedTellingTest, ARepeatedRequestMovesNothingAfterARestart) {
  auto vm = Boot();
  v1::MigrateRequest request = MigrateRequest();
  request.set_request_id("once");
  const std::string id = MigrateIntoDoubt(request);
  b_.host.backend.script().Release("FinalizeLiveMigration");
  Until([&] { return Kinds(b_, id).back() == "RUNNING"; });
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  for (int i = 0; i < 2; ++i) {
    Reload(a_);
    EXPECT_EQ(Describe(a_, id).commit_record(), "FORCED");
    EXPECT_EQ(Migrate(request), id);
    Await(a_.sessions->Recover());
    Settle();
    EXPECT_EQ(Migrate(request), id);
  }
  peer_->Release("Settle");
  AwaitTold(id);
  Reload(a_);
  EXPECT_EQ(Migrate(request), id);
  ExpectRunsAtSourceOnly(vm, id);
}

// Another host has the destination's address by now: that it has no copy says nothing of the one
// that the destination may bring back.
TEST_F(ForcedTellingTest, OnlyTheDestinationItselfEndsTheTelling) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  bool replaced = true;
  MigrationHost fresh(io_.get_executor(), "host-c:1", folder_.Make("c"), guests_, Peers());
  a_.deps->make_peer =
      [&,
       peers = Peers()](const std::string& address) -> absl::StatusOr<std::shared_ptr<PeerClient>> {
    if (!replaced) return peers(address);
    return std::make_shared<FakePeerClient>(*fresh.sessions, fresh_peer_, nullptr);
  };
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  Until([&] { return Describe(a_, id).error().find("another journal") != std::string::npos; });
  EXPECT_EQ(Kinds(fresh, id).back(), "REFUSED");
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("has yet to be told"));
  EXPECT_TRUE(Runs(b_, vm->id()));
  // The real one is back.
  fresh_peer_->Block("Settle");
  Await(fresh_peer_->WaitBlocked("Settle"));
  Reload(a_);
  replaced = false;
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  AwaitTold(id);
  ExpectRunsAtSourceOnly(vm, id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  a_.deps->make_peer = Peers();
  fresh.listener->Close();
  fresh.handoff->Close();
  Await(fresh.host.Stop());
}

}  // namespace
}  // namespace ferry::migration
