// The fence is asked before a copy runs on either side, and told once the source does not run it.
#include "tests/unit/migration/controller/driven_fixture.h"
#include "vmmanager/fence/fake_fence.h"

namespace ferry::migration {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;

class FenceTest : public DrivenTest {
 protected:
  void TearDown() override {
    for (MigrationHost* host : {&a_, &b_}) {
      host->host.fence.on_call = [](const std::string&) {};
      host->host.fence.before_claim = nullptr;
    }
    DrivenTest::TearDown();
  }

  // Up to the source's GO, which is returned.
  std::string Commit() {
    TransferBoth("s");
    auto go = Stop(a_, "s");
    EXPECT_TRUE(go.ok()) << go.status();
    return go.value_or("");
  }

  // The destination moves the VM on.
  absl::Status ExportOn(const std::string& id) {
    v1::PrepareAndExportSandboxRequest request = ExportRequest(id);
    request.clear_destination();
    return Await(b_.sessions->PrepareAndExport(request)).status();
  }
  static void ExpectIsKept(const absl::Status& refused) {
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_EQ(rpc::ReasonOf(refused), "arrival_not_recorded");
  }
  void ExpectKept() {
    ExpectIsKept(ExportOn("s2"));
    EXPECT_TRUE(Kinds(b_, "s2").empty());
  }

  static absl::Status Held() {
    return vm::FenceHeld("somebody else holds the lock of VM web", "end that");
  }
  static std::vector<std::string> Claims(const MigrationHost& host) {
    std::vector<std::string> claims;
    for (const std::string& call : host.host.fence.calls) {
      if (call.starts_with("claim")) claims.push_back(call);
    }
    return claims;
  }
};

TEST_F(FenceTest, PassesFromHostToHostWithTheVm) {
  auto vm = Boot();
  EXPECT_TRUE(a_.host.fence.Holds(vm->id()));
  std::vector<std::string> source;
  std::vector<std::string> destination;
  bool claimed = true;
  a_.host.fence.on_call = [&](const std::string& call) {
    if (call != "yield" || !source.empty()) return;
    const std::string id = a_.host.store.journal().back().session_id;
    source = Kinds(a_, id);
    destination = Kinds(b_, id);
    claimed = !Claims(b_).empty();
  };
  const std::string id = Migrate();
  EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  ExpectMoved(vm, 2);
  // It was given up once COMMIT was durable, before the destination had heard of it.
  EXPECT_THAT(source, ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT"));
  EXPECT_THAT(destination, ElementsAre("IMPORTED", "LISTENING", "PREPARED"));
  EXPECT_FALSE(claimed);
  EXPECT_THAT(b_.host.fence.calls, ElementsAre("prepare", "claim 2"));
  EXPECT_TRUE(b_.host.fence.Holds(vm->id()));
  EXPECT_THAT(a_.host.fence.calls, Contains("forget"));
}

TEST_F(FenceTest, DestinationThatIsFencedRefusesAndTheSourceRunsOn) {
  auto vm = Boot();
  b_.host.fence.refusal = Held();
  const std::string id = Migrate();
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED);
  EXPECT_EQ(session.reason(), vm::kFenceHeld);
  EXPECT_THAT(session.error(), HasSubstr("somebody else holds the lock of VM web"));
  EXPECT_EQ(session.vm_location(), "host-a:1");
  EXPECT_EQ(session.fence(), "fake");
  EXPECT_THAT(Kinds(a_, id), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RECLAIMED"));
  EXPECT_THAT(Kinds(b_, id), ElementsAre("IMPORTED", "LISTENING", "PREPARED", "REFUSED"));
  EXPECT_EQ(Describe(b_, id).reason(), vm::kFenceHeld);
  ExpectRolledBack(vm);
  EXPECT_EQ(vm->epoch(), 3u);
  EXPECT_EQ(Claims(a_).back(), "claim 3");
  // Nothing of it stays.
  b_.host.fence.refusal = absl::OkStatus();
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
  ExpectMoved(vm, 4);
}

TEST_F(FenceTest, SourceThatIsFencedStaysPausedAndTriesAgain) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(5);
  a_.deps->limits.ask_again = milliseconds(5);
  b_.host.fence.refusal = Held();
  b_.host.fence.on_call = [&](const std::string& call) {
    if (call == "claim 2") a_.host.fence.refusal = Held();
  };
  const std::string id = Migrate();
  const size_t before = Claims(a_).size();
  Until([&] { return Claims(a_).size() > before + 3; });
  EXPECT_EQ(Kinds(a_, id).back(), "RECLAIMED");
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_THAT(vm->Describe(false).state_reason(), HasSubstr("holds the lock of VM web"));
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("this host's again, but does not run yet"));
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("holds the lock of VM web"));
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  // Whoever wants to use it is told the same.
  a_.host.settings.outcome_wait = milliseconds(1);
  for (const absl::Status& told :
       {Await(vm->UsableGuest()).status(), Await(vm->Pause()), Await(vm->Resume())}) {
    EXPECT_THAT(std::string(told.message()), HasSubstr("holds the lock of VM web"));
  }
  a_.host.fence.refusal = absl::OkStatus();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-a:1");
  ExpectRolledBack(vm);
  EXPECT_TRUE(a_.host.fence.Holds(vm->id()));
}

