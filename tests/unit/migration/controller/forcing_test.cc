// A person decides about a VM that is in doubt, without the destination's word.
#include "tests/unit/migration/controller/forcing_fixture.h"

namespace ferry::migration {
namespace {

TEST_F(ForcingTest, ShowsWhatBothSidesKnowAndTheRisk) {
  auto vm = Boot();
  const std::string id = MigrateIntoDoubt();
  const auto answer = Recover(a_, id);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->sides_size(), 2);
  const v1::SessionKnowledge& source = answer->sides(0);
  EXPECT_EQ(source.address(), "host-a:1");
  EXPECT_EQ(source.vm_state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_EQ(source.journal(source.journal_size() - 1).record(), "COMMIT");
  EXPECT_EQ(source.journal(source.journal_size() - 1).epoch(), 2u);
  EXPECT_THAT(source.next(), HasSubstr("host-b:1 is asked"));
  const v1::SessionKnowledge& destination = answer->sides(1);
  EXPECT_EQ(destination.address(), "host-b:1");
  EXPECT_EQ(destination.origin(), v1::MIGRATION_ORIGIN_DESTINATION);
  EXPECT_EQ(destination.journal(destination.journal_size() - 1).record(), "GRANTED");
  EXPECT_THAT(destination.next(), HasSubstr("is told to run"));
  EXPECT_THAT(answer->risk(), HasSubstr("two running copies"));

  // It works from the other side too, where there is nothing to force.
  const auto there = Recover(b_, id);
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_EQ(there->sides(0).address(), "host-b:1");
  EXPECT_EQ(there->sides(1).address(), "host-a:1");
  EXPECT_EQ(there->risk(), "");
  EXPECT_TRUE(absl::IsFailedPrecondition(Recover(b_, id, "web", kRunHere).status()));
  EXPECT_EQ(Kinds(b_, id).back(), "GRANTED");
  b_.host.backend.script().Release("FinalizeLiveMigration");
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(ForcingTest, ADestinationThatCannotBeAskedIsNamed) {
  Boot();
  const std::string id = MigrateIntoDoubt();
  peer_->FailNext("Recover", absl::UnavailableError("no route to it"));
  const auto answer = Recover(a_, id);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->sides_size(), 2);
  EXPECT_EQ(answer->sides(1).address(), "host-b:1");
  EXPECT_THAT(answer->sides(1).error(), HasSubstr("no route to it"));
  EXPECT_NE(answer->risk(), "");
  b_.host.backend.script().Release("FinalizeLiveMigration");
  peer_->Release("Settle");
  Wait(a_, id);
}

TEST_F(ForcingTest, WithoutTheVmsNameAndADecisionNothingChanges) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  const auto here = Kinds(a_, id);
  const auto there = Kinds(b_, id);
  for (const auto decision : {kRunHere, kGiveUp}) {
    for (const char* name : {"other", "we", "web2", vm->id().c_str()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(Recover(a_, id, name, decision).status())) << name;
    }
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Recover(a_, id, "web").status()));
  v1::RecoverSessionRequest nameless;
  nameless.set_session_id(id);
  nameless.set_force(true);
  nameless.set_decision(kRunHere);
  EXPECT_TRUE(absl::IsInvalidArgument(Await(a_.sessions->RecoverSession(nameless)).status()));

  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_EQ(vm->epoch(), 1u);
  EXPECT_FALSE(Runs(a_, vm->id()));
  EXPECT_TRUE(Runs(b_, vm->id()));
  EXPECT_EQ(Kinds(a_, id), here);
  EXPECT_EQ(Kinds(b_, id), there);
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(ForcingTest, ADecisionThatCannotBeWrittenIsNone) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  for (const auto& [decision, record] : {std::pair(kRunHere, "FORCED"),  //
                                         std::pair(kGiveUp, "GIVEN_UP")}) {
    FailAppend(a_, record);
    EXPECT_FALSE(Recover(a_, id, "web", decision).ok());
    EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
    EXPECT_FALSE(Runs(a_, vm->id()));
    EXPECT_EQ(Kinds(a_, id).back(), "COMMIT");
  }
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(ForcingTest, AReturningDestinationEndsItsStaleCopy) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  std::shared_ptr<vm::ComputeSystem> stale = (*b_.host.inventory->Find("web"))->system();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  // All that either daemon can know as long as they do not hear of each other.
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Runs(a_, vm->id()));
  EXPECT_TRUE(Runs(b_, vm->id()));
  EXPECT_TRUE(Describe(a_, id).done());
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("has yet to be told"));
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_THAT(Phases(Notifications(a_, id)), testing::Contains(v1::MIGRATION_PHASE_RECOVERY_DONE));
  EXPECT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Recover(a_, id, "web", kGiveUp).status()));

  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_THAT(Kinds(a_, id), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "FORCED"));
  EXPECT_THAT(Kinds(b_, id),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING", "SUPERSEDED"));
  ExpectRunsAtSourceOnly(vm, id);
  EXPECT_EQ(static_cast<vm::FakeComputeSystem&>(*stale).state(), schema::SystemState::kStopped);
  EXPECT_EQ(Describe(b_, id).reason(), "superseded");
  EXPECT_EQ(Recover(a_, id)->risk(), "");

  wire_.reset();
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  ExpectMoved(vm, 5);

  // What was long on its way, or is said again, ends nothing of what came back since.
  for (int i = 0; i < 2; ++i) {
    const auto again = SayForced(id);
    EXPECT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(Runs(b_, vm->id()));
    EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
    EXPECT_EQ(Describe(b_, id).reason(), "superseded");
    (void)Cleanup(b_, id);
  }
  ExpectMoved(vm, 5);
}

