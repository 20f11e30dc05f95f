#include "vmmanager/saving/saved_states.h"

#include <fstream>

#include "tests/unit/vmmanager/saving/saving_fixture.h"

namespace ferry::vm {
namespace {

struct SavedObserver final : MoveObserver {
  void OnNotice(const MigrationNotice&) override {}
  void OnEnded() override { ++ends; }
  void OnSaved() override { ++saves; }
  int ends = 0;
  int saves = 0;
};

using SavedStatesTest = SavingTest;

TEST_F(SavedStatesTest, ASavedVmGoesOnWhereItStoodStill) {
  auto vm = Boot();
  SavedObserver observer;
  vm->AddObserver(&observer);
  EXPECT_TRUE(host_.System(*vm)->Step(5));
  ASSERT_TRUE(Save(vm).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_TRUE(std::filesystem::exists(FileOf(*vm)));
  EXPECT_EQ(FilesOf(*vm), 1u);
  EXPECT_EQ(observer.saves, 1);
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*vm)->counter(), 5u);
  EXPECT_EQ(FilesOf(*vm), 0u);
  EXPECT_TRUE(Row(vm->id()).saved.empty());
  // It has not ended, whatever became of its VMM.
  EXPECT_EQ(observer.ends, 0);
  vm->RemoveObserver(&observer);
}

TEST_F(SavedStatesTest, ADaemonThatIsStartedAnewKnowsIt) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(7));
  ASSERT_TRUE(Save(vm).ok());
  vm.reset();
  RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_SAVED);
  ASSERT_TRUE(Start(Found()).ok());
  EXPECT_EQ(host_.System(*Found())->counter(), 7u);
}

TEST_F(SavedStatesTest, APausedVmComesBackPaused) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(Save(vm).ok());
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(Await(vm->Resume()).ok());
}

