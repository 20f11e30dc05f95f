// Where the disks of a VM are written down when something fails while one changes over.
#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

class CheckpointDisksTest : public CheckpointsTest {
 protected:
  static v1::DeleteCheckpointRequest DeletionOf(const std::string& name) {
    v1::DeleteCheckpointRequest request;
    request.set_vm("web");
    request.set_name(name);
    return request;
  }
  // Up to a disk that is written down as the file below, and is not yet. The second disk comes
  // first.
  auto BeginSwitch() {
    host_.backend.script().Block("MergeOverlaySwitch");
    auto deleting = Begin(checkpoints_->Delete(DeletionOf("a")));
    Await(host_.backend.script().WaitBlocked("MergeOverlaySwitch"));
    return deleting;
  }
  // The daemon dies; nobody settles anything for the next one.
  void RestartUnsettled() {
    host_.settings.switch_wait = milliseconds(1);
    former_checkpoints_.push_back(std::move(checkpoints_));
    RestartDaemon();
    OpenCheckpoints();
  }
  // As a daemon does that stops.
  Pending<bool> BeginToLetGo(UtilityVm& vm) {
    auto let_go = [](UtilityVm* to_leave) -> Task<bool> {
      co_await to_leave->Detach(milliseconds(5'000));
      co_return true;
    };
    return Begin(let_go(&vm));
  }
  // When a deletion is written down, and nothing is merged yet.
  void AtMerging(std::function<void()> then) {
    host_.at_point = [then = std::move(then)](const std::string& point) {
      if (point == "CHECKPOINT.merging") then();
    };
  }
  bool Runs(const UtilityVm& vm) { return host_.System(vm)->Step(); }
};

TEST_F(CheckpointDisksTest, AMergeThatFailsLeavesTheDiskWhereItIs) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.backend.script().FailNext("MergeOverlaySwitch", absl::ResourceExhaustedError("no room"));
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "checkpoint_not_deleted");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(DiskOf(*vm, 0), File("root.a.qcow2"));
  EXPECT_TRUE(host_.System(*vm)->Step());
  // And what is half done keeps the VM from what would build on it.
  EXPECT_EQ(rpc::ReasonOf(Save(vm)), "checkpoint_not_settled");
  ASSERT_TRUE(Delete("a").ok());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_TRUE(Save(vm).ok());
}

// The store says that the disk is the file below, and QEMU still writes to the overlay.
TEST_F(CheckpointDisksTest, ADaemonThatDiesInTheMiddleOfASwitchIsNotBelieved) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  auto deleting = BeginSwitch();
  EXPECT_EQ(DiskOf(*vm, 1), File("data.qcow2"));
  host_.backend.script().FailNext("MergeOverlay", absl::AbortedError("not now"));
  RestartUnsettled();
  EXPECT_EQ(DiskOf(*Found(), 1), File("data.a.qcow2"));
  host_.backend.script().Release("MergeOverlaySwitch");
  (void)Finish(deleting);
  Await(checkpoints_->Settle());
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(DiskOf(*Found(), 1), File("data.qcow2"));
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_TRUE(Runs(*Found()));
}

TEST_F(CheckpointDisksTest, AVmDoesNotGoOnUntilItIsWrittenDownWhereItsDiskDoes) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.backend.script().FailNext("MergeOverlaySwitch", absl::AbortedError("not now"));
  host_.at_point = [&](const std::string& point) {
    if (point == "CHECKPOINT.put_back") {
      EXPECT_FALSE(Runs(*vm));
    }
    if (point != "CHECKPOINT.placed") return;
    host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  };
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "checkpoint_not_deleted");
  EXPECT_EQ(DiskOf(*vm, 1), File("data.a.qcow2"));
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("data.a.qcow2"));
  EXPECT_TRUE(host_.System(*vm)->Step());
  host_.at_point = [](const std::string&) {};
  EXPECT_TRUE(Delete("a").ok());
}

TEST_F(CheckpointDisksTest, AnAdoptedVmStandsStillUntilItIsWrittenDownWhereItsDisksAre) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  auto deleting = BeginSwitch();
  bool full = true;
  int refused = 0;
  host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
    if (full) ++refused;
    co_return full ? absl::ResourceExhaustedError("the disk is full") : absl::OkStatus();
  };
  RestartUnsettled();
  // At the adoption, and when it was to go on.
  Until([&] { return refused >= 2; });
  Settle();
  EXPECT_FALSE(Runs(*Found()));
  EXPECT_THAT(Found()->Describe(false).state_reason(), HasSubstr("which files its disks go on in"));
  full = false;
  Until([&] { return Runs(*Found()); });
  Settle();
  EXPECT_EQ(Found()->Describe(false).state_reason(), "");
  EXPECT_EQ(DiskOf(*Found(), 1), File("data.a.qcow2"));
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("data.a.qcow2"));
  host_.backend.script().Release("MergeOverlaySwitch");
  (void)Finish(deleting);
}

