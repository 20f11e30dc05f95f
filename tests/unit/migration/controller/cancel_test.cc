// Cancel in each phase.
#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

class CancelTest : public ControllerTest {
 protected:
  absl::Status Cancel(MigrationHost& host, const std::string& id) {
    auto session = host.sessions->Find(id);
    if (!session.ok()) return session.status();
    return Await((*session)->Cancel("changed my mind"));
  }

  void ExpectCancelled(const std::shared_ptr<vm::UtilityVm>& vm, const std::string& id) {
    EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_CANCELLED);
    EXPECT_EQ(Wait(a_, id).reason(), "cancelled");
    const v1::Session session = Wait(a_, id);
    EXPECT_EQ(session.state(), v1::SESSION_STATE_FINALIZED);
    EXPECT_EQ(session.error(), "changed my mind");
    EXPECT_EQ(session.vm_location(), "host-a:1");
    EXPECT_EQ(Kinds(a_, id).back(), "ABORT");
    ExpectRolledBack(vm);
    EXPECT_EQ(vm->epoch(), 1u);
    // Reusable at once.
    EXPECT_EQ(Wait(a_, Migrate()).vm_location(), "host-b:1");
    ExpectMoved(vm, 2);
  }

  static std::string Reason(const absl::Status& status) {
    auto info = rpc::GetErrorInfo(status);
    return info ? info->reason() : "";
  }
};

TEST_F(CancelTest, BeforeTheTransfer) {
  auto vm = Boot();
  peer_->Block("Import");
  const std::string id = Migrate();
  Await(peer_->WaitBlocked("Import"));
  EXPECT_TRUE(Cancel(a_, id).ok());
  EXPECT_TRUE(Cancel(a_, id).ok());
  peer_->Release("Import");
  ExpectCancelled(vm, id);
}

TEST_F(CancelTest, WhileTheDestinationPrepares) {
  auto vm = Boot();
  b_.host.backend.script().Block("Create");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("Create"));
  auto there = Begin((*b_.sessions->Find(id))->Cancel("changed my mind"));
  Settle();
  b_.host.backend.script().Release("Create");
  EXPECT_TRUE(Finish(there).ok());
  const v1::Session session = Wait(a_, id);
  EXPECT_NE(session.error(), "");
  ExpectRolledBack(vm);
}

TEST_F(CancelTest, ThatCannotGiveTheVmBackAtFirstIsTriedAgain) {
  auto vm = Boot();
  a_.deps->limits.ask_again = milliseconds(1);
  vm::FakeScript& script = a_.host.backend.script();
  peer_->FailNext("Prepare", absl::UnavailableError("no answer"));
  script.FailNext("CancelLiveMigration", absl::DeadlineExceededError("slow"));
  peer_->Block("Cancel");
  const std::string id = Migrate();
  Await(peer_->WaitBlocked("Cancel"));
  script.FailNext("CancelLiveMigration", absl::DeadlineExceededError("slow"));
  peer_->Release("Cancel");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-a:1");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_FALSE(vm->current_notice().has_value());
}

TEST_F(CancelTest, DuringTheMemoryTransfer) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  EXPECT_EQ(State(a_, id), v1::SESSION_STATE_TRANSFERRING);
  EXPECT_TRUE(Cancel(a_, id).ok());
  a_.host.backend.script().Release("Page");
  ExpectCancelled(vm, id);
}

TEST_F(CancelTest, WhileTheGuestIsStopped) {
  auto vm = Boot();
  a_.host.backend.script().Block("SwitchOver");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("SwitchOver"));
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  EXPECT_EQ(Kinds(a_, id).back(), "QUIESCED");
  EXPECT_TRUE(Cancel(a_, id).ok());
  a_.host.backend.script().Release("SwitchOver");
  ExpectCancelled(vm, id);
}

TEST_F(CancelTest, WhileTheDestinationLoadsTheState) {
  auto vm = Boot();
  b_.host.backend.script().Block("Load");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("Load"));
  EXPECT_TRUE(Cancel(a_, id).ok());
  b_.host.backend.script().Release("Load");
  ExpectCancelled(vm, id);
}

TEST_F(CancelTest, OnTheDestinationDuringTheTransfer) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  EXPECT_TRUE(Cancel(b_, id).ok());
  a_.host.backend.script().Release("Page");
  const v1::Session session = Wait(a_, id);
  EXPECT_THAT(session.error(), HasSubstr("changed my mind"));
  ExpectRolledBack(vm);
}

