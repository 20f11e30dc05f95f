// The one-call migration when all goes well.
#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

class MigrateTest : public ControllerTest {};

TEST_F(MigrateTest, MovesTheVm) {
  auto vm = Boot();
  a_.host.System(*vm)->Step(7);
  const std::string id = Migrate();
  const v1::Session session = Wait(a_, id);
  EXPECT_EQ(session.state(), v1::SESSION_STATE_FINALIZED);
  EXPECT_EQ(session.vm_location(), "host-b:1");
  EXPECT_EQ(session.error(), "");
  ExpectMoved(vm, 2);
  auto there = *b_.host.inventory->Find("web");
  EXPECT_EQ(there->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(b_.host.System(*there)->counter(), 7u);
  EXPECT_TRUE(b_.host.System(*there)->Step());
  EXPECT_TRUE(Await(there->UsableGuest()).ok());
  const absl::Status gone = a_.host.inventory->Find("web").status();
  EXPECT_THAT(gone.message(), HasSubstr("moved to host-b:1"));
}

TEST_F(MigrateTest, WritesTheRecordsOfTheCommitProtocolInOrder) {
  Boot();
  const std::string id = Migrate();
  Wait(a_, id);
  EXPECT_THAT(Kinds(a_, id), ElementsAre("OPEN", "TRANSFER", "QUIESCED", "COMMIT", "RELEASED"));
  EXPECT_THAT(Kinds(b_, id),
              ElementsAre("IMPORTED", "LISTENING", "PREPARED", "GRANTED", "RUNNING"));
  EXPECT_EQ(a_.host.store.journal()[3].epoch, 2u);
  EXPECT_EQ(b_.host.store.journal()[3].epoch, 2u);
  EXPECT_TRUE(Await(a_.host.store.VerifyJournal()).ok());
}

TEST_F(MigrateTest, FillsStatistics) {
  Boot();
  const std::string id = Migrate();
  const v1::Statistics statistics = Wait(a_, id).statistics();
  EXPECT_GT(statistics.total_ms(), 0);
  EXPECT_GT(statistics.setup_ms(), 0);
  EXPECT_GT(statistics.blackout_ms(), 0);
  EXPECT_GT(statistics.blackout_device_ms(), 0);
  EXPECT_GE(statistics.blackout_commit_ms(), 0);
  EXPECT_GT(statistics.blackout_resume_ms(), 0);
  EXPECT_LE(statistics.blackout_ms(), statistics.total_ms());
  EXPECT_GT(statistics.transferred_bytes(), 8u * 64);
  EXPECT_EQ(statistics.memory_passes(), 1u);
  EXPECT_EQ(Describe(a_, id).progress().remaining_bytes(), 0u);
}

TEST_F(MigrateTest, NotifiesBothSidesCompletelyAndNumbered) {
  Boot();
  peer_->Block("Cleanup");
  const std::string id = Migrate();
  Await(peer_->WaitBlocked("Cleanup"));
  const auto source = Notifications(a_, id);
  EXPECT_THAT(Phases(source),
              ElementsAre(v1::MIGRATION_PHASE_SETUP_DONE, v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS,
                          v1::MIGRATION_PHASE_BLACKOUT_STARTED, v1::MIGRATION_PHASE_OFFLINE_DONE,
                          v1::MIGRATION_PHASE_DONE));
  const auto destination = Notifications(b_, id);
  EXPECT_THAT(Phases(destination),
              ElementsAre(v1::MIGRATION_PHASE_BLACKOUT_EXITED, v1::MIGRATION_PHASE_DONE));
  for (const auto* side : {&source, &destination}) {
    uint32_t expected = 1;
    for (const auto& message : *side) {
      EXPECT_EQ(message.message_id(), expected++);
      EXPECT_EQ(message.notification().state(), v1::MIGRATION_PHASE_STATE_SUCCESS);
      EXPECT_EQ(message.notification().origin(),
                side == &source ? v1::MIGRATION_ORIGIN_SOURCE : v1::MIGRATION_ORIGIN_DESTINATION);
    }
  }
  EXPECT_TRUE(destination.front().notification().has_blackout_exited());
  EXPECT_THAT(source.back().notification().message(), HasSubstr("runs at host-b:1"));
  peer_->Release("Cleanup");
  Settle();
}

TEST_F(MigrateTest, LateSubscriberGetsEverythingAndThenTheEnd) {
  Boot();
  const std::string id = Migrate();
  Wait(a_, id);
  auto session = *a_.sessions->Find(id);
  const uint32_t last = session->notifier()->last_id();
  EXPECT_EQ(Notifications(a_, id).size(), last);
  EXPECT_TRUE(Await(session->notifier()->Next(last))->empty());
}

TEST_F(MigrateTest, CarriesProcessesAndTheirStreams) {
  auto vm = Boot();
  guest::ProcessSpec spec;
  spec.command = {"cat"};
  spec.has_stdin = true;
  auto process = *Await((*Await(vm->UsableGuest()))->CreateProcess(spec));
  const uint32_t pid = process->pid();
  auto waited = Begin(process->Wait());
  Wait(a_, Migrate());
  ExpectMoved(vm, 2);
  auto there = *b_.host.inventory->Find("web");
  auto found = (*Await(there->UsableGuest()))->Find(pid);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->spec().command, spec.command);
  guest::FakeAgent& agent = guests_.Agent(vm->id());
  agent.EndOutput(pid);
  agent.Exit(pid, 3);
  auto exit = Await(found->Wait());
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->value, 3u);
  EXPECT_FALSE(Finish(waited).ok());
}

