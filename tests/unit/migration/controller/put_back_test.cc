// A source whose journal was put back to an earlier state, witness and all: its chain is whole, and
// only the destination knows better.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

class PutBackTest : public DrivenTest {
 protected:
  void SetUp() override {
    DrivenTest::SetUp();
    a_.deps->limits.ask_again = milliseconds(5);
  }

  // Until both sides have the VM's state; they hear of each other by what is returned.
  FakeWire& Send(const std::string& id, const std::string& vm = "web") {
    v1::PrepareSandboxResponse prepared = PrepareBoth(id, vm);
    FakeWire& wire = UseWire();
    prepared.set_session_address(wire.LeadTo(prepared.session_address()));
    EXPECT_TRUE(Transfer(b_, id).ok());
    EXPECT_TRUE(Transfer(a_, id, prepared).ok());
    Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFER_COMPLETED; });
    return wire;
  }

  // Up to COMMIT; returns the GO. From then on the two sides hear of each other by calls only.
  std::string CommitOf(const std::string& id, const std::string& vm = "web") {
    FakeWire& wire = Send(id, vm);
    auto go = Stop(a_, id);
    EXPECT_TRUE(go.ok()) << go.status();
    wire.Cut();
    Settle();
    return go.value_or("");
  }

  // The source's daemon dies; its journal ends with the record of that kind when it is back.
  void PutBackTo(const std::string& kind) {
    Settle();
    std::vector<vm::JournalRecord>& journal = a_.host.store.journal();
    while (journal.back().kind != kind) journal.pop_back();
    Restart(a_);
  }

  std::vector<std::string> Events() {
    Settle();
    std::vector<std::string> types;
    const auto events = Await(a_.host.store.ReadEvents(0, 1000));
    for (const vm::EventRow& event : *events) types.push_back(event.type);
    return types;
  }
};

TEST_F(PutBackTest, TheVmIsNotRunTwice) {
  for (const char* kind : {"QUIESCED", "TRANSFER", "OPEN"}) {
    SCOPED_TRACE(kind);
    auto vm = Boot(kind);
    const std::string id = absl::StrCat("s-", kind);
    ASSERT_TRUE(Resume(b_, id, CommitOf(id, kind)).ok());
    ASSERT_EQ(Kinds(a_, id).back(), "COMMIT");
    PutBackTo(kind);
    EXPECT_NE(vm->state(), v1::VM_STATE_RUNNING);
    const v1::Session session = Wait(a_, id);
    EXPECT_EQ(session.vm_location(), "host-b:1");
    EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
    EXPECT_EQ(Kinds(a_, id).back(), "RELEASED");
    EXPECT_EQ(Kinds(b_, id).back(), "RUNNING");
    ExpectMoved(vm, 2);
    EXPECT_THAT(Events(), testing::Contains("journal.put_back"));
  }
}