TEST_F(CancelTest, KeepsItsReasonWhenTheDestinationStumblesOverTheTornStream) {
  auto vm = Boot();
  vm::FakeScript& script = a_.host.backend.script();
  script.Block("Page");
  const std::string id = Migrate();
  Await(script.WaitBlocked("Page"));
  script.Block("CancelLiveMigration");
  auto here = Begin((*a_.sessions->Find(id))->Cancel("changed my mind"));
  Await(script.WaitBlocked("CancelLiveMigration"));
  auto there = Begin((*b_.sessions->Find(id))->Cancel("cannot load this"));
  EXPECT_TRUE(Finish(there).ok());
  Settle();
  script.Release("CancelLiveMigration");
  script.Release("Page");
  EXPECT_TRUE(Finish(here).ok());
  ExpectCancelled(vm, id);
}

TEST_F(CancelTest, IsRefusedOnceTheCommitBegins) {
  auto vm = Boot();
  AsyncEvent go_on(io_.get_executor());
  HoldAppend(a_, "COMMIT", go_on);
  const std::string id = Migrate();
  Until([&] { return State(a_, id) == v1::SESSION_STATE_TRANSFER_COMPLETED; });
  Settle();
  const absl::Status status = Cancel(a_, id);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Reason(status), "past_point_of_no_return");
  go_on.Set();
  Wait(a_, id);
  ExpectMoved(vm, 2);
}

TEST_F(CancelTest, IsRefusedAfterTheCommit) {
  auto vm = Boot();
  b_.host.backend.script().Block("FinalizeLiveMigration");
  const std::string id = Migrate();
  Await(b_.host.backend.script().WaitBlocked("FinalizeLiveMigration"));
  EXPECT_EQ(Kinds(a_, id).back(), "COMMIT");
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  const absl::Status status = Cancel(a_, id);
  EXPECT_EQ(Reason(status), "past_point_of_no_return");
  auto there = Begin((*b_.sessions->Find(id))->Cancel("changed my mind"));
  b_.host.backend.script().Release("FinalizeLiveMigration");
  EXPECT_EQ(Reason(Finish(there)), "past_point_of_no_return");
  EXPECT_EQ(Wait(a_, id).vm_location(), "host-b:1");
  ExpectMoved(vm, 2);
}

TEST_F(CancelTest, FinishedMigrationCannotBeCancelled) {
  Boot();
  const std::string id = Migrate();
  Wait(a_, id);
  EXPECT_EQ(Cancel(a_, id).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(CancelTest, ThatTheVmmRefusesCanBeTriedAgain) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  a_.host.backend.script().FailNext("CancelLiveMigration", absl::InternalError("busy"));
  EXPECT_EQ(Cancel(a_, id).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(Cancel(a_, id).ok());
  a_.host.backend.script().Release("Page");
  ExpectCancelled(vm, id);
}

TEST_F(CancelTest, PausedVmStaysPaused) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  a_.host.backend.script().Block("SwitchOver");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("SwitchOver"));
  EXPECT_TRUE(Cancel(a_, id).ok());
  a_.host.backend.script().Release("SwitchOver");
  Wait(a_, id);
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_FALSE(a_.host.System(*vm)->Step());
  ASSERT_TRUE(Await(vm->Resume()).ok());
  ExpectRolledBack(vm);
}

TEST_F(CancelTest, IsToldToSubscribers) {
  Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  EXPECT_TRUE(Cancel(a_, id).ok());
  a_.host.backend.script().Release("Page");
  Wait(a_, id);
  const auto notifications = Notifications(a_, id);
  bool cancelled = false;
  for (const auto& message : notifications) {
    cancelled |= message.notification().state() == v1::MIGRATION_PHASE_STATE_CANCELLED;
  }
  EXPECT_TRUE(cancelled);
  EXPECT_EQ(notifications.back().notification().phase(), v1::MIGRATION_PHASE_RECOVERY_DONE);
}

TEST_F(CancelTest, ShutdownOfTheDaemonCancelsWhatCanBeCancelled) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  Await(a_.sessions->Shutdown());
  a_.host.backend.script().Release("Page");
  EXPECT_EQ(Wait(a_, id).error(), "the daemon stops");
  ExpectRolledBack(vm);
}

TEST_F(CancelTest, ShutdownOfTheDestinationsDaemonSendsTheVmBack) {
  auto vm = Boot();
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  Await(b_.sessions->Shutdown());
  a_.host.backend.script().Release("Page");
  EXPECT_THAT(Wait(a_, id).error(), HasSubstr("the daemon stops"));
  ExpectRolledBack(vm);
}

}  // namespace
}  // namespace ferry::migration