TEST_F(MigrateTest, GoesThereAndBack) {
  auto vm = Boot();
  Wait(a_, Migrate());
  auto back = Await(b_.sessions->Migrate(MigrateRequest("web", "host-a:1")));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Wait(b_, back->session_id()).vm_location(), "host-a:1");
  auto home = a_.host.inventory->Find("web");
  ASSERT_TRUE(home.ok()) << home.status();
  EXPECT_EQ((*home)->epoch(), 3u);
  EXPECT_EQ((*home)->id(), vm->id());
  ExpectEmpty(b_);
  EXPECT_THAT(b_.host.inventory->Find("web").status().message(), HasSubstr("moved to host-a:1"));
}

TEST_F(MigrateTest, PausedVmStaysPaused) {
  auto vm = Boot();
  a_.host.System(*vm)->Step(2);
  ASSERT_TRUE(Await(vm->Pause()).ok());
  Wait(a_, Migrate());
  ExpectMoved(vm, 2);
  auto there = *b_.host.inventory->Find("web");
  EXPECT_EQ(there->state(), v1::VM_STATE_PAUSED);
  EXPECT_FALSE(b_.host.System(*there)->Step());
  ASSERT_TRUE(Await(there->Resume()).ok());
  EXPECT_TRUE(b_.host.System(*there)->Step());
  EXPECT_EQ(b_.host.System(*there)->counter(), 3u);
}

TEST_F(MigrateTest, SameRequestIdReturnsTheSameSession) {
  Boot();
  v1::MigrateRequest request = MigrateRequest();
  request.set_request_id("r1");
  const std::string id = Migrate(request);
  EXPECT_EQ(Migrate(request), id);
  Wait(a_, id);
  EXPECT_EQ(Migrate(request), id);
  EXPECT_EQ(a_.sessions->List("").size(), 1u);
}

TEST_F(MigrateTest, RefusesWhatCannotBe) {
  Boot();
  auto code = [&](v1::MigrateRequest request) {
    return Await(a_.sessions->Migrate(std::move(request))).status().code();
  };
  EXPECT_EQ(code(MigrateRequest("nowhere")), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(MigrateRequest("web", "")), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MigrateRequest("web", "host-a:1")), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MigrateRequest("web", "host-c:1")), absl::StatusCode::kInvalidArgument);
  v1::MigrateRequest bad = MigrateRequest();
  bad.mutable_options()->mutable_memory_transfer_throttle_params()->set_throttling_scale(1000);
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(a_.sessions->List("").empty());
  EXPECT_TRUE(a_.host.store.journal().empty());
}

TEST_F(MigrateTest, StoppedVmIsRefused) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1000))).ok());
  auto session = Await(a_.sessions->Migrate(MigrateRequest()));
  EXPECT_EQ(session.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(session.status().message(), HasSubstr("STOPPED"));
}

TEST_F(MigrateTest, SecondMigrationOfTheVmIsRefused) {
  auto vm = Boot();
  a_.host.backend.script().Block("Transfer");
  const std::string id = Migrate();
  auto second = Await(a_.sessions->Migrate(MigrateRequest()));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr(id));
  a_.host.backend.script().Release("Transfer");
  EXPECT_EQ(Wait(a_, id).state(), v1::SESSION_STATE_FINALIZED);
  ExpectMoved(vm, 2);
}

TEST_F(MigrateTest, AttachedClientsAreToldWhereToGo) {
  struct Recorder final : vm::MoveObserver {
    void OnNotice(const vm::MigrationNotice& notice) override { kinds.push_back(notice.kind); }
    std::vector<vm::MigrationNotice::Kind> kinds;
  } recorder;
  auto vm = Boot();
  vm->AddObserver(&recorder);
  Wait(a_, Migrate());
  vm->RemoveObserver(&recorder);
  EXPECT_THAT(recorder.kinds,
              ElementsAre(vm::MigrationNotice::Kind::kOpened, vm::MigrationNotice::Kind::kMoved));
}

}  // namespace
}  // namespace ferry::migration