TEST_F(FenceTest, ACallerThatDrivesBothSidesIsToldWhoHoldsIt) {
  auto vm = Boot();
  TransferBoth("s");
  b_.host.fence.refusal = Held();
  auto go = Stop(a_, "s");
  ASSERT_TRUE(go.ok()) << go.status();
  EXPECT_FALSE(a_.host.fence.Holds(vm->id()));
  a_.host.fence.refusal = Held();
  const auto ran = Resume(b_, "s", *go);
  EXPECT_EQ(rpc::ReasonOf(ran.status()), vm::kFenceHeld) << ran.status();
  auto refused = Stop(b_, "s");
  ASSERT_TRUE(refused.ok()) << refused.status();
  const auto fenced = Resume(a_, "s", *refused);
  EXPECT_EQ(rpc::ReasonOf(fenced.status()), vm::kFenceHeld) << fenced.status();
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  a_.host.fence.refusal = absl::OkStatus();
  EXPECT_TRUE(Resume(a_, "s", *refused).ok());
  ExpectRolledBack(vm);
}

TEST_F(FenceTest, WhatIsCalledOffBeforeCommitIsNeverGivenUp) {
  auto vm = Boot();
  TransferBoth("s");
  EXPECT_TRUE(Resume(a_, "s").ok());
  Wait(b_, "s");
  ExpectRolledBack(vm);
  EXPECT_EQ(std::count(a_.host.fence.calls.begin(), a_.host.fence.calls.end(), "yield"), 0);
  EXPECT_TRUE(a_.host.fence.Holds(vm->id()));
  EXPECT_THAT(Claims(b_), IsEmpty());
}

TEST_F(FenceTest, ASourceThatDiedAfterCommitGivesItUpOnceItIsBack) {
  auto vm = Boot();
  TransferBoth("s");
  ASSERT_TRUE(Stop(a_, "s").ok());
  // As if it had died before it did.
  ASSERT_TRUE(Await(a_.host.fence.Claim({vm->id(), "web", 1})).ok());
  Restart(a_);
  Until([&] { return Describe(a_, "s").done(); });
  EXPECT_EQ(Describe(a_, "s").vm_location(), "host-b:1");
  EXPECT_TRUE(b_.host.fence.Holds(vm->id()));
}

TEST_F(FenceTest, APausedVmIsNotTakenBackAgainstTheFence) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  TransferBoth("s");
  ASSERT_TRUE(Stop(a_, "s").ok());
  auto refused = Stop(b_, "s");
  ASSERT_TRUE(refused.ok());
  a_.host.fence.refusal = Held();
  EXPECT_EQ(rpc::ReasonOf(Resume(a_, "s", *refused).status()), vm::kFenceHeld);
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  a_.host.fence.refusal = absl::OkStatus();
  EXPECT_TRUE(Resume(a_, "s", *refused).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(a_.host.fence.Holds(vm->id()));
  EXPECT_TRUE(Await(vm->Resume()).ok());
  ExpectRolledBack(vm);
}