TEST_F(CheckpointDisksTest, NobodyCanResumeAVmOfWhichThatIsNotWrittenDown) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  auto deleting = BeginSwitch();
  RestartUnsettled();
  ASSERT_TRUE(Await(Found()->Pause()).ok());
  host_.backend.script().FailNext("ListDiskFiles", absl::UnavailableError("no answer"));
  const absl::Status refused = Await(Found()->Resume());
  EXPECT_EQ(rpc::ReasonOf(refused), "disks_not_known") << refused;
  EXPECT_FALSE(Runs(*Found()));
  EXPECT_TRUE(Await(Found()->Resume()).ok());
  EXPECT_TRUE(Runs(*Found()));
  host_.backend.script().Release("MergeOverlaySwitch");
  (void)Finish(deleting);
}

// The VMM had changed over, and its answer did not arrive.
TEST_F(CheckpointDisksTest, WhatTheVmmHasMergedIsWrittenDownBeforeAnythingElse) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  state::v1::CheckpointRecord record = vm->checkpoints().at("a");
  record.set_stage(state::v1::CHECKPOINT_STAGE_MERGING);
  CheckpointRow row{vm->id(), "a", record.SerializeAsString()};
  ASSERT_TRUE(Await(host_.store.PutCheckpoints({row}, std::nullopt)).ok());
  host_.backend.script().backing_files[File("data.a.qcow2")] = File("data.qcow2");
  ASSERT_TRUE(Await(host_.System(*vm)->MergeOverlay({"0", "1"}, "qcow2", nullptr, nullptr)).ok());
  RestartUnsettled();
  EXPECT_EQ(DiskOf(*Found(), 0), File("root.a.qcow2"));
  EXPECT_EQ(DiskOf(*Found(), 1), File("data.qcow2"));
}

TEST_F(CheckpointDisksTest, ADaemonThatStopsLetsASwitchComeToItsEnd) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  auto deleting = BeginSwitch();
  EXPECT_FALSE(Runs(*vm));
  auto stopping = BeginToLetGo(*vm);
  Settle();
  EXPECT_FALSE(stopping->has_value());
  host_.backend.script().Release("MergeOverlaySwitch");
  EXPECT_TRUE(Finish(stopping));
  (void)Finish(deleting);
  EXPECT_TRUE(Runs(*vm));
  EXPECT_EQ(DiskOf(*vm, 1), File("data.qcow2"));
  EXPECT_THAT(Row(vm->id()).spec_json, Not(HasSubstr("data.a.qcow2")));
}

TEST_F(CheckpointDisksTest, ARowAsItWasDoesNotComeAfterOneThatSaysWhereADiskIs) {
  auto vm = BootWithDisks();
  bool was_there = false;
  const auto guest = Await(vm->UsableGuest());
  ASSERT_TRUE(guest.ok()) << guest.status();
  ASSERT_TRUE(Take("a").ok());
  Pending<absl::StatusOr<std::shared_ptr<guest::Process>>> process;
  AtMerging([&] {
    host_.store.after_put_checkpoints = [&]() -> Task<absl::Status> {
      if (std::exchange(was_there, true)) co_return absl::OkStatus();
      // The guest changes, and that is to be written down.
      guest::ProcessSpec spec;
      spec.command = {"sleep"};
      process = Begin((*guest)->CreateProcess(spec));
      co_await Delay(milliseconds(10));
      co_return absl::OkStatus();
    };
  });
  auto deleting = BeginSwitch();
  Settle();
  EXPECT_TRUE(was_there);
  EXPECT_THAT(Row(vm->id()).spec_json, Not(HasSubstr("data.a.qcow2")));
  host_.backend.script().Release("MergeOverlaySwitch");
  (void)Finish(deleting);
}

