#include "vmmanager/saving/checkpoints.h"

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

TEST_F(CheckpointsTest, GoesBackToThatInstantAsOftenAsOneLikes) {
  auto vm = BootWithDisks();
  EXPECT_TRUE(host_.System(*vm)->Step(5));
  const auto taken = Take("before");
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_TRUE(taken->whole());
  EXPECT_TRUE(taken->current());
  EXPECT_EQ(taken->method(), "stopped");
  EXPECT_EQ(taken->state(), v1::VM_STATE_RUNNING);
  EXPECT_GT(taken->memory_bytes(), 0u);
  EXPECT_TRUE(std::filesystem::exists(taken->memory_file()));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  // It goes on beside what it was.
  EXPECT_EQ(DiskOf(*vm, 0), File("root.before.qcow2"));
  EXPECT_EQ(host_.overlays.files[File("root.before.qcow2")], File("root.qcow2"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(host_.System(*vm)->Step(5));
    const auto back = Revert("before");
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(host_.System(*vm)->counter(), 5u);
    EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
    // In new files each time; the former ones are gone.
    EXPECT_THAT(host_.overlays.files, SizeIs(2));
    EXPECT_EQ(host_.overlays.files[DiskOf(*vm, 0)], File("root.qcow2"));
  }
  EXPECT_THAT(EventTypes(), Contains("vm.went_back"));
  EXPECT_THAT(Names(), ElementsAre("before"));
}

TEST_F(CheckpointsTest, LiveItRunsWhileItsMemoryIsWritten) {
  auto vm = BootWithDisks();
  v1::CreateCheckpointRequest request = Request("live");
  request.set_live(true);
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->method(), "live");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  ASSERT_TRUE(Revert("live").ok());
  EXPECT_EQ(host_.System(*vm)->counter(), 0u);
}

TEST_F(CheckpointsTest, WhereThatCannotBeItStandsStill) {
  auto vm = BootWithDisks();
  host_.backend.script().FailNext("SaveBehind",
                                  AsNothingChanged(absl::UnimplementedError("not by this kernel")));
  v1::CreateCheckpointRequest request = Request("live");
  request.set_live(true);
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->method(), "stopped");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

// Nor may it run for a moment between the checkpoint and the pause.
TEST_F(CheckpointsTest, WhileItStandsStillItCanBePausedAndNotResumed) {
  auto vm = BootWithDisks();
  for (const bool fails : {false, true}) {
    ASSERT_TRUE(Await(vm->Resume()).ok());
    host_.backend.script().Block("Save");
    auto taking = Begin(checkpoints_->Create(Request(fails ? "half" : "whole")));
    Await(host_.backend.script().WaitBlocked("Save"));
    if (fails) host_.backend.script().FailNext("Save", absl::ResourceExhaustedError("no room"));
    const absl::Status refused = Await(vm->Resume());
    EXPECT_EQ(rpc::ReasonOf(refused), "checkpoint_in_work") << refused;
    EXPECT_TRUE(Await(vm->Pause()).ok());
    EXPECT_EQ(vm->state(), v1::VM_STATE_SAVING);
    EXPECT_EQ(Row(vm->id()).desired_state, "paused");
    host_.at_point = [&vm](const std::string& point) {
      if (point == "CHECKPOINT.sealed") {
        EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
      }
    };
    host_.backend.script().FailNext("Resume", absl::InternalError("it must not run"));
    host_.backend.script().Release("Save");
    EXPECT_EQ(Finish(taking).ok(), !fails);
    EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
    EXPECT_FALSE(host_.System(*vm)->Step());
    EXPECT_FALSE(Await(vm->Resume()).ok());  // which nobody has asked for until now
  }
}

TEST_F(CheckpointsTest, FromTheBeginningOfItsJobNobodyResumesTheVm) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  AsyncEvent makes(io_.get_executor());
  AsyncEvent goes_on(io_.get_executor());
  host_.overlays.before_make = [&]() -> Task<void> {
    makes.Set();
    co_await goes_on.Wait();
  };
  auto taking = Begin(checkpoints_->Create(Request("t")));
  Await(makes.Wait());
  EXPECT_EQ(rpc::ReasonOf(Await(vm->Resume())), "checkpoint_in_work");
  goes_on.Set();
  EXPECT_TRUE(Finish(taking).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(Await(vm->Resume()).ok());
}

