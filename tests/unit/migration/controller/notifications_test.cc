// What subscribers of both sides are told, in each way in which a session can end.
#include "tests/unit/migration/controller/driven_fixture.h"

namespace ferry::migration {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

constexpr v1::MigrationPhase kSetupDone = v1::MIGRATION_PHASE_SETUP_DONE;
constexpr v1::MigrationPhase kProgress = v1::MIGRATION_PHASE_TRANSFER_IN_PROGRESS;
constexpr v1::MigrationPhase kBlackout = v1::MIGRATION_PHASE_BLACKOUT_STARTED;
constexpr v1::MigrationPhase kOffline = v1::MIGRATION_PHASE_OFFLINE_DONE;
constexpr v1::MigrationPhase kExited = v1::MIGRATION_PHASE_BLACKOUT_EXITED;
constexpr v1::MigrationPhase kDone = v1::MIGRATION_PHASE_DONE;
constexpr v1::MigrationPhase kRecovered = v1::MIGRATION_PHASE_RECOVERY_DONE;
constexpr v1::MigrationPhase kFailed = v1::MIGRATION_PHASE_FAILED;

constexpr v1::MigrationPhaseState kSuccess = v1::MIGRATION_PHASE_STATE_SUCCESS;
constexpr v1::MigrationPhaseState kCancelled = v1::MIGRATION_PHASE_STATE_CANCELLED;
constexpr v1::MigrationPhaseState kByGuest = v1::MIGRATION_PHASE_STATE_GUEST_INITIATED_CANCELLATION;
constexpr v1::MigrationPhaseState kSourceFailed = v1::MIGRATION_PHASE_STATE_SOURCE_FAILED;
constexpr v1::MigrationPhaseState kDestinationFailed = v1::MIGRATION_PHASE_STATE_DESTINATION_FAILED;

using Step = std::pair<v1::MigrationPhase, v1::MigrationPhaseState>;

class NotificationsTest : public DrivenTest {
 protected:
  // What a side has told; repeated progress once. Checks what holds of all.
  std::vector<Step> Told(MigrationHost& host, const std::string& id) {
    std::vector<Step> steps;
    uint32_t last = 0;
    const auto origin =
        &host == &a_ ? v1::MIGRATION_ORIGIN_SOURCE : v1::MIGRATION_ORIGIN_DESTINATION;
    for (const v1::NotificationsResponse& message : Notifications(host, id)) {
      EXPECT_EQ(message.message_id(), ++last);
      EXPECT_EQ(message.notification().origin(), origin);
      EXPECT_TRUE(message.has_start_time() && message.has_update_time());
      const Step step{message.notification().phase(), message.notification().state()};
      if (step.first != kProgress || steps.empty() || steps.back() != step) steps.push_back(step);
    }
    EXPECT_EQ(Describe(host, id).last_message_id(), last);
    return steps;
  }

  // A one-call migration that stands where the source's VMM is about to do `verb`.
  std::string MigrateUpTo(const std::string& verb) {
    Boot();
    a_.host.backend.script().Block(verb);
    const std::string id = Migrate();
    Await(a_.host.backend.script().WaitBlocked(verb));
    return id;
  }
  void GoOn(const std::string& verb, const std::string& id) {
    a_.host.backend.script().Release(verb);
    Wait(a_, id);
    Wait(b_, id);
  }

  // What both sides tell of a migration that ended before its guest was stopped for it.
  void ExpectEndedWhileItRan(const std::string& id, v1::MigrationPhaseState how) {
    EXPECT_THAT(Told(a_, id), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                          Step{kDone, how}, Step{kRecovered, kSuccess}));
    EXPECT_THAT(Told(b_, id), ElementsAre(Step{kDone, how}));
  }

