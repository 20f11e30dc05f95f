// A person decides about a VM that is in doubt, without the destination's word.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

constexpr auto kRunHere = v1::FORCED_DECISION_RUN_HERE;
constexpr auto kGiveUp = v1::FORCED_DECISION_GIVE_UP;

class ForcingTest : public DrivenTest {
 protected:
  // A migration whose source is committed and hears nothing more: its questions wait, and the
  // destination is just being told to run the VM.
  std::string MigrateIntoDoubt() {
    a_.deps->limits.release = milliseconds(5);
    a_.deps->limits.ask_again = milliseconds(5);
    peer_->Block("Settle");
    FakeWire& wire = UseWire();
    b_.host.backend.script().Block("FinalizeLiveMigration");
    const std::string id = Migrate();
    Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
    wire.Cut();
    Await(peer_->WaitBlocked("Settle"));
    return id;
  }

  // The same, and the VM runs at the destination already.
  std::string MigrateAndLoseDone() {
    const std::string id = MigrateIntoDoubt();
    b_.host.backend.script().Release("FinalizeLiveMigration");
    Until([&] { return Kinds(b_, id).back() == "RUNNING"; });
    Settle();
    return id;
  }

  absl::StatusOr<v1::RecoverSessionResponse> Recover(
      MigrationHost& host, const std::string& id, const std::string& vm = "",
      v1::ForcedDecision decision = v1::FORCED_DECISION_UNSPECIFIED) {
    v1::RecoverSessionRequest request;
    request.set_session_id(id);
    request.set_force(!vm.empty());
    request.set_vm_name(vm);
    request.set_decision(decision);
    return Await(host.sessions->RecoverSession(std::move(request)));
  }

  // Whether that host's copy executes.
  static bool Runs(MigrationHost& host, const std::string& vm_id) {
    auto vm = host.host.inventory->Find(vm_id);
    return vm.ok() && (*vm)->system() != nullptr && host.host.System(**vm)->Step();
  }

  void ExpectRunsAtSourceOnly(const std::shared_ptr<vm::UtilityVm>& vm, const std::string& id) {
    Settle();
    EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
    EXPECT_EQ(vm->epoch(), 4u);
    EXPECT_TRUE(Runs(a_, vm->id()));
    EXPECT_TRUE(Await(vm->UsableGuest()).ok());
    ExpectEmpty(b_);
    for (MigrationHost* host : {&a_, &b_}) {
      const v1::Session session = Describe(*host, id);
      EXPECT_TRUE(session.done());
      EXPECT_EQ(session.vm_location(), "host-a:1");
      EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED);
    }
    EXPECT_EQ(Describe(a_, id).reason(), "forced");
  }

  // The source's daemon dies, and the next one loads what it left.
  void RestartSource() {
    Settle();
    former_ = std::move(a_.sessions);
    a_.sessions = std::make_unique<SessionRegistry>(*a_.deps);
    ASSERT_TRUE(Await(a_.sessions->Load(JournalTrust::kWhole)).ok());
  }
  std::unique_ptr<SessionRegistry> former_;
};

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
  EXPECT_FALSE(Describe(a_, id).done());
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_THAT(Phases(Notifications(a_, id)), testing::Contains(v1::MIGRATION_PHASE_RECOVERY_DONE));
  EXPECT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Recover(a_, id, "web", kGiveUp).status()));

  peer_->Release("Settle");
  Wait(a_, id);
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
  Wait(a_, "s1");
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
  Wait(a_, id);
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, ACopyThatWasNeverGrantedIsRefused) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok()) << go.status();
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  Wait(a_, "s1");
  Wait(b_, "s1");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  ExpectRunsAtSourceOnly(vm, "s1");
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  ExpectRunsAtSourceOnly(vm, "s1");
}

TEST_F(ForcingTest, ACopyThatIsJustBeingToldToRunEndsAsWell) {
  auto vm = Boot();
  const std::string id = MigrateIntoDoubt();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  Settle();
  EXPECT_EQ(Kinds(b_, id).back(), "GRANTED");
  b_.host.backend.script().Release("FinalizeLiveMigration");
  Wait(a_, id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, ACopyThatCouldNotBeToldToRunEndsAsWell) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "GRANTED");
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  Wait(a_, "s1");
  EXPECT_EQ(Kinds(b_, "s1").back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, "s1");
}