TEST_F(CheckpointsTest, APauseDoesNotWaitForItsDisks) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("AddOverlays");
  auto taking = Begin(checkpoints_->Create(Request("t")));
  Await(host_.backend.script().WaitBlocked("AddOverlays"));
  EXPECT_TRUE(Await(vm->Pause()).ok());
  host_.backend.script().Release("AddOverlays");
  EXPECT_TRUE(Finish(taking).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
}

TEST_F(CheckpointsTest, APauseThatCameWhileAnotherWayWasTriedHolds) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("SaveBehind");
  host_.backend.script().FailNext("SaveBehind",
                                  AsNothingChanged(absl::UnimplementedError("not by this kernel")));
  v1::CreateCheckpointRequest request = Request("live");
  request.set_live(true);
  auto taking = Begin(checkpoints_->Create(request));
  Await(host_.backend.script().WaitBlocked("SaveBehind"));
  auto pausing = Begin(vm->Pause());
  Settle();
  host_.backend.script().FailNext("Resume", absl::InternalError("it must not run"));
  host_.backend.script().Release("SaveBehind");
  EXPECT_TRUE(Finish(taking).ok());
  EXPECT_TRUE(Finish(pausing).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_FALSE(Await(vm->Resume()).ok());  // which nobody has asked for until now
}

TEST_F(CheckpointsTest, AFailureCostsNothing) {
  auto vm = BootWithDisks();
  for (const char* verb : {"AddOverlays", "Save"}) {
    host_.backend.script().FailNext(verb, absl::ResourceExhaustedError("no room"));
    const absl::Status failed = Take("t").status();
    EXPECT_EQ(rpc::ReasonOf(failed), "checkpoint_not_taken") << verb << ": " << failed;
    EXPECT_THAT(std::string(failed.message()), HasSubstr("the VM runs on as before")) << verb;
    EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2")) << verb;
    EXPECT_THAT(host_.overlays.files, IsEmpty()) << verb;
    EXPECT_THAT(Names(), IsEmpty()) << verb;
    EXPECT_TRUE(host_.System(*vm)->Step()) << verb;
    EXPECT_TRUE(Await(host_.store.ListCheckpoints())->empty()) << verb;
    const std::string folder = folder_.path() + "/state/checkpoints/" + vm->id();
    EXPECT_TRUE(std::filesystem::is_empty(folder)) << verb;
  }
  EXPECT_TRUE(Take("t").ok());
}

TEST_F(CheckpointsTest, OverlaysThatCannotBeMadeAreRefusedBeforeAnythingStandsStill) {
  auto vm = BootWithDisks();
  const uint64_t stood = vm->standstills();
  host_.overlays.fails = absl::ResourceExhaustedError("no room");
  EXPECT_TRUE(absl::IsResourceExhausted(Take("t").status()));
  EXPECT_EQ(vm->standstills(), stood);
  EXPECT_TRUE(Await(host_.store.ListCheckpoints())->empty());
}