// The hosts share a fence, so the person's word alone does not make two copies run.
TEST_F(ForcingTest, AFenceThatTheStaleCopyHoldsIsFreedByTellingIt) {
  b_.host.fence.Share(guests_.claims());
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  const auto refused = Recover(a_, id, "web", kRunHere);
  EXPECT_EQ(rpc::ReasonOf(refused.status()), vm::kFenceHeld) << refused.status();
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_FALSE(Runs(a_, vm->id()));
  EXPECT_TRUE(Runs(b_, vm->id()));
  peer_->Release("Settle");
  Wait(a_, id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, AFenceKeepsAlsoAPausedVmFromBeingForced) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  const std::string id = MigrateAndLoseDone();
  a_.host.fence.refusal = vm::FenceHeld("process 7 holds it", "end process 7");
  EXPECT_EQ(rpc::ReasonOf(Recover(a_, id, "web", kRunHere).status()), vm::kFenceHeld);
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  a_.host.fence.refusal = absl::OkStatus();
  EXPECT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  peer_->Release("Settle");
  Wait(a_, id);
}

TEST_F(ForcingTest, WhatTheDestinationClaimsLaterIsSuperseded) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok()) << go.status();
  auto done = Resume(b_, "s1", *go);
  ASSERT_TRUE(done.ok()) << done.status();
  peer_->Block("Settle");
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  Await(peer_->WaitBlocked("Settle"));

  const absl::Status released = Stop(a_, "s1", *done).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(released)) << released;
  EXPECT_THAT(released.message(), HasSubstr("superseded"));
  EXPECT_EQ(Kinds(a_, "s1").back(), "FORCED");
  EXPECT_TRUE(Runs(a_, vm->id()));

  peer_->Release("Settle");
  AwaitTold("s1");
  ExpectRunsAtSourceOnly(vm, "s1");
  // Neither an old GO nor an old DONE brings the copy there back to life.
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  EXPECT_FALSE(Resume(b_, "s1").ok());
  auto refused = Stop(b_, "s1", *done);
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_NE(*refused, *done);
  EXPECT_FALSE(Stop(a_, "s1", *done).ok());
  ExpectRunsAtSourceOnly(vm, "s1");
}

