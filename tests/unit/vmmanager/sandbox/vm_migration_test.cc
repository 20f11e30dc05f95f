// What a VM does for its migrations.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

class VmMigrationTest : public SandboxTest {
 protected:
  std::shared_ptr<UtilityVm> Incoming() {
    auto vm = Create("incoming");
    const schema::MigrationInitializeOptions options;
    MigrationEndpoint endpoint;
    endpoint.unix_path = folder_.path() + "/in";
    vm->ExpectMigration("session-1");
    EXPECT_TRUE(Await(vm->PrepareIncoming(options, endpoint)).ok());
    return vm;
  }
};

TEST_F(VmMigrationTest, OneMigrationHoldsIt) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_MIGRATING_OUT);
  EXPECT_EQ(vm->Describe(false).session_id(), "session-1");
  const absl::Status second = vm->OpenMigration("session-2", "host-c:1");
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.message(), HasSubstr("session-1"));
  vm->ReturnFromMigration(1);
  EXPECT_TRUE(vm->OpenMigration("session-2", "host-c:1").ok());
}

TEST_F(VmMigrationTest, IsRefusedDuringAnotherOperation) {
  auto vm = Boot();
  host_.backend.script().Block("Pause");
  auto paused = Begin(vm->Pause());
  Await(host_.backend.script().WaitBlocked("Pause"));
  EXPECT_EQ(vm->OpenMigration("session-1", "host-b:1").code(),
            absl::StatusCode::kFailedPrecondition);
  host_.backend.script().Release("Pause");
  EXPECT_TRUE(Finish(paused).ok());
  EXPECT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
}

TEST_F(VmMigrationTest, ObserversAreToldOpenedMovedAndClosed) {
  auto vm = Boot();
  RecordingObserver observer;
  vm->AddObserver(&observer);
  EXPECT_FALSE(vm->current_notice().has_value());
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  ASSERT_TRUE(vm->current_notice().has_value());
  vm->AnnounceMove();
  vm->ReturnFromMigration(1);
  vm->RemoveObserver(&observer);
  ASSERT_TRUE(vm->OpenMigration("session-2", "host-b:1").ok());
  ASSERT_EQ(observer.notices.size(), 3u);
  EXPECT_EQ(observer.notices[0].kind, MigrationNotice::Kind::kOpened);
  EXPECT_EQ(observer.notices[1].kind, MigrationNotice::Kind::kMoved);
  EXPECT_EQ(observer.notices[1].destination, "host-b:1");
  EXPECT_EQ(observer.notices[2].kind, MigrationNotice::Kind::kClosed);
  EXPECT_EQ(observer.notices[2].session_id, "session-1");
}

TEST_F(VmMigrationTest, GuestIsWaitedForThroughAFreeze) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  EXPECT_TRUE(Await(vm->UsableGuest()).ok());
  vm->FreezeGuest();
  auto guest = Begin(vm->UsableGuest());
  Settle();
  EXPECT_FALSE(guest->has_value());
  vm->UnfreezeGuest();
  EXPECT_EQ(*Finish(guest), vm->guest());
}

TEST_F(VmMigrationTest, GuestIsWaitedForWhileInDoubtAndComesBackWithAReclaim) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->FreezeGuest();
  vm->MarkInDoubt();
  EXPECT_EQ(vm->state(), v1::VM_STATE_IN_DOUBT);
  EXPECT_THAT(vm->Describe(false).state_reason(), HasSubstr("host-b:1"));
  auto guest = Begin(vm->UsableGuest());
  Settle();
  EXPECT_FALSE(guest->has_value());
  vm->ReturnFromMigration(3);
  EXPECT_TRUE(Finish(guest).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(vm->epoch(), 3u);
  Settle();
  EXPECT_EQ(Row(vm->id()).epoch, 3u);
}

// What observers find of what detached processes have printed.
struct OutputObserver final : MoveObserver {
  explicit OutputObserver(UtilityVm& of) : vm(of) {}
  void OnNotice(const MigrationNotice&) override {}
  void OnEnded() override { found = std::filesystem::exists(vm.OutputFile(7)); }
  UtilityVm& vm;
  std::optional<bool> found;
};

