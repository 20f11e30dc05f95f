#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

TEST_F(DrivenTest, MovesTheVmWithProofsPassedOnByHand) {
  auto vm = Boot();
  EXPECT_TRUE(Export("s1").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_MIGRATING_OUT);
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_SOURCE_EXPORTED);
  EXPECT_TRUE(Await(vm->UsableGuest()).ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());

  TransferBoth("s2");
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  auto go = Stop(a_, "s2");
  ASSERT_TRUE(go.ok()) << go.status();
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_EQ(Describe(a_, "s2").vm_location(), "in doubt");
  auto done = Resume(b_, "s2", *go);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(State(b_, "s2"), v1::SESSION_STATE_FINALIZED);
  EXPECT_TRUE(Stop(a_, "s2", *done).ok());
  EXPECT_EQ(State(a_, "s2"), v1::SESSION_STATE_FINALIZED);
  ExpectMoved(vm, 2);
  EXPECT_THAT(Kinds(a_, "s2"), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RELEASED"));
}

TEST_F(DrivenTest, ADestinationWhoseVmmDiesAfterItsVoteGivesTheVmBack) {
  auto vm = Boot();
  TransferBoth("s1");
  b_.host.backend.Find(vm->id())->Exit(vm::SystemExit::Cause::kCrashed, "killed");
  Until([&] { return Describe(a_, "s1").done(); });
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  EXPECT_THAT(Describe(a_, "s1").error(), HasSubstr("ended here while it waited for its GO"));
  EXPECT_FALSE(Stop(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, ACancelledDestinationCanBeCleanedUpAtOnce) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  StartTransfer("s1");
  Await(a_.host.backend.script().WaitBlocked("Page"));
  // The source's own abort comes first and takes its time.
  vm::FakeScript& there = b_.host.backend.script();
  there.Block("CancelLiveMigration");
  auto here = Begin(Session(a_, "s1")->Cancel("no more"));
  Await(there.WaitBlocked("CancelLiveMigration"));
  a_.host.backend.script().Release("Page");
  EXPECT_TRUE(Finish(here).ok());
  auto cancelled = Begin(Session(b_, "s1")->Cancel("no more"));
  Settle();
  EXPECT_FALSE(cancelled->has_value());
  there.Release("CancelLiveMigration");
  EXPECT_TRUE(Finish(cancelled).ok());
  EXPECT_TRUE(Cleanup(b_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, AVmmThatDiesOnItsGoIsRefusedAndReclaimed) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  b_.host.backend.Find(vm->id())->Exit(vm::SystemExit::Cause::kCrashed, "killed");
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  Until([&] { return Describe(a_, "s1").done(); });
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  EXPECT_EQ(vm->epoch(), 3u);
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, AVmmThatIsJustDyingIsNotGranted) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  // Its end has not been told yet.
  b_.host.backend.script().FailNext("GetProperties", absl::UnavailableError("gone"));
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  Until([&] { return Describe(a_, "s1").done(); });
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, ACancelThatComesWhileTheVmIsGrantedChangesNothing) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  AsyncEvent written(io_.get_executor());
  HoldAppend(b_, "GRANTED", written);
  auto running = Begin(Session(b_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, *go));
  Settle();
  auto cancelled = Begin(Session(b_, "s1")->Cancel("no more"));
  Settle();
  written.Set();
  auto done = Finish(running);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(Finish(cancelled).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_FINALIZED);
  EXPECT_EQ(Describe(b_, "s1").outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_TRUE(Cleanup(b_, "s1").ok());
  EXPECT_TRUE(Stop(a_, "s1", *done).ok());
  ExpectMoved(vm, 2);
}

TEST_F(DrivenTest, AnImportIsCalledOffOnceItIsThrough) {
  auto vm = Boot();
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  AsyncEvent written(io_.get_executor());
  HoldAppend(b_, "IMPORTED", written);
  v1::ImportSandboxRequest request;
  request.set_session_id("s1");
  request.set_config(*plan);
  auto imported = Begin(b_.sessions->Import(request));
  Settle();
  auto cancelled = Begin(Session(b_, "s1")->Cancel("no more"));
  Settle();
  EXPECT_EQ(Cleanup(b_, "s1").code(), absl::StatusCode::kFailedPrecondition);
  written.Set();
  EXPECT_TRUE(Finish(imported).ok());
  EXPECT_TRUE(Finish(cancelled).ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_TRUE(Cleanup(b_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, AnImportThatFailsIsNoSession) {
  auto vm = Boot();
  auto plan = Export("s1");
  ASSERT_TRUE(plan.ok());
  FailAppend(b_, "IMPORTED");
  EXPECT_FALSE(Import("s1", *plan).ok());
  Settle();
  EXPECT_TRUE(Await(b_.host.store.ListSessions())->empty());
  ExpectEmpty(b_);
  EXPECT_TRUE(Resume(a_, "s1").ok());
}

TEST_F(DrivenTest, AVmmThatDiesAfterItsGrantIsLostAndReleased) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  b_.host.backend.script().Block("FinalizeLiveMigration");
  auto running = Begin(Session(b_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, *go));
  Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  b_.host.backend.Find(vm->id())->Exit(vm::SystemExit::Cause::kCrashed, "killed");
  Settle();
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::UnavailableError("gone"));
  b_.host.backend.script().Release("FinalizeLiveMigration");
  auto done = Finish(running);
  ASSERT_TRUE(done.ok()) << done.status();
  Until([&] { return Describe(a_, "s1").done(); });
  // It must not run from the state of before: it is this host's, and failed.
  EXPECT_EQ(Kinds(a_, "s1").back(), "RELEASED");
  auto there = b_.host.inventory->Find("web");
  ASSERT_TRUE(there.ok());
  EXPECT_EQ((*there)->state(), v1::VM_STATE_FAILED);
  EXPECT_EQ(Describe(b_, "s1").vm_location(), "nowhere");
  EXPECT_EQ(Describe(a_, "s1").outcome(), v1::SESSION_OUTCOME_FAILED);
  EXPECT_EQ(Describe(a_, "s1").reason(), "vm_died_after_switchover");
  EXPECT_EQ(Describe(a_, "s1").vm_location(), "nowhere");
  EXPECT_TRUE(a_.host.inventory->List().empty());
}

TEST_F(DrivenTest, WhatWasRolledBackHalfwayCannotCommit) {
  auto vm = Boot();
  TransferBoth("s1");
  a_.host.backend.script().FailNext("FinalizeLiveMigration", absl::DeadlineExceededError("cont"));
  EXPECT_FALSE(Resume(a_, "s1").ok());
  const auto committed = Stop(a_, "s1");
  EXPECT_EQ(committed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  EXPECT_TRUE(Resume(a_, "s1").ok());
  (void)Stop(b_, "s1");
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, NothingCommitsByItself) {
  auto vm = Boot();
  TransferBoth("s1");
  Settle();
  EXPECT_EQ(Kinds(a_, "s1").back(), "QUIESCED");
  EXPECT_EQ(Kinds(b_, "s1").back(), "PREPARED");
  EXPECT_EQ(vm->state(), v1::VM_STATE_MIGRATING_OUT);
}

TEST_F(DrivenTest, RepeatedCallsTakeEffectOnce) {
  auto vm = Boot();
  TransferBoth("s1");
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  EXPECT_EQ(*Stop(a_, "s1"), *go);
  auto done = Resume(b_, "s1", *go);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(*Resume(b_, "s1", *go), *done);
  EXPECT_EQ(*Resume(b_, "s1"), *done);
  EXPECT_TRUE(Stop(a_, "s1", *done).ok());
  EXPECT_TRUE(Stop(a_, "s1", *done).ok());
  EXPECT_THAT(Kinds(a_, "s1"), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RELEASED"));
  EXPECT_THAT(Kinds(b_, "s1"),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING"));
  ExpectMoved(vm, 2);
}

TEST_F(DrivenTest, DestinationDoesNotRunWithoutTheSourcesGo) {
  auto vm = Boot();
  TransferBoth("s1");
  EXPECT_EQ(Resume(b_, "s1").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Resume(b_, "s1").status().message(), HasSubstr("GO"));
  EXPECT_FALSE(Resume(b_, "s1", "no proof").ok());
  std::string go = *Stop(a_, "s1");
  for (size_t i = 0; i < go.size(); i += 7) {
    std::string altered = go;
    altered[i] ^= 1;
    EXPECT_FALSE(Resume(b_, "s1", altered).ok()) << i;
    EXPECT_FALSE(Resume(b_, "s1", go.substr(0, i)).ok()) << i;
  }
  EXPECT_EQ(Kinds(b_, "s1").back(), "PREPARED");
  EXPECT_FALSE(b_.host.backend.Find(vm->id())->Step());
  EXPECT_TRUE(Resume(b_, "s1", go).ok());
  EXPECT_TRUE(b_.host.backend.Find(vm->id())->Step());
}

TEST_F(DrivenTest, ProofOfAnotherSessionIsRefused) {
  Boot("one");
  Boot("two");
  TransferBoth("s1", "one");
  TransferBoth("s2", "two");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  EXPECT_FALSE(Resume(b_, "s2", *go).ok());
  EXPECT_EQ(Kinds(b_, "s2").back(), "PREPARED");
  EXPECT_TRUE(Resume(b_, "s1", *go).ok());
}

TEST_F(DrivenTest, SourceDoesNotResumeAfterStopWithoutTheDestinationsRefusal) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(go.ok());
  const absl::Status refused = Resume(a_, "s1").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("without proof"));
  EXPECT_FALSE(Resume(a_, "s1", *go).ok());
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);

  auto proof = Stop(b_, "s1");
  ASSERT_TRUE(proof.ok()) << proof.status();
  EXPECT_EQ(*Stop(b_, "s1"), *proof);
  EXPECT_FALSE(Resume(b_, "s1", *go).ok());
  EXPECT_TRUE(Resume(a_, "s1", *proof).ok());
  EXPECT_TRUE(Resume(a_, "s1", *proof).ok());
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_FINALIZED);
  ExpectRolledBack(vm);
  EXPECT_EQ(vm->epoch(), 3u);
  EXPECT_THAT(Kinds(a_, "s1"), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RECLAIMED"));
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("IMPORTED", "LISTENING", "PREPARED", "REFUSED"));
}

TEST_F(DrivenTest, DestinationThatRunsItCannotRefuse) {
  auto vm = Boot();
  TransferBoth("s1");
  auto go = Stop(a_, "s1");
  ASSERT_TRUE(Resume(b_, "s1", *go).ok());
  EXPECT_EQ(Stop(b_, "s1").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Resume(a_, "s1").status().code(), absl::StatusCode::kFailedPrecondition);
  ExpectMoved(vm, 2);
}

TEST_F(DrivenTest, RollbackBeforeTheCommitRunsTheSourceAgain) {
  auto vm = Boot();
  TransferBoth("s1");
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_FINALIZED);
  // An old STOP that was long on its way ends nothing.
  EXPECT_EQ(Stop(a_, "s1").status().code(), absl::StatusCode::kFailedPrecondition);
  Until([&] { return Describe(b_, "s1").done(); });
  ExpectRolledBack(vm);
  EXPECT_EQ(vm->epoch(), 1u);
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
}