TEST_F(SavedStatesTest, AVmThatCannotBeSavedRunsOn) {
  auto vm = Boot();
  SavedObserver observer;
  vm->AddObserver(&observer);
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  const absl::Status failed = Save(vm);
  EXPECT_EQ(failed.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(failed.message(), HasSubstr("runs on"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(FilesOf(*vm), 0u);
  EXPECT_EQ(observer.saves + observer.ends, 0);
  vm->RemoveObserver(&observer);
  EXPECT_TRUE(Save(vm).ok());
}

TEST_F(SavedStatesTest, WhatCannotBeWrittenDownIsNotSaved) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  host_.backend.script().Release("Save");
  EXPECT_EQ(Finish(saving).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(FilesOf(*vm), 0u);
  EXPECT_TRUE(Row(vm->id()).saved.empty());
}

TEST_F(SavedStatesTest, WhatWasWrittenDownIsSavedWhateverFollows) {
  auto vm = Boot();
  host_.backend.script().Block("Terminate");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Terminate"));
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  host_.backend.script().Release("Terminate");
  EXPECT_TRUE(Finish(saving).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_EQ(FilesOf(*vm), 1u);
  EXPECT_TRUE(Start(vm).ok());
}

TEST_F(SavedStatesTest, WhatRunsRunsWhateverFollows) {
  auto vm = Boot();
  ASSERT_TRUE(Save(vm).ok());
  host_.backend.script().Block("FinalizeLiveMigration");
  auto starting = Begin(saves_->Start(vm, v1::StartVmRequest()));
  Await(host_.backend.script().WaitBlocked("FinalizeLiveMigration"));
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  host_.backend.script().Release("FinalizeLiveMigration");
  EXPECT_TRUE(Finish(starting).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
}

TEST_F(SavedStatesTest, WhatCannotBeWrittenDownDoesNotRun) {
  auto vm = Boot();
  ASSERT_TRUE(Save(vm).ok());
  host_.backend.script().Block("Load");
  auto starting = Begin(saves_->Start(vm, v1::StartVmRequest()));
  Await(host_.backend.script().WaitBlocked("Load"));
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  host_.backend.script().Release("Load");
  EXPECT_FALSE(Finish(starting).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_FALSE(host_.backend.Runs(vm->id()));
  EXPECT_TRUE(Start(vm).ok());
}

TEST_F(SavedStatesTest, AnotherFileDoesNotTakeThePlaceOfWhatIsJustSaved) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/file";
  ASSERT_TRUE(Save(vm, file, true).ok());
  EXPECT_EQ(Save(vm, file, true).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(host_.System(*vm)->Step(4));
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  v1::StartVmRequest request;
  request.set_from_file(file);
  auto starting = Begin(saves_->Start(vm, request));
  Settle();
  host_.backend.script().Release("Save");
  EXPECT_TRUE(Finish(saving).ok());
  EXPECT_EQ(rpc::ReasonOf(Finish(starting).status()), "saved_elsewhere");
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(host_.System(*vm)->counter(), 4u);
}

TEST_F(SavedStatesTest, AFileOfOnesOwnLiesNotInOurFolder) {
  auto vm = Boot();
  std::filesystem::create_directories(folder_.path() + "/state");
  std::filesystem::create_directory_symlink(folder_.path() + "/state", folder_.path() + "/link");
  for (const char* file : {"/state/file", "/state/saved/../saved/x/file", "/link/file"}) {
    EXPECT_EQ(Save(vm, folder_.path() + file).code(), absl::StatusCode::kInvalidArgument) << file;
  }
}

TEST_F(SavedStatesTest, NothingElseHappensToAVmThatIsBeingSaved) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVING);
  EXPECT_FALSE(host_.System(*vm)->Step());
  EXPECT_FALSE(vm->OpenMigration("session-1", "host-b:1").ok());
  auto stopping = Begin(vm->Stop(false, milliseconds(0)));
  auto starting = Begin(saves_->Start(vm, v1::StartVmRequest()));
  Settle();
  EXPECT_FALSE(stopping->has_value());
  host_.backend.script().Release("Save");
  EXPECT_TRUE(Finish(saving).ok());
  EXPECT_TRUE(Finish(stopping).ok());
  (void)Finish(starting);
  EXPECT_TRUE(vm->state() == v1::VM_STATE_SAVED || vm->state() == v1::VM_STATE_RUNNING);
}

TEST_F(SavedStatesTest, WhoStopsItAtOnceWaitsForNoSave) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  v1::StopVmRequest stop;
  stop.set_force(true);
  EXPECT_TRUE(Stop(vm, stop).ok());
  EXPECT_EQ(Finish(saving).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  Until([&] { return FilesOf(*vm) == 0; });
  host_.backend.script().Release("Save");
  EXPECT_TRUE(Start(vm).ok());
  EXPECT_TRUE(Await(vm->Pause()).ok());
  // And what was called off once says nothing of the next.
  EXPECT_TRUE(Save(vm).ok());
}

TEST_F(SavedStatesTest, WhoStopsItAtOnceBeforeItRunsLosesNothing) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  for (const char* late : {"RESTORE.loaded", "RESTORE.consumed"}) {
    ASSERT_TRUE(Save(vm).ok());
    Pending<absl::Status> stopping;
    host_.at_point = [&](const std::string& point) {
      if (point != late) return;
      stopping = Begin(vm->Stop(true, milliseconds(0)));
      // Its first step is the one that counts.
      if (point == "RESTORE.consumed") Settle();
    };
    EXPECT_EQ(Start(vm).status().code(), absl::StatusCode::kCancelled) << late;
    EXPECT_TRUE(Finish(stopping).ok()) << late;
    host_.at_point = [](const std::string&) {};
    EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED) << late;
    EXPECT_EQ(vm->system(), nullptr) << late;
    ASSERT_TRUE(Start(vm).ok()) << late;
    EXPECT_EQ(host_.System(*vm)->counter(), 3u) << late;
  }
}

TEST_F(SavedStatesTest, WhoStopsItAtOnceWaitsForNoRestore) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Save(vm).ok());
  host_.backend.script().Block("Load");
  auto starting = Begin(saves_->Start(vm, v1::StartVmRequest()));
  Await(host_.backend.script().WaitBlocked("Load"));
  v1::StopVmRequest stop;
  stop.set_force(true);
  EXPECT_TRUE(Stop(vm, stop).ok());
  EXPECT_EQ(Finish(starting).status().code(), absl::StatusCode::kCancelled);
  // It has not run, so nothing of it is lost.
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_EQ(vm->system(), nullptr);
  host_.backend.script().Release("Load");
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(host_.System(*vm)->counter(), 3u);
}

TEST_F(SavedStatesTest, AVmmThatDoesNotAnswerIsNotEnded) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Save(vm).ok());
  host_.backend.script().FailNext("FinalizeLiveMigration", absl::DeadlineExceededError("silence"));
  ASSERT_TRUE(Start(vm).ok());
  Settle();
  // It may have run, so its file is nothing to go on from, and it is let go on.
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(host_.System(*vm)->counter(), 4u);
  // Nobody will go on from its file, but nobody may remove it either.
  EXPECT_EQ(FilesOf(*vm), 1u);
  RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Row(vm->id()).saved.empty());
  EXPECT_EQ(FilesOf(*vm), 1u);
  // The next one has nothing of that.
  ASSERT_TRUE(Save(Found()).ok());
  ASSERT_TRUE(Start(Found()).ok());
  EXPECT_EQ(host_.System(*Found())->counter(), 4u);
}

