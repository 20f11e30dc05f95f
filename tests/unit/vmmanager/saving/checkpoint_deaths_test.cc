// What is left of checkpoints when a daemon dies over them, or cannot write down that they are
// there.
#include <fstream>

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

TEST_F(CheckpointsTest, ADaemonThatDiesInBetweenLeavesNothing) {
  for (const char* point : {"AddOverlays", "Save"}) {
    auto vm = point == std::string("AddOverlays") ? BootWithDisks() : Found();
    host_.backend.script().Block(point);
    auto taking = Begin(checkpoints_->Create(Request("t")));
    Await(host_.backend.script().WaitBlocked(point));
    Restart();
    host_.backend.script().Release(point);
    (void)Finish(taking);
    vm = Found();
    EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING) << point;
    EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2")) << point;
    EXPECT_THAT(Names(), IsEmpty()) << point;
    EXPECT_TRUE(host_.System(*vm)->Step()) << point;
  }
}

// It has its name before anybody has written down that the checkpoint is whole.
TEST_F(CheckpointsTest, ADaemonThatDiesOverMemoryThatIsNamedLeavesNoneInItsUsersFolder) {
  BootWithDisks();
  CheckpointRow making;  // what is written down until then
  host_.at_point = [this, &making](const std::string& point) {
    if (point != "CHECKPOINT.sealed") return;
    EXPECT_TRUE(std::filesystem::exists(File("t.ferry")));
    making = host_.store.CheckpointOf(Found()->id(), "t");
  };
  v1::CreateCheckpointRequest request = Request("t");
  request.set_memory_file(File("t.ferry"));
  ASSERT_TRUE(Take(request).ok());
  host_.at_point = nullptr;
  std::vector<CheckpointRow> rows = {making};
  ASSERT_TRUE(Await(host_.store.PutCheckpoints(std::move(rows), std::nullopt)).ok());
  former_checkpoints_.push_back(std::move(checkpoints_));
  RestartDaemon();
  OpenCheckpoints();
  Await(checkpoints_->Sweep());
  EXPECT_FALSE(std::filesystem::exists(File("t.ferry")));
}

TEST_F(CheckpointsTest, WhatItsUserHasPutThereMeanwhileStays) {
  BootWithDisks();
  host_.backend.script().Block("Save");
  v1::CreateCheckpointRequest request = Request("t");
  request.set_memory_file(File("t.ferry"));
  auto taking = Begin(checkpoints_->Create(request));
  Await(host_.backend.script().WaitBlocked("Save"));
  std::ofstream(File("t.ferry")) << "mine";
  Restart();
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(File("t.ferry")));
  host_.backend.script().Release("Save");
  (void)Finish(taking);
  EXPECT_TRUE(std::filesystem::exists(File("t.ferry")));
}

TEST_F(CheckpointsTest, MemoryThatIsWholeIsItsUsersFromThenOn) {
  BootWithDisks();
  v1::CreateCheckpointRequest request = Request("t");
  request.set_memory_file(File("t.ferry"));
  ASSERT_TRUE(Take(request).ok());
  Restart();
  EXPECT_THAT(Names(), ElementsAre("t"));
  EXPECT_TRUE(std::filesystem::exists(File("t.ferry")));
}

TEST_F(CheckpointsTest, WhatCannotBeWrittenDownIsForgotten) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("Pause");
  auto taking = Begin(checkpoints_->Create(Request("t")));
  Await(host_.backend.script().WaitBlocked("Pause"));
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  host_.backend.script().Release("Pause");
  EXPECT_TRUE(absl::IsResourceExhausted(Finish(taking).status()));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
  // Also by whatever is written down next.
  ASSERT_TRUE(Await(vm->Pause()).ok());
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("root.qcow2"));
  EXPECT_THAT(Row(vm->id()).document_json, Not(HasSubstr("root.t.qcow2")));
}

// What a store did although it said that it failed.
TEST_F(CheckpointsTest, WhatMayBeWrittenDownAllTheSameIsTakenBack) {
  auto vm = BootWithDisks();
  host_.store.after_put_checkpoints = []() -> Task<absl::Status> {
    co_return absl::DeadlineExceededError("the disk is slow");
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(Take("t").status()));
  EXPECT_THAT(*Await(host_.store.ListCheckpoints()), IsEmpty());
  EXPECT_THAT(Row(vm->id()).spec_json, HasSubstr("root.qcow2"));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
}

TEST_F(CheckpointsTest, FilesThatMayBeWrittenDownStay) {
  auto vm = BootWithDisks();
  host_.store.after_put_checkpoints = []() -> Task<absl::Status> {
    co_return absl::DeadlineExceededError("the disk is slow");
  };
  host_.store.before_delete_checkpoint = []() -> Task<absl::Status> {
    co_return absl::DeadlineExceededError("the disk is slow");
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(Take("t").status()));
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
  host_.store.after_put_checkpoints = nullptr;
  host_.store.before_delete_checkpoint = nullptr;
  // The next daemon reads that it was begun.
  Restart();
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(DiskOf(*Found(), 0), File("root.qcow2"));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
  EXPECT_TRUE(host_.System(*Found())->Step());
}

TEST_F(CheckpointsTest, AReturnThatMayBeWrittenDownAllTheSameKeepsItsFiles) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  host_.store.after_put_checkpoints = []() -> Task<absl::Status> {
    co_return absl::DeadlineExceededError("the disk is slow");
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(Revert("a").status()));
  EXPECT_THAT(host_.overlays.files, SizeIs(4));
  host_.store.after_put_checkpoints = nullptr;
  Restart();
  EXPECT_THAT(host_.overlays.files, Contains(testing::Key(DiskOf(*Found(), 0))));
  EXPECT_THAT(host_.overlays.files, Contains(testing::Key(DiskOf(*Found(), 1))));
}