  // And of one that ended in its blackout.
  void ExpectEndedWhileStopped(const std::string& id, v1::MigrationPhaseState how) {
    EXPECT_THAT(Told(a_, id), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                          Step{kBlackout, kSuccess}, Step{kFailed, how},
                                          Step{kRecovered, kSuccess}));
    EXPECT_THAT(Told(b_, id), ElementsAre(Step{kDone, how}));
  }
};

TEST_F(NotificationsTest, OfAMigrationThatSucceeds) {
  Boot();
  const std::string id = Migrate();
  Wait(a_, id);
  EXPECT_THAT(Told(a_, id), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                        Step{kBlackout, kSuccess}, Step{kOffline, kSuccess},
                                        Step{kDone, kSuccess}));
  EXPECT_THAT(Told(b_, id), ElementsAre(Step{kExited, kSuccess}, Step{kDone, kSuccess}));
  const v1::BlackoutExitedDetails details =
      Notifications(b_, id).front().notification().blackout_exited();
  EXPECT_GT(details.device_ms(), 0);
  EXPECT_GT(details.commit_ms(), 0);
  EXPECT_GT(details.resume_ms(), 0);
  EXPECT_NEAR(details.blackout_ms(),
              details.device_ms() + details.commit_ms() + details.resume_ms(), 0.01);
  EXPECT_NEAR(static_cast<double>(details.blackout_duration_milliseconds()), details.blackout_ms(),
              0.51);
  EXPECT_TRUE(details.has_blackout_stop_timestamp());
  EXPECT_GT(details.blackout_stop_timestamp().nanos(), 0);
}

TEST_F(NotificationsTest, OfACancelWhileMemoryMoves) {
  const std::string id = MigrateUpTo("Page");
  EXPECT_TRUE(Cancel(a_, id).ok());
  GoOn("Page", id);
  ExpectEndedWhileItRan(id, kCancelled);
  // The destination has nothing to complain about: it knows why.
  const v1::Session there = Describe(b_, id);
  EXPECT_EQ(there.outcome(), v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_EQ(there.reason(), "cancelled");
  EXPECT_EQ(there.error(), "no more");
}

TEST_F(NotificationsTest, OfACancelWhileTheGuestIsStopped) {
  const std::string id = MigrateUpTo("SwitchOver");
  EXPECT_TRUE(Cancel(a_, id).ok());
  GoOn("SwitchOver", id);
  ExpectEndedWhileStopped(id, kCancelled);
}

TEST_F(NotificationsTest, OfACancelAtTheDestination) {
  const std::string id = MigrateUpTo("Page");
  EXPECT_TRUE(Cancel(b_, id).ok());
  Until([&] { return State(a_, id) != v1::SESSION_STATE_TRANSFERRING; });
  GoOn("Page", id);
  ExpectEndedWhileItRan(id, kCancelled);
  EXPECT_EQ(Describe(a_, id).outcome(), v1::SESSION_OUTCOME_CANCELLED);
}

TEST_F(NotificationsTest, OfAFailureAtTheSource) {
  const std::string id = MigrateUpTo("Page");
  a_.host.backend.script().FailNext("Page", absl::InternalError("broken"));
  GoOn("Page", id);
  ExpectEndedWhileItRan(id, kSourceFailed);
  EXPECT_THAT(Describe(b_, id).error(), HasSubstr("broken"));
}

TEST_F(NotificationsTest, OfAFailureAtTheSourceInTheBlackout) {
  const std::string id = MigrateUpTo("SwitchOver");
  a_.host.backend.script().FailNext("SwitchOver", absl::InternalError("broken"));
  GoOn("SwitchOver", id);
  ExpectEndedWhileStopped(id, kSourceFailed);
}

TEST_F(NotificationsTest, OfAFailureAtTheDestination) {
  Boot();
  b_.host.backend.script().FailNext("Load", absl::InternalError("cannot load this"));
  const std::string id = Migrate();
  Wait(a_, id);
  ExpectEndedWhileStopped(id, kDestinationFailed);
  EXPECT_THAT(Describe(a_, id).error(), HasSubstr("cannot load this"));
  EXPECT_THAT(Describe(b_, id).error(), HasSubstr("cannot load this"));
}

TEST_F(NotificationsTest, OfADestinationThatCannotBeReached) {
  Boot();
  peer_->FailNext("Import", absl::UnavailableError("no route"));
  const std::string id = Migrate();
  Wait(a_, id);
  EXPECT_THAT(Told(a_, id),
              ElementsAre(Step{kDone, kDestinationFailed}, Step{kRecovered, kSuccess}));
}

TEST_F(NotificationsTest, OfAGuestThatShutsDownWhileMemoryMoves) {
  const std::string id = MigrateUpTo("Page");
  auto vm = *a_.host.inventory->Find("web");
  a_.host.System(*vm)->Exit(vm::SystemExit::Cause::kShutdown, "the guest powered off");
  GoOn("Page", id);
  EXPECT_THAT(Told(a_, id), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                        Step{kFailed, kByGuest}));
  EXPECT_THAT(Told(b_, id), ElementsAre(Step{kDone, kCancelled}));
  for (MigrationHost* host : {&a_, &b_}) {
    EXPECT_EQ(Describe(*host, id).outcome(), v1::SESSION_OUTCOME_CANCELLED);
    EXPECT_EQ(Describe(*host, id).reason(), "guest_shutdown");
  }
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  EXPECT_FALSE(vm->current_notice().has_value());
  ExpectEmpty(b_);
  EXPECT_TRUE(Await(vm->Start()).ok());
}

