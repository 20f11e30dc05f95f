// After COMMIT: only the destination's word counts, by whatever way it comes, and only once.
#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

class DoubtTest : public ControllerTest {
 protected:
  // The connection breaks in the very moment in which COMMIT is written.
  void CutAtCommit(FakeWire& wire) {
    a_.host.store.before_append = [&wire](vm::JournalRecord record) {
      if (record.kind == "COMMIT") wire.Cut();
      return Succeed();
    };
  }
  static Task<absl::Status> Succeed() { co_return absl::OkStatus(); }
};

TEST_F(DoubtTest, LostDoneIsAskedForAgain) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(20);
  FakeWire& wire = UseWire();
  b_.host.backend.script().Block("FinalizeLiveMigration");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  wire.Cut();
  Settle();
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  b_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_THAT(Kinds(b_, id),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING"));
}

TEST_F(DoubtTest, LostGoIsOfferedAgain) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(20);
  a_.deps->limits.ask_again = milliseconds(5);
  peer_->FailNext("Settle", absl::UnavailableError("no answer"));
  CutAtCommit(UseWire());
  const std::string id = Migrate();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
}

TEST_F(DoubtTest, ARefusalThatCannotBeWrittenIsTriedAgain) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(20);
  b_.deps->limits.decision = milliseconds(20);
  peer_->Block("Settle");
  FailAppend(b_, "REFUSED");
  CutAtCommit(UseWire());
  const std::string id = Migrate();
  Until([&] { return Kinds(b_, id).size() > 3 && Kinds(b_, id).back() == "REFUSED"; });
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-a:1");
  ExpectRolledBack(vm);
}

TEST_F(DoubtTest, RefusedAfterCommitGivesTheVmBack) {
  auto vm = Boot();
  a_.host.System(*vm)->Step(4);
  a_.deps->limits.release = milliseconds(20);
  b_.deps->limits.decision = milliseconds(20);
  peer_->Block("Settle");
  CutAtCommit(UseWire());
  const std::string id = Migrate();
  Until([&] { return Kinds(b_, id).size() > 3 && Kinds(b_, id).back() == "REFUSED"; });
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  peer_->Release("Settle");
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.vm_location(), "host-a:1");
  EXPECT_THAT(session.error(), HasSubstr("refused"));
  EXPECT_THAT(Kinds(a_, id), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RECLAIMED"));
  ExpectRolledBack(vm);
  EXPECT_EQ(vm->epoch(), 3u);
  EXPECT_EQ(a_.host.System(*vm)->counter(), 5u);
  wire_.reset();
  a_.host.store.before_append = nullptr;
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  ExpectMoved(vm, 4);
}

TEST_F(DoubtTest, UsersOfTheVmWaitForTheOutcome) {
  auto vm = Boot();
  b_.host.backend.script().Block("FinalizeLiveMigration");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  auto here = Begin(vm->UsableGuest());
  auto there = Begin((*b_.host.inventory->Find("web"))->UsableGuest());
  Settle();
  EXPECT_FALSE(here->has_value());
  EXPECT_FALSE(there->has_value());
  b_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_THAT(Finish(here).status().message(), HasSubstr("moved to host-b:1"));
  EXPECT_TRUE(Finish(there).ok());
  Wait(a_, id);
}

TEST_F(DoubtTest, GoThatComesTwiceTakesEffectOnce) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(5);
  b_.host.backend.script().Block("FinalizeLiveMigration");
  peer_->Block("Settle");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  // The source asks again while the first GO is still taking effect.
  Await(peer_->WaitBlocked("Settle"));
  peer_->Release("Settle");
  Settle();
  b_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_EQ(Describe(b_, id).error(), "");
  EXPECT_THAT(Kinds(a_, id), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RELEASED"));
  EXPECT_THAT(Kinds(b_, id),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING"));
}

TEST_F(DoubtTest, ResumeAtTheDestinationThatFailsIsTriedAgain) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(5);
  a_.deps->limits.ask_again = milliseconds(5);
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  const std::string id = Migrate();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

}  // namespace
}  // namespace ferry::migration