TEST_F(VmMigrationTest, OutputStaysUntilWhoeverKeepsItIsToldThatTheVmEnded) {
  host_.settings.spool_folder = folder_.path() + "/spool";
  std::filesystem::create_directory(host_.settings.spool_folder);
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  OutputObserver observer(*vm);
  vm->AddObserver(&observer);
  std::ofstream(vm->OutputFile(7)) << "printed";
  vm->MarkInDoubt();
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "a signal");
  Settle();
  EXPECT_FALSE(observer.found.has_value());
  vm->ReturnFromMigration(3);
  EXPECT_EQ(observer.found, true);
  EXPECT_FALSE(std::filesystem::exists(vm->OutputFile(7)));
  vm->RemoveObserver(&observer);
}

TEST_F(VmMigrationTest, OutputOfAVmThatEndedOnItsWayIsNotLeftBehind) {
  host_.settings.spool_folder = folder_.path() + "/spool";
  std::filesystem::create_directory(host_.settings.spool_folder);
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  std::ofstream(vm->OutputFile(7)) << "printed";
  vm->MarkInDoubt();
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "a signal");
  Settle();
  EXPECT_TRUE(Await(vm->Relinquish()).ok());
  EXPECT_FALSE(std::filesystem::exists(vm->OutputFile(7)));
}

TEST_F(VmMigrationTest, WaitForTheGuestEndsWithWhereTheVmIs) {
  host_.settings.outcome_wait = milliseconds(10);
  auto incoming = Incoming();
  absl::Status status = Await(incoming->UsableGuest()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("migration session-1 still brings it"));
  EXPECT_THAT(status.message(), HasSubstr("runs at its source until it is handed over"));
  Await(incoming->Discard(absl::CancelledError("over")));
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->FreezeGuest();
  status = Await(vm->UsableGuest()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("session-1"));
  vm->MarkInDoubt();
  status = Await(vm->UsableGuest()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("only host-b:1 knows whether it runs there"));
  vm->ReturnFromMigration(3);
  EXPECT_TRUE(Await(vm->UsableGuest()).ok());
}

TEST_F(VmMigrationTest, LettingGoEndsEveryWait) {
  auto vm = Boot();
  auto incoming = Incoming();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->FreezeGuest();
  auto guest = Begin(vm->UsableGuest());
  auto there = Begin(incoming->UsableGuest());
  auto resumed = Begin(vm->Resume());
  auto paused = Begin(vm->Pause());
  Settle();
  Await(host_.inventory->Detach());
  EXPECT_EQ(Finish(guest).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Finish(there).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Finish(resumed).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Finish(paused).code(), absl::StatusCode::kUnavailable);
}

TEST_F(VmMigrationTest, ResumeHoldsUpNothingAndSaysWhereTheVmWent) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  auto resumed = Begin(vm->Resume());
  Settle();
  const absl::Status stopped = Await(vm->Stop(true, milliseconds(10)));
  EXPECT_EQ(stopped.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(stopped.message(), HasSubstr("session-1"));
  EXPECT_FALSE(resumed->has_value());
  vm->MarkInDoubt();
  (void)Await(vm->Relinquish());
  const absl::Status status = Finish(resumed);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("moved to host-b:1"));
}

TEST_F(VmMigrationTest, PauseAfterTheCutWaitsForTheOutcome) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->FreezeGuest();
  auto paused = Begin(vm->Pause());
  Settle();
  EXPECT_FALSE(paused->has_value());
  EXPECT_FALSE(vm->paused_by_user());
  vm->ReturnFromMigration(1);
  EXPECT_TRUE(Finish(paused).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  ASSERT_TRUE(Await(vm->Resume()).ok());

  ASSERT_TRUE(vm->OpenMigration("session-2", "host-b:1").ok());
  vm->FreezeGuest();
  paused = Begin(vm->Pause());
  Settle();
  vm->MarkInDoubt();
  (void)Await(vm->Relinquish());
  EXPECT_THAT(Finish(paused).message(), HasSubstr("moved to host-b:1"));
}

TEST_F(VmMigrationTest, PauseThatTheCutCatchesGoesWithTheVm) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  host_.backend.script().Block("Pause");
  auto paused = Begin(vm->Pause());
  Await(host_.backend.script().WaitBlocked("Pause"));
  vm->FreezeGuest();
  EXPECT_TRUE(vm->paused_by_user());
  host_.backend.script().Release("Pause");
  EXPECT_TRUE(Finish(paused).ok());
  EXPECT_TRUE(vm->paused_by_user());
}