// What is being written down about it then would be left half done.
TEST_F(CheckpointDisksTest, WhoStopsItAtOnceDoesNotCutOffTheWayBack) {
  auto vm = BootWithDisks();
  bool was_there = false;
  ASSERT_TRUE(Take("a").ok());
  host_.backend.script().FailNext("MergeOverlaySwitch", absl::AbortedError("not now"));
  Pending<absl::Status> stopping;
  host_.at_point = [&](const std::string& point) {
    if (point != "CHECKPOINT.placed") return;
    host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
      if (std::exchange(was_there, true)) co_return absl::OkStatus();
      stopping = Begin(vm->Stop(true, milliseconds(1'000)));
      co_await Delay(milliseconds(10));
      co_return absl::OkStatus();
    };
  };
  EXPECT_FALSE(Delete("a").ok());
  EXPECT_TRUE(Finish(stopping).ok());
  EXPECT_EQ(DiskOf(*vm, 1), File("data.a.qcow2"));
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("data.a.qcow2"));
}

TEST_F(CheckpointDisksTest, ADaemonThatStopsWhileACheckpointBecomesWholeKeepsItsMemory) {
  auto vm = BootWithDisks();
  bool was_there = false;
  Pending<bool> stopping;
  host_.at_point = [&](const std::string& point) {
    if (point != "CHECKPOINT.sealed") return;
    host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
      if (std::exchange(was_there, true)) co_return absl::OkStatus();
      stopping = BeginToLetGo(*vm);
      co_await Delay(milliseconds(10));
      co_return absl::OkStatus();
    };
  };
  EXPECT_FALSE(Take("a").ok());
  Restart();
  ASSERT_EQ(Found()->checkpoints().count("a"), 1u);
  EXPECT_TRUE(std::filesystem::exists(Found()->checkpoints().at("a").memory_file()));
  EXPECT_TRUE(Revert("a").ok());
}

// Of a container's disk its record says where it is.
TEST_F(CheckpointDisksTest, AContainersDiskIsAskedForTooWhenItsVmIsAdopted) {
  auto vm = BootWithDisks();
  schema::Attachment scratch;
  scratch.type = "VirtualDisk";
  scratch.path = File("box.qcow2");
  scratch.format = "qcow2";
  std::ofstream(scratch.path) << EmptyQcow2(kDiskBytes);
  ASSERT_TRUE(Await(vm->AttachDisk(scratch)).ok());
  host_.scratch.files["box"] = scratch.path;
  ASSERT_TRUE(Take("a").ok());
  const std::string overlay = host_.scratch.files["box"];
  ASSERT_NE(overlay, scratch.path);
  auto deleting = BeginSwitch();
  ASSERT_EQ(host_.scratch.files["box"], scratch.path);
  host_.scratch.status = absl::ResourceExhaustedError("the disk is full");
  RestartUnsettled();
  EXPECT_EQ(host_.scratch.files["box"], scratch.path);
  EXPECT_FALSE(Runs(*Found()));
  host_.scratch.status = absl::OkStatus();
  Until([&] { return Runs(*Found()); });
  EXPECT_EQ(host_.scratch.files["box"], overlay);
  host_.backend.script().Release("MergeOverlaySwitch");
  (void)Finish(deleting);
}

TEST_F(CheckpointDisksTest, OneThatIsBeingTakenIsNotSettled) {
  auto vm = BootWithDisks();
  auto taking = BeginLive("live");
  Await(checkpoints_->Settle());
  host_.backend.script().Release("SaveBehindRunning");
  ASSERT_TRUE(Finish(taking).ok());
  MakeOverlayFiles();
  EXPECT_EQ(DiskOf(*vm, 1), File("data.live.qcow2"));
  EXPECT_TRUE(std::filesystem::exists(vm->checkpoints().at("live").memory_file()));
  EXPECT_TRUE(Revert("live").ok());
}

TEST_F(CheckpointDisksTest, TheMemoryOfANewerFerrydsCheckpointStays) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  state::v1::CheckpointRecord record = vm->checkpoints().at("a");
  record.set_schema_version(record.schema_version() + 1);
  CheckpointRow row{vm->id(), "a", record.SerializeAsString()};
  ASSERT_TRUE(Await(host_.store.PutCheckpoints({row}, std::nullopt)).ok());
  Restart();
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "checkpoint_of_newer");
  EXPECT_TRUE(std::filesystem::exists(record.memory_file()));
}

// It stood still only to be left paused afterwards, which nobody wants of one that was not taken.
TEST_F(CheckpointDisksTest, AVmThatCannotBeLetRunAfterAFailureIsToldSo) {
  auto vm = BootWithDisks();
  host_.at_point = [this](const std::string& point) {
    if (point != "CHECKPOINT.sealed") return;
    host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
    host_.backend.script().FailNext("Resume", absl::DeadlineExceededError("no answer"));
  };
  v1::CreateCheckpointRequest request = Request("t");
  request.set_paused(true);
  const auto taken = Take(request);
  EXPECT_THAT(taken.status().message(), HasSubstr("does not answer"));
  Until([&] { return Runs(*vm); });
}

