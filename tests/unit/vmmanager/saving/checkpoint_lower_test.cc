// Checkpoints below others that are deleted while their VM runs.
#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

class CheckpointLowerTest : public CheckpointsTest {
 protected:
  // What its VMM has below that file.
  std::string Below(const std::string& file) {
    return host_.backend.script().backing_files[File(file)];
  }
};

TEST_F(CheckpointLowerTest, OneBelowAnotherGoesWhileTheVmRuns) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  EXPECT_TRUE(host_.System(*vm)->Step(3));
  ASSERT_TRUE(Take("b").ok());
  const absl::Status deleted = Delete("a");
  ASSERT_TRUE(deleted.ok()) << deleted;
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(Below("root.b.qcow2"), File("root.qcow2"));
  EXPECT_EQ(Below("data.b.qcow2"), File("data.qcow2"));
  EXPECT_EQ(DiskOf(*vm, 0), File("root.b.qcow2"));
  EXPECT_THAT(host_.overlays.files, Not(Contains(testing::Key(File("root.a.qcow2")))));
  EXPECT_THAT(Names(), ElementsAre("b"));
  // Its VMM has done all of it.
  EXPECT_THAT(host_.overlays.merged, IsEmpty());
  EXPECT_EQ(vm->checkpoints().at("b").disks(1).file(), File("root.qcow2"));
  const auto back = Revert("b");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(host_.System(*vm)->counter(), 3u);
}

TEST_F(CheckpointLowerTest, WhatFailsLeavesTheVmRunningAndCanBeRepeated) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  host_.backend.script().FailNext("MergeLowerOverlay", absl::ResourceExhaustedError("no room"));
  const absl::Status failed = Delete("a");
  EXPECT_EQ(rpc::ReasonOf(failed), "checkpoint_not_deleted") << failed;
  EXPECT_THAT(std::string(failed.message()), HasSubstr("no room"));
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.b.qcow2"));
  ASSERT_TRUE(Delete("a").ok());
  EXPECT_EQ(Below("root.b.qcow2"), File("root.qcow2"));
  EXPECT_THAT(Names(), ElementsAre("b"));
}

// QEMU changes over before it writes that into the file, and may fail to.
TEST_F(CheckpointLowerTest, WhatIsNotWrittenInTheFileAboveIsNotRemoved) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  host_.overlays.lies_elsewhere = absl::AbortedError("it still says so");
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "checkpoint_not_deleted");
  EXPECT_THAT(host_.overlays.checked, ElementsAre(File("data.b.qcow2")));
  EXPECT_THAT(host_.overlays.files, Contains(testing::Key(File("data.a.qcow2"))));
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  EXPECT_TRUE(host_.System(*vm)->Step());
  host_.overlays.lies_elsewhere = absl::OkStatus();
  ASSERT_TRUE(Delete("a").ok());
  EXPECT_THAT(host_.overlays.checked, ElementsAre(File("data.b.qcow2"), File("root.b.qcow2")));
}

// It would be remembered as lying over a file that is gone.
TEST_F(CheckpointLowerTest, OneThatWasPlannedBeforeALowerOneWentIsNotTaken) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  AsyncEvent goes_on(io_.get_executor());
  host_.overlays.before_make = [&]() -> Task<void> { co_await goes_on.Wait(); };
  auto taking = Begin(checkpoints_->Create(Request("c")));
  Settle();
  ASSERT_TRUE(Delete("a").ok());
  goes_on.Set();
  EXPECT_EQ(rpc::ReasonOf(Finish(taking).status()), "disks_changed");
  host_.overlays.before_make = nullptr;
  EXPECT_EQ(DiskOf(*vm, 0), File("root.b.qcow2"));
  const auto again = Take("c");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(vm->checkpoints().at("c").disks(1).below(), File("root.qcow2"));
}