TEST_F(CheckpointsTest, AVmWhoseCheckpointsMayNotBeWrittenDownDoesNotStart) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  const std::string before = DiskOf(*vm, 0);
  host_.store.after_put_checkpoints = []() -> Task<absl::Status> {
    co_return absl::DeadlineExceededError("the disk is slow");
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(Revert("a").status()));
  EXPECT_EQ(rpc::ReasonOf(Await(vm->Start())), "checkpoints_not_written");
  EXPECT_EQ(rpc::ReasonOf(Delete("b")), "checkpoints_not_written");
  v1::CreateCheckpointRequest another = Request("c");
  another.set_disk_only(true);
  EXPECT_EQ(rpc::ReasonOf(Take(another).status()), "checkpoints_not_written");
  host_.store.after_put_checkpoints = nullptr;
  const absl::Status started = Await(vm->Start());
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(DiskOf(*vm, 0), before);
  // So does whoever reads it.
  Restart();
  EXPECT_EQ(DiskOf(*Found(), 0), before);
  EXPECT_EQ(BelowOf(Found()->checkpoints(), before), File("root.a.qcow2"));
  EXPECT_TRUE(Found()->checkpoints().at("b").current());
}

TEST_F(CheckpointsTest, WhatMayNotBeWrittenDownIsWrittenDownByItself) {
  host_.settings.retry_pause = milliseconds(10);
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  int writes = 0;
  host_.store.after_put_checkpoints = [&writes]() -> Task<absl::Status> {
    co_return ++writes < 4 ? absl::DeadlineExceededError("the disk is slow") : absl::OkStatus();
  };
  EXPECT_FALSE(Revert("a").ok());
  Until([&writes] { return writes == 4; });
  Settle();
  host_.store.before_put_checkpoints = []() -> Task<absl::Status> {
    ADD_FAILURE() << "all of it is written down";
    co_return absl::OkStatus();
  };
  EXPECT_TRUE(Await(vm->Start()).ok());
}

// Another VM, for instance, may have a disk of that name by now.
TEST_F(CheckpointsTest, AFileThatHasTheNameOfOneThatIsGoneStays) {
  auto vm = BootWithDisks();
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(Take(name).ok()) << name;
  ASSERT_TRUE(Revert("a").ok());
  ASSERT_TRUE(Delete("c").ok());
  EXPECT_THAT(host_.overlays.files, Not(Contains(testing::Key(File("root.b.qcow2")))));
  EXPECT_EQ(vm->checkpoints().at("b").disks(1).overlay(), "");
  host_.overlays.files[File("root.b.qcow2")] = "";
  ASSERT_TRUE(Delete("b").ok());
  EXPECT_THAT(host_.overlays.files, Contains(testing::Key(File("root.b.qcow2"))));
}

TEST_F(CheckpointsTest, WhatADaemonDoesNotLiveToRemoveGoesWithTheNextStart) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  ASSERT_TRUE(Take("b").ok());
  AsyncEvent removes(io_.get_executor());
  AsyncEvent goes_on(io_.get_executor());
  host_.overlays.before_remove = [&]() -> Task<void> {
    removes.Set();
    co_await goes_on.Wait();
  };
  auto deleting = BeginDelete("a");
  Await(removes.Wait());
  EXPECT_THAT(Names(), ElementsAre("b"));
  EXPECT_THAT(host_.overlays.files, SizeIs(4));
  Restart();
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.b.qcow2")));
  goes_on.Set();
  (void)Finish(deleting);
}

TEST_F(CheckpointsTest, WhatIsNotKnownOfAVmIsNotSwept) {
  auto vm = BootWithDisks();
  host_.backend.script().Block("AddOverlays");
  auto taking = Begin(checkpoints_->Create(Request("t")));
  Await(host_.backend.script().WaitBlocked("AddOverlays"));
  // A newer ferryd has been at it.
  CheckpointRow row{vm->id(), "t", "unreadable"};
  ASSERT_TRUE(Await(host_.store.PutCheckpoints({row}, std::nullopt)).ok());
  former_checkpoints_.push_back(std::move(checkpoints_));
  RestartDaemon();
  OpenCheckpoints();
  Await(checkpoints_->Sweep());
  EXPECT_THAT(host_.overlays.files, SizeIs(2));
  EXPECT_EQ(rpc::ReasonOf(Delete("t")), "checkpoint_of_newer");
  host_.backend.script().Release("AddOverlays");
  (void)Finish(taking);
}

// It may run on another host, in the files that a daemon had noted to be removed before it died.
TEST_F(CheckpointsTest, TheOverlaysOfAVmThatIsGoneAreNotSwept) {
  auto vm = BootWithDisks();
  state::v1::CheckpointRecord note;
  note.add_disks()->set_file(File("below"));
  note.mutable_disks(0)->set_overlay(File("over"));
  for (const bool is_gone : {true, false}) {
    host_.overlays.files = {{File("over"), File("below")}};
    const std::string folder =
        folder_.path() + "/state/checkpoints/" + (is_gone ? "another" : vm->id());
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/1.drafts") << note.SerializeAsString();
    Await(checkpoints_->Sweep());
    EXPECT_EQ(host_.overlays.files.size(), is_gone ? 1u : 0u);
    EXPECT_FALSE(std::filesystem::exists(folder + "/1.drafts"));
  }
}

}  // namespace
}  // namespace ferry::vm