TEST_F(FenceTest, WhatStoppedForTheSwitchoverIsNotRolledBackAgainstTheFence) {
  auto vm = Boot();
  TransferBoth("s");
  a_.host.fence.refusal = Held();
  EXPECT_EQ(rpc::ReasonOf(Resume(a_, "s").status()), vm::kFenceHeld);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  v1::RecoverSessionRequest look;
  look.set_session_id("s");
  look.set_local_only(true);
  EXPECT_THAT(Await(a_.sessions->RecoverSession(look))->sides(0).next(),
              HasSubstr("over once it has been rolled back"));
  // Cancelling is no way around it.
  EXPECT_EQ(rpc::ReasonOf(Cancel(a_, "s")), vm::kFenceHeld);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  EXPECT_EQ(rpc::ReasonOf(Resume(a_, "s").status()), vm::kFenceHeld);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  a_.host.fence.refusal = absl::OkStatus();
  EXPECT_TRUE(Resume(a_, "s").ok());
  Wait(b_, "s");
  ExpectRolledBack(vm);
}

TEST_F(FenceTest, WhatRunsIsCalledOffWhateverTheFenceSays) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  StartTransfer("s");
  Await(a_.host.backend.script().WaitBlocked("Page"));
  a_.host.fence.refusal = Held();
  EXPECT_TRUE(Cancel(a_, "s").ok());
  a_.host.backend.script().Release("Page");
  EXPECT_TRUE(Resume(a_, "s").ok());
  Wait(b_, "s");
  ExpectRolledBack(vm);
}

TEST_F(FenceTest, AVmmThatEndsWhileItIsClaimedIsNotGranted) {
  auto vm = Boot();
  TransferBoth("s");
  auto go = Stop(a_, "s");
  ASSERT_TRUE(go.ok());
  AsyncEvent answers(io_.get_executor());
  b_.host.fence.before_claim = [&answers](const vm::FenceClaim&) { return &answers; };
  auto running = Begin(Session(b_, "s")->Finalize(v1::FINALIZE_ACTION_RESUME, *go));
  Settle();
  b_.host.System(*vm)->Exit(vm::SystemExit::Cause::kCrashed, "killed");
  Settle();
  answers.Set();
  EXPECT_FALSE(Finish(running).ok());
  EXPECT_EQ(Kinds(b_, "s").back(), "REFUSED");
  EXPECT_FALSE(b_.host.fence.Holds(vm->id()));
  Until([&] { return Describe(a_, "s").done(); });
  ExpectRolledBack(vm);
}

TEST_F(FenceTest, WhatRunsAtTheDestinationAlreadyGoesOn) {
  auto vm = Boot();
  TransferBoth("s");
  auto go = Stop(a_, "s");
  ASSERT_TRUE(go.ok());
  FailAppend(b_, "RUNNING");
  ASSERT_FALSE(Resume(b_, "s", *go).ok());
  ASSERT_EQ(Kinds(b_, "s").back(), "GRANTED");
  ASSERT_TRUE(b_.host.System(*vm)->Step());
  b_.host.fence.refusal = Held();
  EXPECT_TRUE(Resume(b_, "s", *go).ok());
  EXPECT_EQ(Kinds(b_, "s").back(), "RUNNING");
  Settle();
  std::vector<std::string> events;
  const auto rows = Await(b_.host.store.ReadEvents(0, 1000));
  for (const vm::EventRow& event : *rows) events.push_back(event.type);
  EXPECT_THAT(events, Contains("vm.fence_lost"));
  ExpectMoved(vm, 2);
}