TEST_F(CheckpointsTest, DisksAloneOfAStoppedVm) {
  auto vm = CreateWithDisks();
  v1::CreateCheckpointRequest request = Request("clean");
  EXPECT_EQ(rpc::ReasonOf(Take(request).status()), "vm_not_running");
  request.set_disk_only(true);
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->memory_file(), "");
  EXPECT_EQ(DiskOf(*vm, 1), File("data.clean.qcow2"));
  ASSERT_TRUE(Await(vm->Start()).ok());
  const auto back = Revert("clean");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  ASSERT_TRUE(Revert("clean", v1::RevertToCheckpointRequest::THEN_RUNNING).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(CheckpointsTest, ItIsLeftAsIsWanted) {
  auto vm = BootWithDisks();
  v1::CreateCheckpointRequest request = Request("p");
  request.set_paused(true);
  ASSERT_TRUE(Take(request).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  request = Request("h");
  request.set_halt(true);
  const auto halted = Take(request);
  ASSERT_TRUE(halted.ok()) << halted.status();
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  // One that was paused then comes back paused.
  ASSERT_TRUE(Revert("h").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  ASSERT_TRUE(Revert("p", v1::RevertToCheckpointRequest::THEN_STOPPED).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  ASSERT_TRUE(Start(vm).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(CheckpointsTest, ItIsLeftSoWhateverIsTaken) {
  auto vm = BootWithDisks();
  for (const std::string what : {"live", "disks"}) {
    v1::CreateCheckpointRequest request = Request(what + "-paused");
    request.set_live(what == "live");
    request.set_disk_only(what == "disks");
    request.set_paused(true);
    ASSERT_TRUE(Take(request).ok()) << what;
    EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED) << what;
    ASSERT_TRUE(Await(vm->Resume()).ok()) << what;
    request.set_name(what + "-ended");
    request.set_paused(false);
    request.set_halt(true);
    ASSERT_TRUE(Take(request).ok()) << what;
    EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED) << what;
    ASSERT_TRUE(Await(vm->Start()).ok()) << what;
  }
  // What is stopped already stays so.
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  v1::CreateCheckpointRequest request = Request("stopped");
  request.set_disk_only(true);
  request.set_halt(true);
  ASSERT_TRUE(Take(request).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(CheckpointsTest, OneThatIsWholeKeepsItsMemoryAlsoIfTheVmDoesNotStop) {
  auto vm = BootWithDisks();
  EXPECT_TRUE(host_.System(*vm)->Step(5));
  host_.backend.script().FailNext("Terminate", absl::UnavailableError("no answer"));
  v1::CreateCheckpointRequest request = Request("h");
  request.set_halt(true);
  EXPECT_FALSE(Take(request).ok());
  ASSERT_THAT(Names(), ElementsAre("h"));
  EXPECT_TRUE(std::filesystem::exists(vm->checkpoints().at("h").memory_file()));
  const auto back = Revert("h");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(host_.System(*vm)->counter(), 5u);
}

TEST_F(CheckpointsTest, DeletingMergesWhatCameAfter) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  const absl::Status deleted = Delete("b");
  ASSERT_TRUE(deleted.ok()) << deleted;
  EXPECT_EQ(DiskOf(*vm, 0), File("root.a.qcow2"));
  EXPECT_THAT(Names(), ElementsAre("a"));
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
  EXPECT_TRUE(host_.System(*vm)->Step());
  ASSERT_TRUE(Delete("a").ok());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "no_such_checkpoint");
}

TEST_F(CheckpointsTest, OneInTheMiddleGoesWhileTheVmIsStopped) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Take("b").ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  const absl::Status deleted = Delete("a");
  ASSERT_TRUE(deleted.ok()) << deleted;
  EXPECT_THAT(host_.overlays.merged, Contains(File("root.a.qcow2")));
  // The VM and the later one stand on the file that it was merged into.
  EXPECT_EQ(host_.overlays.files[File("root.b.qcow2")], File("root.qcow2"));
  EXPECT_THAT(Names(), ElementsAre("b"));
  const auto back = Revert("b");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(host_.System(*vm)->counter(), 3u);
}

TEST_F(CheckpointsTest, WaysThatPartedStay) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  ASSERT_TRUE(Revert("a").ok());
  const auto c = Take("c");
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_THAT(Names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "checkpoint_has_branches");
  // From one way to the other.
  ASSERT_TRUE(Revert("b").ok());
  ASSERT_TRUE(Delete("c").ok());
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
}

TEST_F(CheckpointsTest, WhileItsMemoryIsWrittenItCanBePausedButNotResumed) {
  auto vm = BootWithDisks();
  auto taking = BeginLive("live");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  ASSERT_TRUE(Await(vm->Pause()).ok());
  EXPECT_EQ(rpc::ReasonOf(Await(vm->Resume())), "checkpoint_in_work");
  EXPECT_EQ(rpc::ReasonOf(Await(vm->Stop(false, milliseconds(100)))), "checkpoint_in_work");
  EXPECT_EQ(rpc::ReasonOf(Save(vm)), "checkpoint_in_work");
  host_.backend.script().Release("SaveBehindRunning");
  const auto taken = Finish(taking);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(Await(vm->Resume()).ok());
}

TEST_F(CheckpointsTest, AVmThatEndsMeanwhileHasNothingHalfMade) {
  auto vm = BootWithDisks();
  auto taking = BeginLive("live");
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  host_.backend.script().Release("SaveBehindRunning");
  EXPECT_EQ(rpc::ReasonOf(Finish(taking).status()), "checkpoint_not_taken");
  // What it wrote since is where it always was.
  EXPECT_THAT(host_.overlays.merged, Contains(File("root.live.qcow2")));
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_TRUE(Await(vm->Start()).ok());
}

TEST_F(CheckpointsTest, WhoStopsItAtOnceWaitsForNoLookAtFiles) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  AsyncEvent looks(io_.get_executor());
  AsyncEvent goes_on(io_.get_executor());
  host_.overlays.before_look = [&]() -> Task<void> {
    looks.Set();
    co_await goes_on.Wait();
  };
  auto deleting = BeginDelete("a");
  Await(looks.Wait());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  EXPECT_FALSE(Finish(deleting).ok());
  EXPECT_EQ(vm->checkpoints().at("a").stage(), state::v1::CHECKPOINT_STAGE_WHOLE);
  goes_on.Set();
  Settle();
}

// Another file may come to be called as that one was.
TEST_F(CheckpointsTest, WhereTheVmOnceWentOnIsForgotten) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  ASSERT_EQ(DiskOf(*vm, 0), File("root.b.qcow2"));
  ASSERT_TRUE(Revert("a").ok());
  EXPECT_EQ(BelowOf(vm->checkpoints(), File("root.b.qcow2")), "");
  EXPECT_EQ(BelowOf(vm->checkpoints(), DiskOf(*vm, 0)), File("root.qcow2"));
  EXPECT_FALSE(vm->checkpoints().at("b").current());
  Restart();
  EXPECT_EQ(BelowOf(Found()->checkpoints(), File("root.b.qcow2")), "");
  EXPECT_TRUE(Revert("b").ok());
}

