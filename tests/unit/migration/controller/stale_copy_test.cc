// A destination that learns that the source was forced to run the VM.
#include "tests/unit/migration/controller/forcing_fixture.h"

namespace ferry::migration {
namespace {

class StaleCopyTest : public ForcingTest {};

// Its session is still there, and what is there of the VM is not what it brought.
TEST_F(StaleCopyTest, WhatCameBackIsNotEndedByTheSameWordAgain) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(Resume(b_, "s1", *go).ok());
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  AwaitTold("s1");
  ExpectRunsAtSourceOnly(vm, "s1");
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  ASSERT_TRUE(b_.sessions->Find("s1").ok());
  EXPECT_TRUE(SayForced("s1").ok());
  EXPECT_TRUE(Runs(b_, vm->id()));
  ExpectMoved(vm, 5);
}

// SUPERSEDED is written, and the daemon that goes on with it finds the VM back.
TEST_F(StaleCopyTest, WhatCameBackMeanwhileIsNotTheStaleCopy) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  vm::JournalRecord written = b_.host.store.journal().back();
  written.kind = "SUPERSEDED";
  written.epoch = 4;
  ASSERT_TRUE(Await(b_.host.store.Append(written, {})).ok());
  auto rows = Await(b_.host.store.ListSessions());
  for (vm::SessionRow& row : *rows) {
    row.decided = false;
    v1::Session session = Describe(b_, id);
    session.set_done(false);
    row.session_bytes = session.SerializeAsString();
    ASSERT_TRUE(Await(b_.host.store.PutSession(row)).ok());
  }
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(there->OpenMigration("onward", "host-c:1").ok());
  there->ReturnFromMigration(5);
  SessionRegistry restarted(*b_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  Await(restarted.Recover());
  Until([&] { return restarted.Describe(id)->done(); });
  Settle();
  EXPECT_EQ(restarted.Describe(id)->reason(), "superseded");
  EXPECT_TRUE(Runs(b_, vm->id()));
  peer_->Release("Settle");
  Wait(a_, id);
}

TEST_F(StaleCopyTest, ACopyThatWasNeverGrantedIsRefused) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok()) << go.status();
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  AwaitTold("s1");
  Wait(b_, "s1");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  ExpectRunsAtSourceOnly(vm, "s1");
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  ExpectRunsAtSourceOnly(vm, "s1");
}

// A restarted daemon was trying again and again to run it, and its disk is full just then.
TEST_F(StaleCopyTest, ACopyThatIsTriedAgainAndAgainEndsForGood) {
  auto vm = Boot();
  for (MigrationHost* host : {&a_, &b_}) host->deps->limits.ask_again = milliseconds(5);
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  ASSERT_FALSE(Resume(b_, "s1", *go).ok());
  ASSERT_EQ(Kinds(b_, "s1").back(), "GRANTED");
  b_.host.fence.refusal = vm::FenceHeld("process 7 holds it", "end process 7");
  size_t claims = 0;
  bool full = true;
  b_.host.fence.on_call = [&](const std::string& call) {
    if (call == "claim 2") ++claims;
  };
  b_.host.store.before_delete_vm = [&full](const std::string&) {
    return std::exchange(full, false) ? absl::ResourceExhaustedError("the disk is full")
                                      : absl::OkStatus();
  };
  Restart(b_);
  Until([&] { return claims > 2; });
  peer_->Block("Settle");
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(SayForced("s1").status()));
  EXPECT_FALSE(full);
  EXPECT_EQ(Kinds(b_, "s1").back(), "SUPERSEDED");
  // The source comes in vain as often as it would be tried again here.
  for (int times = 0; times < 4; ++times) {
    Await(peer_->WaitBlocked("Settle"));
    peer_->FailNext("Settle", absl::UnavailableError("not yet"));
    peer_->Release("Settle");
    peer_->Block("Settle");
  }
  EXPECT_THAT(Describe(b_, "s1").error(), HasSubstr("process 7 holds it"));
  peer_->Release("Settle");
  AwaitTold("s1");
  ExpectRunsAtSourceOnly(vm, "s1");
  b_.host.fence.on_call = [](const std::string&) {};
  b_.host.store.before_delete_vm = nullptr;
}