TEST_F(ForcingTest, ADoneThatIsOnItsWayComesTooLate) {
  auto vm = Boot();
  peer_->Block("Settle answer");
  const std::string id = MigrateAndLoseDone();
  // The destination answers the GO with DONE, and the source hears it after it was forced.
  peer_->Release("Settle");
  Await(peer_->WaitBlocked("Settle answer"));
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle answer");
  AwaitTold(id);
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, AVmThatCannotBeToldToRunIsTriedAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  a_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  a_.host.backend.script().FailNext("Resume", absl::InternalError("not yet either"));
  EXPECT_FALSE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_TRUE(Runs(a_, vm->id()));
  peer_->Release("Settle");
  AwaitTold(id);
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, IsCarriedOutByARestartedDaemonIfItWasOnlyWritten) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  a_.host.backend.script().Block("FinalizeLiveMigration");
  v1::RecoverSessionRequest force;
  force.set_session_id(id);
  force.set_force(true);
  force.set_vm_name("web");
  force.set_decision(kRunHere);
  auto forced = Begin(a_.sessions->RecoverSession(force));
  Await(a_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  Reload(a_);
  const auto claims = a_.sessions->Claims();
  ASSERT_EQ(claims.size(), 1u);
  EXPECT_EQ(claims.at(vm->id()).kind, vm::AdoptionClaim::Kind::kInDoubt);
  a_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_TRUE(Finish(forced).ok());
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  AwaitTold(id);
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, GivingUpEndsTheCopyHere) {
  auto vm = Boot();
  const std::string id = MigrateIntoDoubt();
  std::shared_ptr<vm::ComputeSystem> here = vm->system();
  ASSERT_TRUE(Recover(a_, id, "web", kGiveUp).ok());
  EXPECT_EQ(Kinds(a_, id).back(), "GIVEN_UP");
  const v1::Session session = Describe(a_, id);
  EXPECT_TRUE(session.done());
  EXPECT_EQ(session.reason(), "given_up");
  EXPECT_EQ(static_cast<vm::FakeComputeSystem&>(*here).state(), schema::SystemState::kStopped);
  ExpectEmpty(a_);
  EXPECT_FALSE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_FALSE(Resume(a_, id).ok());

  b_.host.backend.script().Release("FinalizeLiveMigration");
  peer_->Release("Settle");
  Until([&] { return Kinds(b_, id).back() == "RUNNING"; });
  Settle();
  EXPECT_EQ(Kinds(a_, id).back(), "GIVEN_UP");
  EXPECT_TRUE(Runs(b_, vm->id()));
}

TEST_F(ForcingTest, WhatIsNotInDoubtCannotBeForced) {
  auto vm = Boot();
  const std::string id = Migrate();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  for (const auto decision : {kRunHere, kGiveUp}) {
    const auto forced = Recover(a_, id, "web", decision);
    EXPECT_TRUE(absl::IsFailedPrecondition(forced.status())) << forced.status();
  }
  EXPECT_TRUE(absl::IsNotFound(Recover(a_, "no-such-session").status()));
  EXPECT_EQ(Kinds(a_, id).back(), "RELEASED");
  ExpectMoved(vm, 2);
}

TEST_F(ForcingTest, BeforeCommitThereIsNothingToForce) {
  auto vm = Boot();
  TransferBoth("s1");
  for (const auto decision : {kRunHere, kGiveUp}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(Recover(a_, "s1", "web", decision).status()));
  }
  EXPECT_EQ(Recover(a_, "s1")->risk(), "");
  EXPECT_EQ(Kinds(a_, "s1").back(), "QUIESCED");
  ASSERT_TRUE(Resume(a_, "s1").ok());
}

}  // namespace
}  // namespace ferry::migration