TEST_F(CheckpointsTest, WhatCannotBeGoneBackToLeavesTheVmAlone) {
  auto vm = BootWithDisks();
  const auto taken = Take("a");
  ASSERT_TRUE(taken.ok());
  EXPECT_TRUE(host_.System(*vm)->Step(7));
  std::filesystem::resize_file(taken->memory_file(), 100);
  EXPECT_FALSE(Revert("a").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*vm)->counter(), 7u);
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
}

class CheckpointMemoryTest : public CheckpointsTest {
 protected:
  // Halted in checkpoint a, with nothing over its disks.
  CheckpointMemoryTest() : vm_(BootWithDisks()) {
    EXPECT_TRUE(host_.System(*vm_)->Step(7));
    v1::CreateCheckpointRequest request = Request("a");
    request.set_halt(true);
    const auto taken = Take(request);
    EXPECT_TRUE(taken.ok()) << taken.status();
    memory_ = taken->memory_file();
    SetOverlays(true);
  }

  void SetOverlays(bool empty) {
    for (const auto& [file, below] : host_.overlays.files) {
      host_.overlays.images[file] = {.format = "qcow2", .empty = empty};
    }
  }
  absl::Status StartFromMemory() {
    v1::StartVmRequest request;
    request.set_from_file(memory_);
    return Start(vm_, request).status();
  }
  void ExpectRefused() {
    const absl::Status refused = StartFromMemory();
    EXPECT_EQ(rpc::ReasonOf(refused), "restore_refused");
    EXPECT_THAT(refused.message(), HasSubstr("ferryctl checkpoint revert web a"));
    EXPECT_EQ(vm_->state(), v1::VM_STATE_STOPPED);
  }

  std::shared_ptr<UtilityVm> vm_;
  std::string memory_;
};

TEST_F(CheckpointMemoryTest, IsGoneOnFrom) {
  const std::string root = DiskOf(*vm_, 0);
  const absl::Status started = StartFromMemory();
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(vm_->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*vm_)->counter(), 7u);
  EXPECT_EQ(DiskOf(*vm_, 0), root);
  EXPECT_EQ(BelowOf(vm_->checkpoints(), root), File("root.qcow2"));
  EXPECT_TRUE(std::filesystem::exists(memory_));
}

TEST_F(CheckpointMemoryTest, IsRefusedOnceSomethingWasWrittenOverItsDisks) {
  SetOverlays(false);
  ExpectRefused();
}

TEST_F(CheckpointMemoryTest, IsRefusedWhereTheVmIsOverTheDisksOfAnother) {
  v1::CreateCheckpointRequest request = Request("b");
  request.set_disk_only(true);
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  SetOverlays(true);
  ExpectRefused();
}