TEST_F(StaleCopyTest, ACopyThatIsJustBeingToldToRunEndsAsWell) {
  auto vm = Boot();
  const std::string id = MigrateIntoDoubt();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  Settle();
  EXPECT_EQ(Kinds(b_, id).back(), "GRANTED");
  b_.host.backend.script().Release("FinalizeLiveMigration");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(StaleCopyTest, ACopyThatCouldNotBeToldToRunEndsAsWell) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "GRANTED");
  ASSERT_TRUE(Recover(a_, "s1", "web", kRunHere).ok());
  AwaitTold("s1");
  EXPECT_EQ(Kinds(b_, "s1").back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, "s1");
}

TEST_F(StaleCopyTest, AStaleCopyThatDoesNotEndIsToldAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  b_.host.backend.script().FailNext("Terminate", absl::InternalError("not now"));
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(StaleCopyTest, ADestinationThatCannotWriteItIsToldAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  FailAppend(b_, "SUPERSEDED");
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(StaleCopyTest, AMereRecordAtTheDestinationIsSettledTheSame) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Cleanup(b_, id).ok());
  ASSERT_TRUE(absl::IsNotFound(b_.sessions->Find(id).status()));
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

// It stands where it stood: a mere record, whose VM this host had been told to run.
TEST_F(StaleCopyTest, AMereRecordThatCouldNotActIsARecordAgain) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  DropRecord(id);
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  AsyncEvent go_on(io_.get_executor());
  FailLater(go_on);
  auto said = Begin(b_.sessions->Settle(ForcedRequest(id), "", MayForce::kYes));
  Until([&] { return b_.sessions->Find(id).ok() && IsHeld(b_, vm->id()); });
  EXPECT_EQ(Describe(b_, id).vm_name(), "web");
  // Somebody repeats a call meanwhile.
  auto resumed = Begin(Session(b_, id)->Finalize(v1::FINALIZE_ACTION_RESUME, ""));
  go_on.Set();
  EXPECT_EQ(Finish(said).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Runs(b_, vm->id()));
  const auto done = Finish(resumed);
  ASSERT_TRUE(done.ok()) << done.status();
  const auto proof = DecodeProof(*done, ForcedRequest(id).plan_sha256());
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_EQ(proof->kind, ProofKind::kDone);
  EXPECT_EQ(proof->epoch, 2u);
  EXPECT_TRUE(absl::IsNotFound(b_.sessions->Find(id).status()));
  EXPECT_TRUE(Describe(b_, id).done());
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");

  b_.host.store.before_append = nullptr;
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  EXPECT_TRUE(absl::IsNotFound(b_.sessions->Find(id).status()));
  ExpectRunsAtSourceOnly(vm);
}

TEST_F(StaleCopyTest, AMereRecordOfAVmThatIsGoneRunsNothing) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  b_.host.store.journal().back().kind = "GRANTED";
  DropRecord(id);
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(Await(there->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(Await(b_.host.inventory->Delete(there)).ok());
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  AsyncEvent go_on(io_.get_executor());
  FailLater(go_on);
  auto said = Begin(b_.sessions->Settle(ForcedRequest(id), "", MayForce::kYes));
  Until([&] { return b_.sessions->Find(id).ok(); });
  Settle();
  auto resumed = Begin(Session(b_, id)->Finalize(v1::FINALIZE_ACTION_RESUME, ""));
  go_on.Set();
  EXPECT_FALSE(Finish(said).ok());
  const absl::Status refused = Finish(resumed).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("not here any more"));
  b_.host.store.before_append = nullptr;
  peer_->Release("Settle");
  AwaitTold(id);
  ExpectRunsAtSourceOnly(vm);
}