TEST_F(DrivenTest, RollbackOfAPausedVmLeavesItPaused) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  TransferBoth("s1");
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
}

TEST_F(DrivenTest, CommitAndRollbackExcludeEachOther) {
  auto vm = Boot();
  TransferBoth("s1");
  // While COMMIT is being written, a rollback has to wait, and comes too late then.
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(a_, "COMMIT", go_on);
  auto go = Begin(Session(a_, "s1")->Finalize(v1::FINALIZE_ACTION_STOP, ""));
  auto back = Begin(Session(a_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, ""));
  Settle();
  EXPECT_FALSE(back->has_value());
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  go_on.Set();
  EXPECT_TRUE(Finish(go).ok());
  EXPECT_EQ(Finish(back).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  ASSERT_TRUE(Resume(b_, "s1", *Finish(go)).ok());
  ExpectMoved(vm, 2);
}

TEST_F(DrivenTest, RollbackUnderWayKeepsACommitOut) {
  auto vm = Boot();
  TransferBoth("s1");
  a_.host.backend.script().Block("FinalizeLiveMigration");
  auto back = Begin(Session(a_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, ""));
  Await(a_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  auto go = Begin(Session(a_, "s1")->Finalize(v1::FINALIZE_ACTION_STOP, ""));
  Settle();
  a_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_TRUE(Finish(back).ok());
  EXPECT_FALSE(Finish(go).ok());
  Until([&] { return Describe(b_, "s1").done(); });
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, GrantAndRefusalExcludeEachOther) {
  auto vm = Boot();
  TransferBoth("s1");
  const std::string go = *Stop(a_, "s1");
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(b_, "REFUSED", go_on);
  auto refused = Begin(Session(b_, "s1")->Finalize(v1::FINALIZE_ACTION_STOP, ""));
  auto granted = Begin(Session(b_, "s1")->Finalize(v1::FINALIZE_ACTION_RESUME, go));
  Settle();
  EXPECT_FALSE(granted->has_value());
  go_on.Set();
  EXPECT_TRUE(Finish(refused).ok());
  EXPECT_EQ(Finish(granted).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Kinds(b_, "s1"), ElementsAre("IMPORTED", "LISTENING", "PREPARED", "REFUSED"));
  EXPECT_TRUE(Resume(a_, "s1", *Finish(refused)).ok());
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, CancelWhileWaitingForTheSocket) {
  auto vm = Boot();
  PrepareBoth("s1");
  EXPECT_TRUE(Transfer(a_, "s1").ok());
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  Settle();
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_SOCKET_WAITING);
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_SOCKET_WAITING);
  EXPECT_TRUE(Cancel(a_, "s1").ok());
  EXPECT_TRUE(Cancel(b_, "s1").ok());
  EXPECT_EQ(State(a_, "s1"), v1::SESSION_STATE_CANCELLED);
  EXPECT_EQ(State(b_, "s1"), v1::SESSION_STATE_CANCELLED);
  EXPECT_TRUE(Resume(a_, "s1").ok());
  ExpectRolledBack(vm);
}

TEST_F(DrivenTest, SocketThatDoesNotComeFailsTheTransfer) {
  auto vm = Boot();
  PrepareBoth("s1");
  v1::TransferSandboxRequest request;
  request.set_timeout(1);
  ASSERT_TRUE(Await(Session(a_, "s1")->Transfer(request)).ok());
  ASSERT_TRUE(Await(Session(b_, "s1")->Transfer(request)).ok());
  Until([&] { return State(a_, "s1") == v1::SESSION_STATE_FAILED && Describe(b_, "s1").done(); });
  EXPECT_THAT(Describe(a_, "s1").error(), HasSubstr("session connection"));
  EXPECT_TRUE(Resume(a_, "s1").ok());
  EXPECT_TRUE(Cleanup(a_, "s1").ok());
  ExpectRolledBack(vm);
}

}  // namespace
}  // namespace ferry::migration