TEST_F(FenceTest, ARestartedDestinationTriesAgainWhatTheFenceRefused) {
  auto vm = Boot();
  b_.deps->limits.ask_again = milliseconds(5);
  const std::string go = Commit();
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  ASSERT_FALSE(Resume(b_, "s", go).ok());
  ASSERT_EQ(Kinds(b_, "s").back(), "GRANTED");
  b_.host.fence.refusal = Held();
  const size_t before = Claims(b_).size();
  Restart(b_);
  Until([&] { return Claims(b_).size() > before + 2; });
  EXPECT_FALSE(b_.host.System(*vm)->Step());
  EXPECT_THAT(Describe(b_, "s").error(), HasSubstr("holds the lock of VM web"));
  b_.host.fence.refusal = absl::OkStatus();
  Until([&] { return Describe(b_, "s").done(); });
  EXPECT_EQ(Describe(b_, "s").error(), "");
  EXPECT_EQ(Kinds(b_, "s").back(), "RUNNING");
  EXPECT_TRUE(b_.host.System(*vm)->Step());
}

TEST_F(FenceTest, WhatQemuRefusesAgainAndAgainIsToldOnce) {
  auto vm = Boot();
  b_.deps->limits.ask_again = milliseconds(5);
  const std::string go = Commit();
  size_t tries = 0;
  b_.host.fence.on_call = [&](const std::string& call) {
    if (call != "claim 2") return;
    ++tries;
    b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("no room"));
  };
  ASSERT_FALSE(Resume(b_, "s", go).ok());
  Restart(b_);
  Until([&] { return tries > 3; });
  Settle();
  const size_t writes = b_.host.store.session_writes;
  Until([&] { return tries > 6; });
  Settle();
  EXPECT_THAT(Describe(b_, "s").error(), HasSubstr("does not run yet: "));
  EXPECT_THAT(Describe(b_, "s").error(), HasSubstr("no room"));
  EXPECT_EQ(b_.host.store.session_writes, writes);
  b_.host.fence.on_call = [](const std::string&) {};
  Until([&] { return Describe(b_, "s").done(); });
  EXPECT_EQ(Describe(b_, "s").error(), "");
  EXPECT_TRUE(b_.host.System(*vm)->Step());
}

TEST_F(FenceTest, ThatItRunsIsNotDeniedWhereItCannotBeRecorded) {
  auto vm = Boot();
  b_.deps->limits.ask_again = milliseconds(5);
  const std::string go = Commit();
  size_t tries = 0;
  bool full = true;
  b_.host.store.before_append = [&](vm::JournalRecord record) {
    const bool fails = full && record.kind == "RUNNING";
    if (fails) ++tries;
    return Fail(fails);
  };
  ASSERT_FALSE(Resume(b_, "s", go).ok());
  Restart(b_);
  Until([&] { return tries > 3; });
  Settle();
  EXPECT_TRUE(b_.host.System(*vm)->Step());
  EXPECT_THAT(Describe(b_, "s").error(), HasSubstr("cannot be recorded yet: "));
  EXPECT_THAT(Describe(b_, "s").error(), HasSubstr("the disk is full"));
  full = false;
  Until([&] { return Describe(b_, "s").done(); });
  EXPECT_EQ(Kinds(b_, "s").back(), "RUNNING");
  b_.host.store.before_append = nullptr;
}