TEST_F(SavedStatesTest, AVmmThatIsSilentForAWhileIsToldAgain) {
  auto vm = Boot();
  ASSERT_TRUE(Save(vm).ok());
  host_.backend.script().FailNext("FinalizeLiveMigration", absl::DeadlineExceededError("silence"));
  host_.backend.script().FailNext("Resume", absl::DeadlineExceededError("silence"));
  ASSERT_TRUE(Start(vm).ok());
  Until([&] { return host_.System(*vm)->Step(); });
  // It was never paused by anybody.
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(Row(vm->id()).desired_state, "running");
}

TEST_F(SavedStatesTest, AVmmOfAPausedVmThatDiesHasNotRun) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(Save(vm).ok());
  host_.at_point = [&](const std::string& point) {
    if (point == "RESTORE.consumed") host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  };
  EXPECT_EQ(rpc::ReasonOf(Start(vm).status()), "restore_refused");
  host_.at_point = [](const std::string&) {};
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_TRUE(Start(vm).ok());
}

TEST_F(SavedStatesTest, ADaemonThatDiedWithAUsersFileOpenLeavesAStoppedVm) {
  auto vm = Boot();
  const std::string file = folder_.path() + "/moment";
  ASSERT_TRUE(Save(vm, file, true).ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  v1::StartVmRequest request;
  request.set_from_file(file);
  for (const bool with_its_vmm : {false, true}) {
    host_.backend.script().Block("Load");
    auto starting = Begin(saves_->Start(Found(), request));
    Await(host_.backend.script().WaitBlocked("Load"));
    if (with_its_vmm) {
      host_.backend.script().FailNext("Adopt", absl::NotFoundError("it does not run any more"));
    }
    RestartDaemon();
    EXPECT_EQ(Found()->state(), v1::VM_STATE_STOPPED) << with_its_vmm;
    EXPECT_TRUE(Row(vm->id()).saved.empty()) << with_its_vmm;
    host_.backend.script().Release("Load");
    EXPECT_FALSE(Finish(starting).ok());
  }
  EXPECT_TRUE(Start(Found(), request).ok());
}

TEST_F(SavedStatesTest, AVmmThatDiesWhileItIsSavedLeavesNoFile) {
  auto vm = Boot();
  SavedObserver observer;
  vm->AddObserver(&observer);
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  host_.backend.script().Release("Save");
  EXPECT_FALSE(Finish(saving).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_EQ(FilesOf(*vm), 0u);
  EXPECT_EQ(observer.ends, 1);
  vm->RemoveObserver(&observer);
  EXPECT_TRUE(Start(vm).ok());
}

TEST_F(SavedStatesTest, WhatCannotBeRestoredIsKept) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Save(vm).ok());
  SavedObserver observer;
  vm->AddObserver(&observer);
  for (const char* verb : {"Start", "Load", "FinalizeLiveMigration"}) {
    host_.backend.script().FailNext(verb, absl::AbortedError("no"));
    const absl::Status refused = Start(vm).status();
    EXPECT_EQ(rpc::ReasonOf(refused), "restore_refused") << verb << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(FileOf(*vm))) << verb;
    EXPECT_THAT(NextStepOf(refused), HasSubstr("--or-boot")) << verb;
    EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED) << verb;
    EXPECT_EQ(vm->system(), nullptr) << verb;
    RestartDaemon();
    vm->RemoveObserver(&observer);
    vm = Found();
    vm->AddObserver(&observer);
    EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED) << verb;
  }
  EXPECT_EQ(observer.ends, 0);
  vm->RemoveObserver(&observer);
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(host_.System(*vm)->counter(), 3u);
}

TEST_F(SavedStatesTest, ADamagedFileIsRefusedAndMayBeGivenUpForABoot) {
  auto vm = Boot();
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Save(vm).ok());
  {
    std::fstream file(FileOf(*vm), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-100, std::ios::end);
    file.put('?');
  }
  EXPECT_EQ(Start(vm).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  v1::StartVmRequest request;
  request.set_or_boot(true);
  auto booted = Start(vm, request);
  ASSERT_TRUE(booted.ok()) << booted.status();
  ASSERT_EQ(booted->size(), 1u);
  EXPECT_THAT(booted->front(), HasSubstr(".refused"));
  EXPECT_EQ(host_.System(*vm)->counter(), 0u);
  EXPECT_EQ(FilesOf(*vm), 1u);
  RestartDaemon();
  EXPECT_EQ(FilesOf(*Found()), 1u);
}