// A VMM gives up its stream before anybody hears that it has ended.
TEST_F(NotificationsTest, OfAGuestWhoseEndIsToldAfterTheTransferHasFailed) {
  const std::string id = MigrateUpTo("Page");
  auto vm = *a_.host.inventory->Find("web");
  a_.host.backend.script().ending = true;
  a_.host.backend.script().FailNext("Page", absl::AbortedError("cancelled"));
  a_.host.backend.script().Release("Page");
  Settle();
  EXPECT_EQ(State(a_, id), v1::SESSION_STATE_TRANSFERRING);
  a_.host.System(*vm)->Exit(vm::SystemExit::Cause::kReset, "the guest reset itself");
  Wait(a_, id);
  EXPECT_EQ(Describe(a_, id).outcome(), v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_EQ(Describe(a_, id).reason(), "guest_reset");
}

TEST_F(NotificationsTest, OfAGuestThatEndsItselfBeforeTheTransfer) {
  for (const auto& [cause, word] : std::vector<std::pair<vm::SystemExit::Cause, std::string>>{
           {vm::SystemExit::Cause::kShutdown, "guest_shutdown"},
           {vm::SystemExit::Cause::kReset, "guest_reset"}}) {
    auto vm = Boot(word);
    PrepareBoth(word, word);
    EXPECT_TRUE(Transfer(a_, word).ok());  // waits for its socket
    a_.host.System(*vm)->Exit(cause, "by itself");
    Until([&] { return Describe(a_, word).done(); });
    EXPECT_EQ(Describe(a_, word).reason(), word);
    EXPECT_THAT(Told(a_, word), ElementsAre(Step{kFailed, kByGuest}));
    EXPECT_TRUE(Stop(b_, word).ok());
    EXPECT_TRUE(Cleanup(a_, word).ok());
  }
}

TEST_F(NotificationsTest, OfAVmmThatDiesAtTheSource) {
  const std::string id = MigrateUpTo("Page");
  auto vm = *a_.host.inventory->Find("web");
  a_.host.System(*vm)->Exit(vm::SystemExit::Cause::kCrashed, "killed");
  GoOn("Page", id);
  EXPECT_THAT(Told(a_, id), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                        Step{kDone, kSourceFailed}));
  EXPECT_EQ(Describe(a_, id).reason(), "source_vm_died");
  EXPECT_THAT(Told(b_, id), ElementsAre(Step{kDone, kSourceFailed}));
}