// Whoever asks it something hears of it before its end is told.
TEST_F(CheckpointDisksTest, AVmmThatDiesCostsTheCheckpointAlone) {
  auto vm = BootWithDisks();
  host_.backend.script().FailNext("AddOverlays", absl::UnavailableError("no answer"));
  host_.backend.script().Block("ListDiskFiles");
  v1::CreateCheckpointRequest request = Request("half");
  request.set_disk_only(true);
  auto taking = Begin(checkpoints_->Create(request));
  Await(host_.backend.script().WaitBlocked("ListDiskFiles"));
  host_.backend.script().Release("ListDiskFiles");
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  EXPECT_EQ(rpc::ReasonOf(Finish(taking).status()), "checkpoint_not_taken");
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
}

TEST_F(CheckpointDisksTest, ADeletionGoesOnWithoutAVmmThatDies) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.at_point = [this, vm](const std::string& now) {
    if (now != "CHECKPOINT.placed" || host_.System(*vm) == nullptr) return;
    host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  };
  const absl::Status deleted = Delete("a");
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_EQ(DiskOf(*vm, 1), File("data.qcow2"));
}

// Of a write that failed nobody knows whether it was done.
TEST_F(CheckpointDisksTest, WhatMayHaveBeenWrittenIsWrittenAgainBeforeTheVmRuns) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  int puts = 0;
  AtMerging([&] {
    host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
      co_return ++puts == 2 ? absl::ResourceExhaustedError("full") : absl::OkStatus();
    };
    host_.store.after_put_checkpoints = [&]() -> Task<absl::Status> {
      EXPECT_FALSE(Runs(*vm));
      co_return puts == 1 ? absl::ResourceExhaustedError("full") : absl::OkStatus();
    };
  });
  EXPECT_FALSE(Delete("a").ok());
  Until([&] { return Runs(*vm); });
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("data.a.qcow2"));
}

TEST_F(CheckpointDisksTest, AVmmThatDiesWhileADiskIsWrittenDownLeavesItAsItWas) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  int puts = 0;
  AtMerging([&] {
    host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
      // Of the last disk: what comes after it would write both down.
      if (++puts != 2) co_return absl::OkStatus();
      host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
      co_await Delay(milliseconds(10'000));
      co_return absl::OkStatus();
    };
  });
  const absl::Status deleted = Delete("a");
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_EQ(puts, 3);
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_THAT(Row(vm->id()).spec_json, Not(HasSubstr("root.a.qcow2")));
}

// Its VMM says that it is gone some time after it gave no answer.
TEST_F(CheckpointDisksTest, ADeletionWaitsForTheEndOfAVmmThatGivesNoAnswer) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.backend.script().FailNext("MergeOverlay", absl::UnavailableError("no answer"));
  auto deleting = Begin(checkpoints_->Delete(DeletionOf("a")));
  Settle();
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  const absl::Status deleted = Finish(deleting);
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
}

TEST_F(CheckpointDisksTest, WhoChangesAVmMeanwhileWritesDownNoDiskThatIsNot) {
  auto vm = BootWithDisks();
  bool was_there = false;
  Pending<absl::Status> setting;
  host_.store.before_put_checkpoints = [&]() -> Task<absl::Status> {
    if (std::exchange(was_there, true)) co_return absl::OkStatus();
    v1::SetVmRequest changes;
    changes.set_autostart(true);
    setting = Begin(vm->Set(changes));
    co_await Delay(milliseconds(10));
    co_return absl::ResourceExhaustedError("full");
  };
  EXPECT_FALSE(Take("a").ok());
  EXPECT_TRUE(Finish(setting).ok());
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("autostart"));
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("root.qcow2"));
}

// It takes as long as the disks do.
// It has nothing to end, and nothing that is under way ends for that.
TEST_F(CheckpointDisksTest, WhoStopsAStoppedVmDoesNotWaitForFilesThatAreMerged) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  AsyncEvent merged(io_.get_executor());
  host_.overlays.before_merge = [&merged]() -> Task<void> { co_await merged.Wait(); };
  auto deleting = Begin(checkpoints_->Delete(DeletionOf("a")));
  Settle();
  for (const bool force : {true, false}) {
    EXPECT_TRUE(Await(vm->Stop(force, milliseconds(0))).ok());
  }
  EXPECT_FALSE(deleting->has_value());
  merged.Set();
  EXPECT_TRUE(Finish(deleting).ok());
}

}  // namespace
}  // namespace ferry::vm