TEST_F(ForcingTest, AStaleCopyThatDoesNotEndIsToldAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  b_.host.backend.script().FailNext("Terminate", absl::InternalError("not now"));
  peer_->Release("Settle");
  Wait(a_, id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, ADestinationThatCannotWriteItIsToldAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  FailAppend(b_, "SUPERSEDED");
  peer_->Release("Settle");
  Wait(a_, id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, AMereRecordAtTheDestinationIsSettledTheSame) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Cleanup(b_, id).ok());
  ASSERT_TRUE(absl::IsNotFound(b_.sessions->Find(id).status()));
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  Wait(a_, id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, AVmThatMovedOnFromThereTakesAPerson) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Await(b_.host.inventory->Forget(vm->id(), "host-c:1")).ok());
  peer_->Release("Settle");
  Until([&] { return Describe(a_, id).error().find("ended by hand") != std::string::npos; });
  EXPECT_FALSE(Describe(a_, id).done());
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
  EXPECT_TRUE(Runs(a_, vm->id()));
  EXPECT_TRUE(b_.host.System(*there)->Step());
  peer_->Block("Settle");
  Await(peer_->WaitBlocked("Settle"));
  EXPECT_TRUE(Await(there->Stop(true, milliseconds(0))).ok());
}

TEST_F(ForcingTest, AVmThatIsBeingMovedOnIsNotTouched) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(there->OpenMigration("another", "host-c:1").ok());
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  Until([&] { return Describe(a_, id).error().find("another") != std::string::npos; });
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
  EXPECT_TRUE(Runs(b_, vm->id()));
  there->ReturnFromMigration(there->epoch());
  Wait(a_, id);
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
  Wait(a_, id);
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, IsToldAfterARestartWithoutTouchingTheVmAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Await(vm->Pause()).ok());
  RestartSource();
  EXPECT_TRUE(a_.sessions->Claims().empty());
  EXPECT_FALSE(Describe(a_, id).done());
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  Wait(a_, id);
  EXPECT_EQ(Kinds(a_, id).back(), "FORCED");
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  ASSERT_TRUE(Await(vm->Resume()).ok());
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, IsToldAfterARestartAlsoWhereANewerSessionHasTheVm) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  ASSERT_TRUE(Export("newer").ok());
  RestartSource();
  const auto claims = a_.sessions->Claims();
  ASSERT_EQ(claims.size(), 1u);
  EXPECT_EQ(claims.at(vm->id()).session_id, "newer");
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  Wait(a_, id);
  Wait(a_, "newer");
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  EXPECT_EQ(Kinds(a_, "newer").back(), "ABORT");
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
  RestartSource();
  const auto claims = a_.sessions->Claims();
  ASSERT_EQ(claims.size(), 1u);
  EXPECT_EQ(claims.at(vm->id()).kind, vm::AdoptionClaim::Kind::kInDoubt);
  a_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_TRUE(Finish(forced).ok());
  Await(a_.sessions->Recover());
  peer_->Release("Settle");
  Wait(a_, id);
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(ForcingTest, AStaleCopyIsEndedByARestartedDaemonIfItWasOnlyWritten) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  // The destination's daemon dies as soon as SUPERSEDED is written.
  AsyncEvent never(io_.get_executor());
  auto there = *b_.host.inventory->Find("web");
  HoldAppend(b_, "SUPERSEDED", never);
  peer_->Release("Settle");
  Until([&] { return there->system() == nullptr; });
  Settle();
  vm::JournalRecord written = b_.host.store.journal().back();
  written.kind = "SUPERSEDED";
  b_.host.store.before_append = nullptr;
  ASSERT_TRUE(Await(b_.host.store.Append(written, {})).ok());
  SessionRegistry restarted(*b_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  EXPECT_FALSE(restarted.Describe(id)->done());
  EXPECT_EQ(restarted.Claims().at(vm->id()).kind, vm::AdoptionClaim::Kind::kOwner);
  Await(restarted.Recover());
  Until([&] { return restarted.Describe(id)->done(); });
  Settle();
  EXPECT_EQ(restarted.Describe(id)->reason(), "superseded");
  ExpectEmpty(b_);
  never.Set();
  Wait(a_, id);
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