TEST_F(CheckpointMemoryTest, IsNotGoneOnFromInDisksThatChangedSinceTheyWereLookedAt) {
  SavedMachine machine;
  machine.document = vm_->document();
  machine.record.emplace().set_file(memory_);
  v1::CreateCheckpointRequest request = Request("b");
  request.set_disk_only(true);
  ASSERT_TRUE(Take(request).ok());
  const absl::Status refused = Await(vm_->Restore(machine, RestoreSteps()));
  EXPECT_EQ(rpc::ReasonOf(refused), "disks_changed") << refused;
  EXPECT_EQ(vm_->state(), v1::VM_STATE_STOPPED);
}

TEST_F(CheckpointsTest, WhatChangedSinceItsOverlaysWereMadeIsNotGoneBackTo) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  CheckpointReturn how;
  how.disks["root"] = {File("root.other.qcow2"), File("root.x.qcow2")};
  how.disks["data"] = {File("data.qcow2"), File("data.x.qcow2")};
  const auto refused = Await(vm->GoBackToCheckpoint("a", how));
  EXPECT_EQ(rpc::ReasonOf(refused.status()), "disks_changed");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(CheckpointsTest, WhoStopsItAtOnceWaitsForNoMemory) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("SaveBehind");
  v1::CreateCheckpointRequest request = Request("live");
  request.set_live(true);
  auto taking = Begin(checkpoints_->Create(request));
  Await(host_.backend.script().WaitBlocked("SaveBehind"));
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  EXPECT_FALSE(Finish(taking).ok());
  host_.backend.script().Release("SaveBehind");
  Settle();
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(CheckpointsTest, OneThatFailsAtItsEndLeavesNobodyPaused) {
  auto vm = BootWithDisks();
  host_.at_point = [this](const std::string& point) {
    if (point != "CHECKPOINT.sealed") return;
    host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  };
  v1::CreateCheckpointRequest request = Request("t");
  request.set_paused(true);
  EXPECT_FALSE(Take(request).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(CheckpointsTest, OfTwoOfOneNameTheSecondLeavesNothing) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("Pause");
  auto first = Begin(checkpoints_->Create(Request("t")));
  Await(host_.backend.script().WaitBlocked("Pause"));
  auto second = Begin(checkpoints_->Create(Request("t")));
  Settle();
  host_.backend.script().Release("Pause");
  EXPECT_TRUE(Finish(first).ok());
  EXPECT_FALSE(Finish(second).ok());
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
  const std::string folder = folder_.path() + "/state/checkpoints/" + vm->id();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST_F(CheckpointsTest, SnapshotsAndCheckpointsExcludeEachOther) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  SnapshotWish wish;
  wish.tag = "s";
  wish.devices = {"root", "data"};
  wish.vmstate = "root";
  TakingSteps steps;
  steps.containers = [] { return std::vector<state::v1::ContainerRecord>(); };
  EXPECT_EQ(rpc::ReasonOf(Await(vm->SaveSnapshot(wish, steps)).status()), "vm_has_checkpoints");
  ASSERT_TRUE(Delete("a").ok());
  ASSERT_TRUE(Await(vm->SaveSnapshot(wish, steps)).ok());
  EXPECT_EQ(rpc::ReasonOf(Take("b").status()), "vm_has_snapshots");
  EXPECT_THAT(host_.overlays.files, IsEmpty());
}

TEST_F(CheckpointsTest, AVmWithMemoryInItsHostsFolderStays) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  EXPECT_EQ(rpc::ReasonOf(vm->OpenMigration("s", "host-b:1")), "vm_has_checkpoints");
  EXPECT_TRUE(Await(host_.store.ListCheckpoints())->size() == 1);
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  ASSERT_TRUE(Await(saves_->Delete(vm, false)).ok());
  EXPECT_TRUE(Await(host_.store.ListCheckpoints())->empty());
}

TEST_F(CheckpointsTest, ASavedVmIsLeftAlone) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Save(vm).ok());
  EXPECT_THAT(std::string(Take("b").status().message()), HasSubstr("SAVED"));
  EXPECT_FALSE(Revert("a").ok());
  EXPECT_FALSE(Delete("a").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_SAVED);
  EXPECT_TRUE(Start(vm).ok());
  EXPECT_THAT(Names(), ElementsAre("a"));
}

}  // namespace
}  // namespace ferry::vm