TEST_F(PutBackTest, AMereRecordOfTheDestinationKnowsItAsWell) {
  auto vm = Boot();
  ASSERT_TRUE(Resume(b_, "s1", CommitOf("s1")).ok());
  ASSERT_TRUE(Cleanup(b_, "s1").ok());
  PutBackTo("QUIESCED");
  EXPECT_EQ(Wait(a_, "s1").vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_THAT(Events(), testing::Contains("journal.put_back"));
}

TEST_F(PutBackTest, TheVmWaitsUntilTheDestinationCanSayThatItRuns) {
  auto vm = Boot();
  b_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  const std::string go = CommitOf("s1");
  EXPECT_FALSE(Resume(b_, "s1", go).ok());
  EXPECT_EQ(Kinds(b_, "s1").back(), "GRANTED");
  PutBackTo("QUIESCED");
  // The destination answers, though with nothing to go by. For that the source waits for ever.
  peer_->Block("Settle");
  for (int i = 0; i < 10; ++i) {
    Await(peer_->WaitBlocked("Settle"));
    peer_->Release("Settle");
    peer_->Block("Settle");
  }
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_TRUE(Resume(b_, "s1").ok());
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, "s1").vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(PutBackTest, ARefusalGivesTheVmBack) {
  auto vm = Boot();
  CommitOf("s1");
  // The GO was never sent, so nobody but the destination's refusal can tell.
  PutBackTo("QUIESCED");
  EXPECT_EQ(Wait(a_, "s1").vm_location(), "host-a:1");
  EXPECT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  ExpectRolledBack(vm);
  EXPECT_EQ(vm->epoch(), 3u);
  EXPECT_EQ(Describe(a_, "s1").reason(), "daemon_restarted");
  EXPECT_THAT(Events(), testing::Not(testing::Contains("journal.put_back")));
}

TEST_F(PutBackTest, ARestartedSourceAsksBeforeItRunsWhatHadStopped) {
  auto vm = Boot();
  Send("s1").Cut();
  peer_->Block("Settle");
  Restart(a_);
  Await(peer_->WaitBlocked("Settle"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_EQ(Kinds(a_, "s1").back(), "QUIESCED");
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, "s1").reason(), "daemon_restarted");
  ExpectRolledBack(vm);
  EXPECT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  EXPECT_EQ(Kinds(b_, "s1").back(), "REFUSED");
  EXPECT_EQ(Describe(b_, "s1").reason(), "daemon_restarted");
}

TEST_F(PutBackTest, WhereNobodyCanBeAskedTheVmWaits) {
  auto vm = Boot();
  Send("s1").Cut();
  peer_->Block("Settle");
  Restart(a_);
  for (const absl::Status& answer :
       {absl::UnavailableError("no route"), absl::DeadlineExceededError("no answer"),
        absl::PermissionDeniedError("who are you"), absl::ResourceExhaustedError("disk full")}) {
    Await(peer_->WaitBlocked("Settle"));
    EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT) << answer;
    EXPECT_EQ(Kinds(a_, "s1").back(), "QUIESCED");
    peer_->FailNext("Settle", answer);
    peer_->Release("Settle");
    peer_->Block("Settle");
  }
  Await(peer_->WaitBlocked("Settle"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  peer_->Release("Settle");
  EXPECT_EQ(Wait(a_, "s1").reason(), "daemon_restarted");
  EXPECT_EQ(Describe(b_, "s1").reason(), "daemon_restarted");
  EXPECT_THAT(Describe(b_, "s1").error(), HasSubstr("the source's daemon was restarted"));
  ExpectRolledBack(vm);
}

TEST_F(PutBackTest, WhatAPersonDecidesMeanwhileIsTheReason) {
  auto vm = Boot();
  Send("s1").Cut();
  peer_->Block("Settle");
  Restart(a_);
  Await(peer_->WaitBlocked("Settle"));
  v1::RecoverSessionRequest request;
  request.set_session_id("s1");
  request.set_local_only(true);
  request.set_force(true);
  request.set_vm_name("web");
  request.set_decision(v1::FORCED_DECISION_RUN_HERE);
  const auto forced = Await(a_.sessions->RecoverSession(request));
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_EQ(Describe(a_, "s1").reason(), "forced");
  EXPECT_TRUE(a_.host.System(*vm)->Step());
  peer_->Release("Settle");
  Settle();
}

TEST_F(PutBackTest, WhatWasCalledOffIsNotAskedAbout) {
  auto vm = Boot();
  Send("s1").Cut();
  // The former daemon dies between ABORT and its effect.
  a_.host.backend.script().FailNext("FinalizeLiveMigration", absl::InternalError("not yet"));
  ASSERT_FALSE(Resume(a_, "s1").ok());
  ASSERT_EQ(Kinds(a_, "s1").back(), "ABORT");
  ASSERT_FALSE(a_.host.System(*vm)->Step());
  peer_->Block("Settle");
  Restart(a_);
  EXPECT_EQ(Wait(a_, "s1").vm_location(), "host-a:1");
  EXPECT_EQ(Describe(a_, "s1").reason(), "cancelled");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(a_.host.System(*vm)->Step());
  peer_->Release("Settle");
  Settle();
}

TEST_F(PutBackTest, WhatWasGivenBackRunsOnceTheFenceLetsIt) {
  auto vm = Boot();
  CommitOf("s1");
  const auto refused = Stop(b_, "s1");
  ASSERT_TRUE(refused.ok()) << refused.status();
  a_.host.fence.refusal = vm::FenceHeld("process 7 holds it", "end process 7");
  EXPECT_FALSE(Resume(a_, "s1", *refused).ok());
  ASSERT_EQ(Kinds(a_, "s1").back(), "RECLAIMED");
  Restart(a_);
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  a_.host.fence.refusal = absl::OkStatus();
  // Nobody asks for it again.
  EXPECT_EQ(Wait(a_, "s1").vm_location(), "host-a:1");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(a_.host.System(*vm)->Step());
  // The former daemon had been told why.
  const v1::Session session = Describe(a_, "s1");
  EXPECT_EQ(session.reason(), "cancelled");
  EXPECT_THAT(session.error(), HasSubstr("stopped by its caller"));
  EXPECT_THAT(session.error(), testing::Not(HasSubstr("does not run yet")));
  EXPECT_THAT(
      Phases(Notifications(a_, "s1")),
      testing::IsSupersetOf({v1::MIGRATION_PHASE_FAILED, v1::MIGRATION_PHASE_RECOVERY_DONE}));
}

TEST_F(PutBackTest, WhatHasNotBeenSentWasNotGivenAway) {
  auto vm = Boot();
  a_.host.backend.script().Block("SwitchOver");
  StartTransfer("s1");
  Await(a_.host.backend.script().WaitBlocked("SwitchOver"));
  ASSERT_EQ(Kinds(a_, "s1").back(), "QUIESCED");
  peer_->Block("Settle");
  Restart(a_);
  EXPECT_EQ(Wait(a_, "s1").reason(), "daemon_restarted");
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  a_.host.backend.script().Release("SwitchOver");
  peer_->Release("Settle");
  Settle();
}

TEST_F(PutBackTest, WhatExecutesWasNotGivenAway) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  StartTransfer("s1");
  Await(a_.host.backend.script().WaitBlocked("Page"));
  peer_->Block("Settle");
  Restart(a_);
  Wait(a_, "s1");
  EXPECT_EQ(Kinds(a_, "s1").back(), "ABORT");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  a_.host.backend.script().Release("Page");
  peer_->Release("Settle");
  Settle();
}

TEST_F(PutBackTest, EachSideRepeatsWhatItWasToldLast) {
  Boot();
  const std::string go = CommitOf("s1");
  auto done = Resume(b_, "s1", go);
  ASSERT_TRUE(done.ok()) << done.status();
  state::v1::CommitDetail detail;
  ASSERT_TRUE(detail.ParseFromString(b_.host.store.journal().back().detail));
  const auto proof = DecodeProof(*done, detail.plan_sha256());
  ASSERT_TRUE(proof.ok()) << proof.status();
  const vm::JournalRecord& commit = a_.host.store.journal().back();
  EXPECT_EQ(proof->heard_sequence, commit.sequence);
  EXPECT_EQ(proof->heard_hash, commit.hash);
  EXPECT_EQ(detail.heard_sequence(), commit.sequence);
}

}  // namespace
}  // namespace ferry::migration
