// The destination, the connection or the journal fails: the VM runs on where it may, and nothing is
// left where it may not.
#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

class FailureTest : public ControllerTest {
 protected:
  // The migration fails with an error that says `why`; then another one succeeds.
  void ExpectFails(const std::shared_ptr<vm::UtilityVm>& vm, const std::string& why) {
    ExpectEnds(vm, Migrate(), why);
  }

  void ExpectEnds(const std::shared_ptr<vm::UtilityVm>& vm, const std::string& id,
                  const std::string& why, v1::SessionOutcome outcome = v1::SESSION_OUTCOME_FAILED) {
    const v1::Session session = Wait(a_, id);
    EXPECT_EQ(session.state(), v1::SESSION_STATE_FINALIZED);
    EXPECT_THAT(session.error(), HasSubstr(why));
    EXPECT_EQ(session.outcome(), outcome);
    EXPECT_NE(session.reason(), "");
    EXPECT_EQ(session.vm_location(), "host-a:1");
    for (const std::string& kind : Kinds(a_, id)) EXPECT_NE(kind, "COMMIT");
    ExpectRolledBack(vm);
    wire_.reset();
    const v1::Session next = Wait(a_, Migrate());
    EXPECT_EQ(next.vm_location(), "host-b:1");
    EXPECT_EQ(next.outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
    EXPECT_EQ(next.reason(), "");
    ExpectMoved(vm, 2);
  }
};

TEST_F(FailureTest, UnreachableDestination) {
  auto vm = Boot();
  peer_->FailNext("Import",
                  rpc::ErrorWithReason(absl::StatusCode::kUnavailable, "cannot connect to host-b:1",
                                       "destination_unreachable", "see that it runs"));
  const std::string id = Migrate();
  ExpectEnds(vm, id, "cannot connect to host-b:1");
  EXPECT_EQ(Describe(a_, id).next_step(), "see that it runs");
}

TEST_F(FailureTest, HostsThatDoNotAgree) {
  auto vm = Boot();
  const std::string former = b_.host.backend.info().accelerator;
  b_.host.backend.mutable_info().accelerator = "kvm";
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_THAT(session.error(), HasSubstr("accelerator"));
  ExpectRolledBack(vm);
  b_.host.backend.mutable_info().accelerator = former;
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
}

TEST_F(FailureTest, NameThatIsTakenThere) {
  auto vm = Boot();
  auto other = Await(b_.host.Boot("web"));
  ASSERT_TRUE(other.ok());
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_THAT(session.error(), HasSubstr("another VM named web"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ((*other)->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(b_.host.inventory->List().size(), 1u);
  EXPECT_TRUE(b_.sessions->List("").empty());
}

TEST_F(FailureTest, DestinationThatCannotPrepare) {
  for (const char* verb : {"Create", "Start"}) {
    auto vm = Boot(verb);
    b_.host.backend.script().FailNext(verb, absl::ResourceExhaustedError("no memory left"));
    const v1::Session session = Wait(a_, Migrate(MigrateRequest(verb)));
    EXPECT_THAT(session.error(), HasSubstr("no memory left")) << verb;
    ExpectRolledBack(vm);
  }
}

TEST_F(FailureTest, AnswerToPrepareIsLost) {
  auto vm = Boot();
  peer_->FailNext("Prepare answer", absl::UnavailableError("the connection was reset"));
  ExpectFails(vm, "the connection was reset");
}

TEST_F(FailureTest, AnswerToTransferIsLost) {
  auto vm = Boot();
  peer_->FailNext("Transfer answer", absl::UnavailableError("the connection was reset"));
  ExpectFails(vm, "the connection was reset");
}

TEST_F(FailureTest, SourceThatCannotExport) {
  auto vm = Boot();
  a_.host.backend.script().FailNext("InitializeLiveMigrationOnSource",
                                    absl::InternalError("no such capability"));
  EXPECT_EQ(Await(a_.sessions->Migrate(MigrateRequest())).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(a_.sessions->List("").empty());
  ExpectRolledBack(vm);
  EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
}

TEST_F(FailureTest, SourceThatCannotStart) {
  auto vm = Boot();
  a_.host.backend.script().FailNext("StartLiveMigrationOnSource", absl::InternalError("no"));
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_EQ(session.error(), "no");
  ExpectRolledBack(vm);
}

TEST_F(FailureTest, TransferThatFails) {
  auto vm = Boot();
  a_.host.backend.script().FailNext("Page", absl::InternalError("a page cannot be read"));
  ExpectFails(vm, "a page cannot be read");
}

TEST_F(FailureTest, IsToldToSubscribersOfBothSides) {
  Boot();
  b_.host.backend.script().FailNext("Load", absl::DataLossError("an unknown device"));
  peer_->Block("Cleanup");
  const std::string id = Migrate();
  Await(peer_->WaitBlocked("Cleanup"));
  auto told = [&](MigrationHost& host, v1::MigrationPhaseState state) {
    for (const auto& message : Notifications(host, id)) {
      const v1::Notification& notification = message.notification();
      if (notification.state() != state) continue;
      EXPECT_THAT(notification.message(), HasSubstr("an unknown device"));
      return true;
    }
    return false;
  };
  EXPECT_TRUE(told(a_, v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED));
  EXPECT_TRUE(told(b_, v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED));
  peer_->Release("Cleanup");
  Wait(a_, id);
}

TEST_F(FailureTest, StateThatDoesNotLoad) {
  auto vm = Boot();
  b_.host.backend.script().FailNext("Load", absl::DataLossError("an unknown device"));
  ExpectFails(vm, "an unknown device");
}

TEST_F(FailureTest, DestinationsVmmThatDies) {
  auto vm = Boot();
  b_.host.backend.script().Block("ReceivePage");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("ReceivePage"));
  b_.host.backend.Find(vm->id())->Exit(vm::SystemExit::Cause::kCrashed, "signal 11");
  b_.host.backend.script().Release("ReceivePage");
  ExpectEnds(vm, id, "ended during its migration");
}

TEST_F(FailureTest, SourcesVmmThatDies) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  a_.host.System(*vm)->Exit(vm::SystemExit::Cause::kCrashed, "signal 11");
  a_.host.backend.script().Release("Page");
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.state(), v1::SESSION_STATE_FINALIZED);
  Settle();
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_FALSE(vm->current_notice().has_value());
  EXPECT_EQ(session.vm_location(), "nowhere");
  ExpectEmpty(b_);
  EXPECT_TRUE(Await(vm->Start()).ok());
}

TEST_F(FailureTest, ConnectionThatBreaksDuringTheTransfer) {
  auto vm = Boot();
  FakeWire& wire = UseWire();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  wire.Cut();
  Settle();
  a_.host.backend.script().Release("Page");
  ExpectEnds(vm, id, "");
}

TEST_F(FailureTest, ConnectionThatBreaksWhileTheGuestIsStopped) {
  auto vm = Boot();
  FakeWire& wire = UseWire();
  a_.host.backend.script().Block("SwitchOver");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("SwitchOver"));
  wire.Cut();
  Settle();
  a_.host.backend.script().Release("SwitchOver");
  ExpectEnds(vm, id, "");
}

TEST_F(FailureTest, DamagedBytes) {
  auto vm = Boot();
  FakeWire& wire = UseWire();
  // The wire outlives this.
  wire.tamper = [seen = uint64_t{0}](std::string& bytes) mutable {
    const uint64_t from = seen;
    seen += bytes.size();
    constexpr uint64_t kFlipped = 400;
    if (from <= kFlipped && kFlipped < seen) bytes[kFlipped - from] ^= 0x20;
  };
  ExpectFails(vm, "");
}

TEST_F(FailureTest, VoteThatDoesNotCome) {
  auto vm = Boot();
  a_.deps->limits.vote = milliseconds(20);
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(b_, "PREPARED", go_on);
  const std::string id = Migrate();
  Until([&] { return !Describe(a_, id).error().empty(); });
  go_on.Set();
  b_.host.store.before_append = nullptr;
  // The next one's has to come, however late.
  a_.deps->limits.vote = milliseconds(60'000);
  ExpectEnds(vm, id, "vote");
}

TEST_F(FailureTest, OnWhichHostItFailedIsKept) {
  Boot();
  FailAppend(b_, "PREPARED");
  const v1::Session session = Wait(a_, Migrate());
  EXPECT_EQ(session.failed_at(), v1::MIGRATION_ORIGIN_DESTINATION);
  Restart(a_);
  EXPECT_EQ(Describe(a_, session.session_id()).failed_at(), v1::MIGRATION_ORIGIN_DESTINATION);
  EXPECT_EQ(Wait(a_, Migrate()).failed_at(), v1::MIGRATION_ORIGIN_UNSPECIFIED);
}

TEST_F(FailureTest, WhatFailedBeforeItSucceededIsForgotten) {
  Boot();
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(a_, "COMMIT", go_on);
  const std::string id = Migrate();
  Until([&] { return !Kinds(b_, id).empty() && Kinds(b_, id).back() == "PREPARED"; });
  FailAppend(b_, "REFUSED");
  EXPECT_FALSE(Await((*b_.sessions->Find(id))->Cancel("changed my mind")).ok());
  EXPECT_EQ(Describe(b_, id).failed_at(), v1::MIGRATION_ORIGIN_DESTINATION);
  go_on.Set();
  a_.host.store.before_append = nullptr;
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  const v1::Session there = Describe(b_, id);
  EXPECT_EQ(there.outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
  EXPECT_EQ(there.failed_at(), v1::MIGRATION_ORIGIN_UNSPECIFIED);
}

// --- The journal ---

class JournalFailureTest : public FailureTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(JournalFailureTest, SourceTakesNoStepWithoutItsRecord) {
  auto vm = Boot();
  FailAppend(a_, GetParam());
  auto started = Await(a_.sessions->Migrate(MigrateRequest()));
  if (std::string(GetParam()) == "OPEN") {
    EXPECT_EQ(started.status().code(), absl::StatusCode::kResourceExhausted);
    ExpectRolledBack(vm);
    EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
    return;
  }
  ASSERT_TRUE(started.ok());
  ExpectEnds(vm, started->session_id(), "the disk is full");
}
INSTANTIATE_TEST_SUITE_P(Records, JournalFailureTest,
                         ::testing::Values("OPEN", "TRANSFER", "QUIESCED", "COMMIT"),
                         [](const auto& info) { return std::string(info.param); });

class DestinationJournalFailureTest : public JournalFailureTest {};

TEST_P(DestinationJournalFailureTest, DestinationTakesNoStepWithoutItsRecord) {
  auto vm = Boot();
  FailAppend(b_, GetParam());
  ExpectFails(vm, "the disk is full");
}
INSTANTIATE_TEST_SUITE_P(Records, DestinationJournalFailureTest,
                         ::testing::Values("IMPORTED", "LISTENING", "PREPARED"),
                         [](const auto& info) { return std::string(info.param); });

class LateJournalFailureTest : public JournalFailureTest {};

// After COMMIT there is one way only: the record is tried again when the source asks again.
TEST_P(LateJournalFailureTest, IsTriedAgain) {
  auto vm = Boot();
  a_.deps->limits.release = milliseconds(20);
  const std::string kind = GetParam();
  FailAppend(kind == "RELEASED" ? a_ : b_, kind);
  const std::string id = Migrate();
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
  EXPECT_EQ(Kinds(a_, id).back(), "RELEASED");
  EXPECT_THAT(Kinds(b_, id),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING"));
}
INSTANTIATE_TEST_SUITE_P(Records, LateJournalFailureTest,
                         ::testing::Values("GRANTED", "RUNNING", "RELEASED"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(FailureTest, AbortThatCannotBeWrittenDoesNotHoldTheVm) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  FailAppend(a_, "ABORT");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  EXPECT_TRUE(Await((*a_.sessions->Find(id))->Cancel("changed my mind")).ok());
  a_.host.backend.script().Release("Page");
  ExpectEnds(vm, id, "changed my mind", v1::SESSION_OUTCOME_CANCELLED);
}

}  // namespace
}  // namespace ferry::migration