TEST_F(CheckpointLowerTest, WhereAMergeTookWhatItWasPlannedForThatIsSaid) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  AsyncEvent goes_on(io_.get_executor());
  host_.overlays.before_make = [&]() -> Task<void> { co_await goes_on.Wait(); };
  auto taking = Begin(checkpoints_->Create(Request("b")));
  Settle();
  ASSERT_TRUE(Delete("a").ok());
  host_.overlays.missing = {File("root.a.qcow2"), File("data.a.qcow2")};
  goes_on.Set();
  EXPECT_EQ(rpc::ReasonOf(Finish(taking).status()), "disks_changed");
  host_.overlays.before_make = nullptr;
  EXPECT_TRUE(Take("b").ok());
}

TEST_F(CheckpointLowerTest, WhatIsMissingIsSeenBeforeAnythingIsMerged) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  for (const char* file : {"root.a.qcow2", "data.qcow2", "root.b.qcow2"}) {
    host_.overlays.missing = {File(file)};
    EXPECT_EQ(rpc::ReasonOf(Delete("a")), "overlay_missing") << file;
    EXPECT_EQ(vm->checkpoints().at("a").stage(), state::v1::CHECKPOINT_STAGE_WHOLE) << file;
    EXPECT_EQ(Below("data.b.qcow2"), File("data.a.qcow2")) << file;
  }
  host_.overlays.missing.clear();
  ASSERT_TRUE(Delete("a").ok());
}

TEST_F(CheckpointLowerTest, AVmThatEndsMeanwhileIsMergedWithoutItsVmm) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  host_.backend.script().Block("MergeLowerOverlay");
  v1::DeleteCheckpointRequest request;
  request.set_vm("web");
  request.set_name("a");
  auto deleting = Begin(checkpoints_->Delete(request));
  Await(host_.backend.script().WaitBlocked("MergeLowerOverlay"));
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  host_.backend.script().Release("MergeLowerOverlay");
  const absl::Status deleted = Finish(deleting);
  ASSERT_TRUE(deleted.ok()) << deleted;
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_THAT(host_.overlays.merged, Contains(File("root.a.qcow2")));
  EXPECT_EQ(host_.overlays.files[File("root.b.qcow2")], File("root.qcow2"));
  EXPECT_THAT(Names(), ElementsAre("b"));
}

// Nobody has the files of the other way open.
TEST_F(CheckpointLowerTest, OneOnAnotherWayIsMergedBesideTheVm) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  ASSERT_TRUE(Take("c").ok());
  ASSERT_TRUE(Revert("a").ok());
  ASSERT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  const std::string now = DiskOf(*vm, 0);
  const absl::Status deleted = Delete("b");
  ASSERT_TRUE(deleted.ok()) << deleted;
  EXPECT_EQ(DiskOf(*vm, 0), now);
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_THAT(host_.overlays.merged, Contains(File("root.b.qcow2")));
  EXPECT_THAT(Names(), ElementsAre("a", "c"));
  ASSERT_TRUE(Revert("c").ok());
}

TEST_F(CheckpointLowerTest, ADaemonThatDiesMeanwhileGoesOnWithIt) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  state::v1::CheckpointRecord record = vm->checkpoints().at("a");
  record.set_stage(state::v1::CHECKPOINT_STAGE_MERGING);
  CheckpointRow row{vm->id(), "a", record.SerializeAsString()};
  ASSERT_TRUE(Await(host_.store.PutCheckpoints({row}, std::nullopt)).ok());
  // It came as far as the first of the two disks.
  LowerOverlay lower{{"0", "0"}, File("root.a.qcow2"), File("root.qcow2")};
  ASSERT_TRUE(Await(host_.System(*vm)->MergeLowerOverlay(lower, nullptr)).ok());
  Restart();
  EXPECT_THAT(Names(), ElementsAre("b"));
  EXPECT_EQ(Below("root.b.qcow2"), File("root.qcow2"));
  EXPECT_EQ(Below("data.b.qcow2"), File("data.qcow2"));
  EXPECT_EQ(Found()->state(), v1::VM_STATE_RUNNING);
}

}  // namespace
}  // namespace ferry::vm