TEST_F(StaleCopyTest, OnlyThoseWhoMayForceBringTheWord) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  for (int i = 0; i < 2; ++i) {
    const absl::Status refused = SayForced(id, MayForce::kNo).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied) << refused;
    EXPECT_EQ(rpc::ReasonOf(refused), "role_missing");
    EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
    EXPECT_TRUE(Runs(b_, vm->id()));
    // Nor that of a mere record.
    (void)Cleanup(b_, id);
  }
  EXPECT_TRUE(absl::IsNotFound(b_.sessions->Find(id).status()));
  peer_->Release("Settle");
  AwaitTold(id);
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(StaleCopyTest, AVmThatMovedOnFromThereTakesAPerson) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  WriteOnward(vm->id(), "RELEASED", 3);
  // A restarted daemon may have forgotten where it went, but for its journal.
  ASSERT_TRUE(Await(b_.host.inventory->Forget(vm->id(), "")).ok());
  peer_->Release("Settle");
  Until([&] { return Describe(a_, id).error().find("ended by hand") != std::string::npos; });
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("it went to host-c:1"));
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
  EXPECT_TRUE(Runs(a_, vm->id()));
  EXPECT_TRUE(b_.host.System(*there)->Step());
  EXPECT_TRUE(Cleanup(a_, id).ok());
  EXPECT_TRUE(Await(there->Stop(true, milliseconds(0))).ok());
}

TEST_F(StaleCopyTest, AVmThatIsBeingGivenAwayThereTakesAPerson) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(there->OpenMigration("onward", "host-c:1").ok());
  there->MarkInDoubt();
  WriteOnward(vm->id(), "COMMIT", 3);
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  Until([&] { return Describe(a_, id).error().find("ended by hand") != std::string::npos; });
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("it is being given to host-c:1"));
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
  EXPECT_TRUE(Cleanup(a_, id).ok());
}

TEST_F(StaleCopyTest, AVmThatCameBackThereFromAThirdHostTakesAPerson) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  // Its next host refused it.
  WriteOnward(vm->id(), "COMMIT", 3);
  WriteOnward(vm->id(), "RECLAIMED", 4);
  ASSERT_TRUE(there->OpenMigration("onward", "host-c:1").ok());
  there->ReturnFromMigration(4);
  peer_->Release("Settle");
  Until([&] { return Describe(a_, id).error().find("ended by hand") != std::string::npos; });
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("it runs here, at epoch 4"));
  EXPECT_TRUE(Runs(b_, vm->id()));
  EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
  // Somebody does end it by hand.
  ASSERT_TRUE(Await(there->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(Await(b_.host.inventory->Delete(there)).ok());
  AwaitTold(id);
  ExpectRunsAtSourceOnly(vm, id);
}

// Nothing has changed by that.
TEST_F(StaleCopyTest, AVmWhoseNextMigrationWasCalledOffIsStillTheStaleCopy) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  WriteOnward(vm->id(), "ABORT", 2);
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  peer_->Release("Settle");
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(StaleCopyTest, AVmThatIsBeingMovedOnIsNotTouched) {
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
  AwaitTold(id);
  EXPECT_EQ(Kinds(b_, id).back(), "SUPERSEDED");
  ExpectRunsAtSourceOnly(vm, id);
}

TEST_F(StaleCopyTest, AStaleCopyIsEndedByARestartedDaemonIfItWasOnlyWritten) {
  auto vm = Boot();
  const std::string id = MigrateAndLoseDone();
  ASSERT_TRUE(Recover(a_, id, "web", kRunHere).ok());
  // The destination's daemon dies as soon as SUPERSEDED is written.
  AsyncEvent never(io_.get_executor());
  HoldAppend(b_, "SUPERSEDED", never);
  peer_->Release("Settle");
  Until([&] { return IsHeld(b_, vm->id()); });
  Settle();
  EXPECT_TRUE(Runs(b_, vm->id()));
  vm::JournalRecord written = b_.host.store.journal().back();
  written.kind = "SUPERSEDED";
  b_.host.store.before_append = nullptr;
  ASSERT_TRUE(Await(b_.host.store.Append(written, {})).ok());
  SessionRegistry restarted(*b_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  EXPECT_FALSE(restarted.Describe(id)->done());
  EXPECT_EQ(restarted.Claims().at(vm->id()).kind, vm::AdoptionClaim::Kind::kStale);
  EXPECT_EQ(restarted.Claims().at(vm->id()).stale_epoch, 2u);
  Await(restarted.Recover());
  Until([&] { return restarted.Describe(id)->done(); });
  Settle();
  EXPECT_EQ(restarted.Describe(id)->reason(), "superseded");
  ExpectEmpty(b_);
  never.Set();
  AwaitTold(id);
}

}  // namespace
}  // namespace ferry::migration