TEST_F(VmMigrationTest, GuestThatMovedNamesItsNewHome) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->FreezeGuest();
  vm->MarkInDoubt();
  auto guest = Begin(vm->UsableGuest());
  Settle();
  (void)Await(vm->Relinquish());
  const absl::Status status = Finish(guest).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("moved to host-b:1"));
  EXPECT_EQ(Await(vm->UsableGuest()).status(), status);
  Settle();
  EXPECT_EQ(vm->system(), nullptr);
}

TEST_F(VmMigrationTest, RelinquishedVmIsNotWrittenToTheStoreAgain) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  vm->MarkInDoubt();
  (void)Await(vm->Relinquish());
  ASSERT_TRUE(Await(host_.inventory->Forget(vm->id(), "host-b:1")).ok());
  Settle();
  EXPECT_EQ(Row(vm->id()).id, "");
}

TEST_F(VmMigrationTest, IncomingVmWaitsForItsTurn) {
  auto vm = Incoming();
  EXPECT_EQ(vm->state(), v1::VM_STATE_INCOMING);
  EXPECT_EQ(vm->Describe(false).session_id(), "session-1");
  auto guest = Begin(vm->UsableGuest());
  Settle();
  EXPECT_FALSE(guest->has_value());
  Await(vm->Discard(absl::CancelledError("called off")));
  EXPECT_FALSE(Finish(guest).ok());
  Settle();
  EXPECT_EQ(vm->system(), nullptr);
}

TEST_F(VmMigrationTest, IncomingVmCanBePreparedOnce) {
  auto vm = Incoming();
  const schema::MigrationInitializeOptions options;
  const MigrationEndpoint endpoint;
  EXPECT_EQ(Await(vm->PrepareIncoming(options, endpoint)).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(VmMigrationTest, AStaleCopyIsItsSessionsAlone) {
  auto vm = Boot();
  RecordingObserver observer;
  vm->AddObserver(&observer);
  ASSERT_TRUE(vm->HoldStale("session-1").ok());
  EXPECT_TRUE(vm->HoldStale("session-1").ok());
  EXPECT_FALSE(vm->HoldStale("session-2").ok());
  EXPECT_EQ(vm->OpenMigration("session-2", "host-b:1").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm->Stop(true, milliseconds(0)))));
  host_.backend.script().FailNext("Terminate", absl::InternalError("not now"));
  EXPECT_FALSE(Await(vm->EndStale()).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Await(vm->EndStale()).ok());
  EXPECT_TRUE(Await(vm->EndStale()).ok());
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_FALSE(Await(vm->Start()).ok());
  EXPECT_FALSE(Await(host_.inventory->Delete(vm)).ok());
  // What it shared with others may run elsewhere.
  EXPECT_EQ(observer.ends, 0);
  vm->RemoveObserver(&observer);
}

TEST_F(VmMigrationTest, WhatAMigrationHoldsIsNotHeldAsStale) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-2", "host-b:1").ok());
  EXPECT_THAT(vm->HoldStale("session-1").message(), HasSubstr("session-2"));
}

TEST_F(VmMigrationTest, GuestIsRestoredOnlyBeforeItRuns) {
  auto vm = Boot();
  EXPECT_EQ(vm->RestoreGuest({}).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(VmMigrationTest, CrashWhileAMigrationHoldsItIsTold) {
  auto vm = Boot();
  ASSERT_TRUE(vm->OpenMigration("session-1", "host-b:1").ok());
  int exits = 0;
  vm->set_event_tap([&](const SystemEvent& event) {
    if (event.kind == SystemEvent::Kind::kExited) ++exits;
  });
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "");
  Settle();
  EXPECT_EQ(exits, 1);
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_FALSE(Await(vm->UsableGuest()).ok());
}

TEST_F(VmMigrationTest, TheEventTapMayBeTakenOffByItself) {
  auto vm = Boot();
  bool lived_on = false;
  auto token = std::make_shared<int>();
  std::weak_ptr<int> watch = token;
  vm->set_event_tap([&, token = std::move(token)](const SystemEvent&) {
    // Nothing of the tap may be used once it is gone.
    const std::weak_ptr<int> watched = watch;
    bool* const result = &lived_on;
    vm->set_event_tap(nullptr);
    *result = !watched.expired();
  });
  host_.System(*vm)->Exit(SystemExit::Cause::kReset, "");
  Settle();
  EXPECT_TRUE(lived_on);
  EXPECT_TRUE(watch.expired());
}

}  // namespace
}  // namespace ferry::vm