TEST_F(SavedStatesTest, AnotherVmsFileIsRefused) {
  auto vm = Boot();
  auto other = Boot("db");
  const std::string file = folder_.path() + "/file";
  ASSERT_TRUE(Save(other, file).ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  v1::StartVmRequest request;
  request.set_from_file(file);
  const absl::Status refused = Start(vm, request).status();
  EXPECT_THAT(refused.message(), HasSubstr("it is VM db"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(SavedStatesTest, AVmThatLivesOnGoesBackAsOftenAsOneLikes) {
  auto vm = Boot();
  EXPECT_EQ(Save(vm, "", true).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Save(vm, "relative", true).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  const std::string file = folder_.path() + "/file";
  ASSERT_TRUE(Save(vm, file, true).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  v1::StartVmRequest request;
  request.set_from_file(file);
  EXPECT_FALSE(Start(vm, request).ok());
  for (int time = 0; time < 2; ++time) {
    ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
    ASSERT_TRUE(Start(vm, request).ok());
    EXPECT_EQ(host_.System(*vm)->counter(), 3u);
  }
  EXPECT_TRUE(std::filesystem::exists(file));
}

TEST_F(SavedStatesTest, WhatWasSavedIsNotLostByMistake) {
  auto vm = Boot();
  ASSERT_TRUE(Save(vm).ok());
  EXPECT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  const absl::Status deleted = Await(saves_->Delete(vm, false));
  EXPECT_EQ(rpc::ReasonOf(deleted), "vm_saved");
  EXPECT_THAT(NextStepOf(deleted), HasSubstr("delete --force"));
  EXPECT_EQ(rpc::ReasonOf(Await(vm->Start())), "vm_saved");
  SavedObserver observer;
  vm->AddObserver(&observer);
  v1::StartVmRequest request;
  request.set_discard_saved(true);
  ASSERT_TRUE(Start(vm, request).ok());
  // Whoever waited for it learns that it does not come.
  EXPECT_EQ(observer.ends, 1);
  vm->RemoveObserver(&observer);
  EXPECT_EQ(FilesOf(*vm), 0u);
  ASSERT_TRUE(Save(vm).ok());
  EXPECT_TRUE(Await(saves_->Delete(vm, true)).ok());
  EXPECT_FALSE(host_.inventory->Find("web").ok());
}

TEST_F(SavedStatesTest, StoppingSavesWhereSomebodySaidSo) {
  auto vm = Boot();
  v1::StopVmRequest stop;
  EXPECT_TRUE(Stop(vm, stop).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  ASSERT_TRUE(Start(vm).ok());
  v1::SetVmRequest set;
  set.set_save_on_stop(v1::SAVE_ON_STOP_YES);
  ASSERT_TRUE(Await(vm->Set(set)).ok());
  stop.set_force(true);
  stop.set_save(true);
  EXPECT_EQ(Stop(vm, stop).status().code(), absl::StatusCode::kInvalidArgument);
  stop.clear_force();
  stop.clear_save();
  EXPECT_TRUE(Stop(vm, stop).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  // Also for the daemon after this one.
  vm.reset();
  RestartDaemon();
  vm = Found();
  ASSERT_TRUE(Start(vm).ok());
  stop.set_save(false);
  EXPECT_TRUE(Stop(vm, stop).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(SavedStatesTest, WhatCannotBeSavedIsShutDownIfThatWillDo) {
  auto vm = Boot();
  v1::StopVmRequest stop;
  stop.set_save(true);
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  EXPECT_FALSE(Stop(vm, stop).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  stop.set_or_shutdown(true);
  host_.backend.script().FailNext("Save", absl::AbortedError("no"));
  auto stopped = Stop(vm, stop);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  ASSERT_EQ(stopped->size(), 1u);
  EXPECT_THAT(stopped->front(), HasSubstr("shut down instead"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(SavedStatesTest, ADaemonThatDiedWhileItSavedLetsTheVmRunOn) {
  auto vm = Boot();
  host_.backend.script().Block("Save");
  auto saving = Begin(saves_->Save(vm, v1::SaveVmRequest()));
  Await(host_.backend.script().WaitBlocked("Save"));
  RestartDaemon();
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*Found())->Step());
  EXPECT_EQ(FilesOf(*Found()), 0u);
  host_.backend.script().Release("Save");
  EXPECT_FALSE(Finish(saving).ok());
}

}  // namespace
}  // namespace ferry::vm