TEST_F(NotificationsTest, OfARollbackByTheCaller) {
  Boot();
  TransferBoth("s1");
  EXPECT_TRUE(Resume(a_, "s1").ok());
  Until([&] { return Describe(b_, "s1").done(); });
  EXPECT_THAT(Told(a_, "s1"), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                          Step{kBlackout, kSuccess}, Step{kOffline, kSuccess},
                                          Step{kFailed, kCancelled}, Step{kRecovered, kSuccess}));
  EXPECT_EQ(Describe(a_, "s1").outcome(), v1::SESSION_OUTCOME_CANCELLED);
  EXPECT_THAT(Told(b_, "s1"), ElementsAre(Step{kDone, kCancelled}));
}

TEST_F(NotificationsTest, OfARefusalAfterTheCommit) {
  Boot();
  TransferBoth("s1");
  ASSERT_TRUE(Stop(a_, "s1").ok());
  auto refused = Stop(b_, "s1");
  ASSERT_TRUE(refused.ok());
  EXPECT_TRUE(Resume(a_, "s1", *refused).ok());
  EXPECT_THAT(Told(a_, "s1"), ElementsAre(Step{kSetupDone, kSuccess}, Step{kProgress, kSuccess},
                                          Step{kBlackout, kSuccess}, Step{kOffline, kSuccess},
                                          Step{kFailed, kCancelled}, Step{kRecovered, kSuccess}));
}

TEST_F(NotificationsTest, AreTheSameAfterTheSessionIsARecordAndAfterARestart) {
  Boot();
  TransferBoth("s1");
  ASSERT_TRUE(Stop(a_, "s1", *Resume(b_, "s1", *Stop(a_, "s1"))).ok());
  const auto lively = Told(a_, "s1");
  const std::string session = Describe(a_, "s1").SerializeAsString();
  ASSERT_TRUE(Cleanup(a_, "s1").ok());
  EXPECT_EQ(Told(a_, "s1"), lively);
  EXPECT_EQ(Describe(a_, "s1").SerializeAsString(), session);
  Settle();
  a_.Open(Peers());
  ASSERT_TRUE(Await(a_.sessions->Load(JournalTrust::kWhole)).ok());
  EXPECT_EQ(Told(a_, "s1"), lively);
  EXPECT_EQ(Describe(a_, "s1").SerializeAsString(), session);
  EXPECT_EQ(Notifications(a_, "s1", 2).front().message_id(), 3u);
}

TEST_F(NotificationsTest, GoOnWhereADaemonDied) {
  auto vm = Boot();
  PrepareBoth("s1");
  a_.host.backend.script().Block("Page");
  EXPECT_TRUE(Transfer(b_, "s1").ok());
  EXPECT_TRUE(Transfer(a_, "s1", *Prepare(b_, "s1")).ok());
  Await(a_.host.backend.script().WaitBlocked("Page"));
  Settle();
  const uint32_t seen = Notifications(a_, "s1").back().message_id();
  SessionRegistry restarted(*a_.deps);
  ASSERT_TRUE(Await(restarted.Load(JournalTrust::kWhole)).ok());
  EXPECT_EQ(restarted.Describe("s1")->last_message_id(), seen);
  Await(restarted.Recover());
  Until([&] { return restarted.Describe("s1")->done(); });
  auto rest = Await((*Await(restarted.Notifications("s1")))->Next(seen));
  ASSERT_TRUE(rest.ok()) << rest.status();
  ASSERT_THAT(*rest, Not(IsEmpty()));
  EXPECT_GT(rest->front().message_id(), seen);
  EXPECT_EQ(rest->back().notification().phase(), kRecovered);
  a_.host.backend.script().Release("Page");
}

TEST_F(NotificationsTest, OfAnUnknownSessionThereAreNone) {
  EXPECT_EQ(Await(a_.sessions->Notifications("s1")).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace ferry::migration