// It came, ended, and is started anew; only the record that it came is missing.
TEST_F(FenceTest, AVmThatIsStartedAnewAtItsDestinationIsNotLost) {
  auto vm = Boot();
  const std::string go = Commit();
  FailAppend(b_, "RUNNING");
  ASSERT_FALSE(Resume(b_, "s", go).ok());
  auto there = *b_.host.inventory->Find("web");
  ASSERT_TRUE(Await(there->Stop(true, milliseconds(0))).ok());
  b_.host.backend.script().Block("Create");
  auto starting = Begin(there->Start());
  Await(b_.host.backend.script().WaitBlocked("Create"));
  ASSERT_EQ(there->state(), v1::VM_STATE_STARTING);
  EXPECT_TRUE(Resume(b_, "s", go).ok());
  EXPECT_EQ(Kinds(b_, "s").back(), "RUNNING");
  EXPECT_EQ(Describe(b_, "s").outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_EQ(there->state(), v1::VM_STATE_STARTING);
  EXPECT_TRUE(b_.host.fence.Holds(vm->id()));
  b_.host.backend.script().Release("Create");
  const absl::Status started = Finish(starting);
  EXPECT_TRUE(started.ok()) << started;
  EXPECT_EQ(there->state(), v1::VM_STATE_RUNNING);
}

// Its records would come between those of the migration that brought it.
TEST_F(FenceTest, AVmIsNotMigratedOnUntilItsArrivalIsRecorded) {
  auto vm = Boot();
  const std::string go = Commit();
  FailAppend(b_, "RUNNING");
  ASSERT_FALSE(Resume(b_, "s", go).ok());
  auto there = *b_.host.inventory->Find("web");
  ASSERT_EQ(there->state(), v1::VM_STATE_RUNNING);
  ExpectKept();
  ASSERT_TRUE(Await(there->Stop(true, milliseconds(0))).ok());
  ExpectIsKept(Await(b_.host.inventory->Delete(there)));
  ASSERT_TRUE(Await(there->Start()).ok());
  ASSERT_TRUE(Resume(b_, "s", go).ok());
  EXPECT_TRUE(ExportOn("s3").ok());
}

TEST_F(FenceTest, NorIsOneThatWasLostAndStartedAnew) {
  auto vm = Boot();
  const std::string go = Commit();
  vm::FakeScript& qemu = b_.host.backend.script();
  qemu.Block("FinalizeLiveMigration");
  FailAppend(b_, "RUNNING");
  auto resumed = Begin(Session(b_, "s")->Finalize(v1::FINALIZE_ACTION_RESUME, go));
  Await(qemu.WaitBlocked("FinalizeLiveMigration"));
  b_.host.backend.Find(vm->id())->Exit(vm::SystemExit::Cause::kCrashed, "killed");
  Settle();
  qemu.FailNext("FinalizeLiveMigration", absl::UnavailableError("gone"));
  qemu.Release("FinalizeLiveMigration");
  ASSERT_FALSE(Finish(resumed).ok());
  auto there = *b_.host.inventory->Find("web");
  ASSERT_EQ(there->state(), v1::VM_STATE_FAILED);
  ASSERT_TRUE(Await(there->Start()).ok());
  ExpectKept();
  EXPECT_TRUE(Resume(b_, "s", go).ok());
  EXPECT_EQ(there->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(ExportOn("s3").ok());
}

TEST_F(FenceTest, TheRecordOfAnArrivalIsTriedAgainByItself) {
  auto vm = Boot();
  b_.deps->limits.ask_again = milliseconds(5);
  const std::string go = Commit();
  FailAppend(b_, "RUNNING");
  ASSERT_FALSE(Resume(b_, "s", go).ok());
  Until([&] { return Describe(b_, "s").done(); });
  EXPECT_EQ(Kinds(b_, "s").back(), "RUNNING");
}

TEST_F(FenceTest, ARestartedSourceTriesAgainWhatTheFenceRefused) {
  auto vm = Boot();
  a_.deps->limits.ask_again = milliseconds(5);
  // Nobody can be asked, so its journal decides.
  v1::PrepareAndExportSandboxRequest request = ExportRequest("s");
  request.clear_destination();
  const auto plan = Await(a_.sessions->PrepareAndExport(request));
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(Import("s", *plan).ok());
  const auto prepared = Prepare(b_, "s");
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  ASSERT_TRUE(Transfer(b_, "s").ok());
  ASSERT_TRUE(Transfer(a_, "s", *prepared).ok());
  Until([&] { return State(a_, "s") == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  a_.host.fence.refusal = Held();
  const size_t before = Claims(a_).size();
  Restart(a_);
  Until([&] { return Claims(a_).size() > before + 2; });
  EXPECT_EQ(Kinds(a_, "s").back(), "ABORT");
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  a_.host.fence.refusal = absl::OkStatus();
  Until([&] { return Describe(a_, "s").done(); });
  EXPECT_TRUE(a_.host.System(*vm)->Step());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

}  // namespace
}  // namespace ferry::migration
