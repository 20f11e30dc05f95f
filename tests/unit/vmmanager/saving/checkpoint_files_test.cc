// Checkpoints in files that others have made, or that nobody remembers.
#include "tests/unit/vmmanager/saving/checkpoint_files_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CheckpointFilesTest : public CheckpointFilesFixture {};

TEST_F(CheckpointFilesTest, OneThatIsNotRememberedLeavesItsFiles) {
  auto vm = BootWithDisks();
  v1::CreateCheckpointRequest request = Request("gone");
  request.set_disk_only(true);
  request.set_no_metadata(true);
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_TRUE(taken->whole());
  EXPECT_EQ(taken->disks_size(), 2);
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.gone.qcow2"));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.gone.qcow2")));
  Restart();
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(DiskOf(*Found(), 0), File("root.gone.qcow2"));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.gone.qcow2")));
  // The next one is like any other, and what is below it stays.
  ASSERT_TRUE(Take("next").ok());
  ASSERT_TRUE(Delete("next").ok());
  EXPECT_EQ(DiskOf(*Found(), 0), File("root.gone.qcow2"));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.gone.qcow2")));
}

TEST_F(CheckpointFilesTest, ItsMemoryIsWhereItsUserWantsIt) {
  BootWithDisks();
  v1::CreateCheckpointRequest request = Request("gone");
  request.set_no_metadata(true);
  EXPECT_EQ(Take(request).status().code(), absl::StatusCode::kInvalidArgument);
  request.set_memory_file(File("memory.ferry"));
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->memory_file(), File("memory.ferry"));
  EXPECT_TRUE(std::filesystem::exists(File("memory.ferry")));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(CheckpointFilesTest, OneThatCannotBeForgottenIsUndone) {
  auto vm = BootWithDisks();
  host_.at_point = [this](const std::string& point) {
    if (point == "CHECKPOINT.written") host_.store.FailNext(absl::ResourceExhaustedError("full"));
  };
  v1::CreateCheckpointRequest request = Request("gone");
  request.set_disk_only(true);
  request.set_no_metadata(true);
  for (const auto& name : {"root", "data"}) {
    host_.backend.script().backing_files[File(std::string(name) + ".gone.qcow2")] =
        File(std::string(name) + ".qcow2");
  }
  EXPECT_EQ(rpc::ReasonOf(Take(request).status()), "checkpoint_not_taken");
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
}

TEST_F(CheckpointFilesTest, WhatIsRememberedOfOthersStaysTrue) {
  BootWithDisks();
  ASSERT_TRUE(Take("kept").ok());
  v1::CreateCheckpointRequest request = Request("gone");
  request.set_disk_only(true);
  request.set_no_metadata(true);
  EXPECT_EQ(rpc::ReasonOf(Take(request).status()), "vm_has_checkpoints");
}

TEST_F(CheckpointFilesTest, DisksGoOnInFilesThatAreThere) {
  auto vm = BootWithDisks();
  Put("root-new.qcow2", "root.qcow2");
  Put("data-new.qcow2", "data.qcow2");
  const auto taken = Take(Reusing("a"));
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(DiskOf(*vm, 0), File("root-new.qcow2"));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
  // Going back leaves them to their user.
  ASSERT_TRUE(Revert("a").ok());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.a.qcow2"));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.a.qcow2")));
}

// The VM went elsewhere, and what it wrote there is in it alone.
TEST_F(CheckpointFilesTest, AFileOfItsUsersThatIsNotMergedStays) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("first").ok());
  Put("root-new.qcow2", "root.first.qcow2");
  Put("data-new.qcow2", "data.first.qcow2");
  ASSERT_TRUE(Take(Reusing("a")).ok());
  host_.overlays.files[File("root-new.qcow2")] = File("root.first.qcow2");
  ASSERT_TRUE(Revert("first").ok());
  ASSERT_TRUE(Delete("a").ok());
  EXPECT_TRUE(host_.overlays.files.contains(File("root-new.qcow2")));
  EXPECT_FALSE(host_.overlays.files.contains(File("root.a.qcow2")));
  EXPECT_EQ(DiskOf(*vm, 0), File("root.first.qcow2-2"));
}

TEST_F(CheckpointFilesTest, FilesOfUsersOutliveACheckpointThatFails) {
  auto vm = BootWithDisks();
  Put("root-new.qcow2", "root.qcow2");
  Put("data-new.qcow2", "data.qcow2");
  for (const std::string name : {"root", "data"}) {
    host_.overlays.files[File(name + "-new.qcow2")] = File(name + ".qcow2");
  }
  const auto before = host_.overlays.files;
  host_.backend.script().FailNext("AddOverlays", absl::AbortedError("not now"));
  EXPECT_EQ(ReasonOfReuse(), "checkpoint_not_taken");
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_EQ(host_.overlays.files, before);
  // Also one that fails before it is begun.
  host_.store.before_put_checkpoints = []() -> Task<absl::Status> {
    co_return absl::ResourceExhaustedError("full");
  };
  EXPECT_FALSE(Take(Reusing("x")).ok());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_EQ(host_.overlays.files, before);
}

TEST_F(CheckpointFilesTest, WhatIsNoEmptyOverlayOfTheDiskIsRefused) {
  auto vm = BootWithDisks();
  Put("data-new.qcow2", "data.qcow2");
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");  // there is none
  Put("root-new.qcow2", "");
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");
  Put("root-new.qcow2", "data.qcow2");
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");
  Put("root-new.qcow2", "root.qcow2", true, "raw");
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");
  Put("root-new.qcow2", "root.qcow2", true, "");
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");
  Put("root-new.qcow2", "root.qcow2", true, "qcow2", kDiskBytes / 2);
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");
  Put("root-new.qcow2", "root.qcow2", false);
  EXPECT_EQ(ReasonOfReuse(), "not_an_overlay");
  Put("root-new.qcow2", "root.qcow2");
  v1::CreateCheckpointRequest request = Reusing("x");
  request.mutable_disks(1)->clear_file();
  EXPECT_EQ(rpc::ReasonOf(Take(request).status()), "file_not_named");
  request.mutable_disks(1)->set_file(File("root.qcow2"));
  EXPECT_EQ(rpc::ReasonOf(Take(request).status()), "file_in_use");
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_TRUE(Take(Reusing("x")).ok());
}

TEST_F(CheckpointFilesTest, FilesBelowTheDisksBecomeACheckpoint) {
  auto vm = BootOverBases();
  v1::DefineCheckpointRequest request = Definition("base");
  request.set_description("as it came");
  const auto defined = Define(request);
  ASSERT_TRUE(defined.ok()) << defined.status();
  EXPECT_TRUE(defined->whole());
  EXPECT_TRUE(defined->current());
  EXPECT_EQ(defined->description(), "as it came");
  EXPECT_THAT(Names(), ElementsAre("base"));
  // Going back leaves what the VM was made with to its user.
  host_.overlays.files[File("root.qcow2")] = File("root-base.qcow2");
  ASSERT_TRUE(Revert("base").ok());
  EXPECT_EQ(DiskOf(*vm, 0), File("root-base.base.qcow2"));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.qcow2")));
}

TEST_F(CheckpointFilesTest, ADefinedOneIsDeletedAsOthersAre) {
  auto vm = BootOverBases();
  ASSERT_TRUE(Define(Definition("base")).ok());
  for (const std::string name : {"root", "data"}) {
    host_.backend.script().backing_files[File(name + ".qcow2")] = File(name + "-base.qcow2");
  }
  ASSERT_TRUE(Delete("base").ok());
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_EQ(DiskOf(*vm, 0), File("root-base.qcow2"));
}

TEST_F(CheckpointFilesTest, OlderOnesAreDefinedFirst) {
  BootOverBases();
  for (const std::string disk : {"root", "data"}) {
    Put(disk + "-old.qcow2", "");
    Put(disk + "-base.qcow2", disk + "-old.qcow2");
  }
  v1::DefineCheckpointRequest old = Definition("old");
  old.mutable_disks(0)->set_file(File("root-old.qcow2"));
  old.mutable_disks(1)->set_file(File("data-old.qcow2"));
  const auto oldest = Define(old);
  ASSERT_TRUE(oldest.ok()) << oldest.status();
  EXPECT_FALSE(oldest->current());
  v1::DefineCheckpointRequest base = Definition("base");
  base.set_parent("nope");
  EXPECT_EQ(rpc::ReasonOf(Define(base).status()), "no_such_checkpoint");
  base.set_parent("old");
  const auto later = Define(base);
  ASSERT_TRUE(later.ok()) << later.status();
  EXPECT_EQ(later->parent(), "old");
  EXPECT_TRUE(later->current());
  old.set_name("again");
  EXPECT_EQ(rpc::ReasonOf(Define(old).status()), "file_in_use");
}

TEST_F(CheckpointFilesTest, WhatDoesNotFitIsNotDefined) {
  BootOverBases();
  v1::DefineCheckpointRequest request = Definition("base");
  request.mutable_disks(0)->set_file(File("data-base.qcow2"));
  EXPECT_EQ(rpc::ReasonOf(Define(request).status()), "not_below");
  request = Definition("base");
  request.mutable_disks(0)->set_name("nope");
  EXPECT_EQ(rpc::ReasonOf(Define(request).status()), "unknown_disk");
  host_.overlays.images[File("root.qcow2")].below_format = "";
  EXPECT_EQ(rpc::ReasonOf(Define(Definition("base")).status()), "unknown_format");
  host_.overlays.images[File("root.qcow2")].below_format = "qcow2";
  request = Definition("base");
  request.clear_disks();
  EXPECT_EQ(Define(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Definition("no name");
  EXPECT_EQ(rpc::ReasonOf(Define(request).status()), "bad_name");
  EXPECT_THAT(Names(), IsEmpty());
  ASSERT_TRUE(Define(Definition("base")).ok());
  EXPECT_EQ(rpc::ReasonOf(Define(Definition("base")).status()), "checkpoint_exists");
}

// What was taken and not remembered is remembered after all.
TEST_F(CheckpointFilesTest, MemoryThatFitsIsDefinedWithItsDisks) {
  auto vm = BootWithDisks();
  v1::CreateCheckpointRequest request = Request("gone");
  request.set_no_metadata(true);
  request.set_memory_file(File("memory.ferry"));
  ASSERT_TRUE(Take(request).ok());
  for (const std::string disk : {"root", "data"}) {
    DiskImage image{.format = "qcow2", .bytes = kDiskBytes};
    host_.overlays.images[File(disk + ".qcow2")] = image;
    image.below = File(disk + ".qcow2");
    image.below_format = "qcow2";
    host_.overlays.images[File(disk + ".gone.qcow2")] = image;
  }
  v1::DefineCheckpointRequest define = Definition("found");
  define.mutable_disks(0)->set_file(File("root.qcow2"));
  define.mutable_disks(1)->set_file(File("data.qcow2"));
  define.set_memory_file(File("memory.ferry"));
  v1::DefineCheckpointRequest half = define;
  half.mutable_disks()->RemoveLast();
  EXPECT_EQ(rpc::ReasonOf(Define(half).status()), "disk_left_out");
  const auto defined = Define(define);
  ASSERT_TRUE(defined.ok()) << defined.status();
  EXPECT_EQ(defined->state(), v1::VM_STATE_RUNNING);
  EXPECT_GT(defined->memory_bytes(), 0u);
  ASSERT_TRUE(Revert("found").ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(std::filesystem::exists(File("memory.ferry")));
}

TEST_F(CheckpointFilesTest, MemoryThatDoesNotFitIsRefused) {
  auto vm = BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  const std::string memory = vm->checkpoints().at("a").memory_file();
  std::filesystem::copy_file(memory, File("memory.ferry"));
  ASSERT_TRUE(Delete("a").ok());
  for (const std::string disk : {"root", "data"}) {
    Put(disk + "-base.qcow2", "");
    Put(disk + ".qcow2", disk + "-base.qcow2");
  }
  v1::DefineCheckpointRequest define = Definition("found");
  define.set_memory_file(File("memory.ferry"));
  EXPECT_EQ(rpc::ReasonOf(Define(define).status()), "memory_does_not_fit");
  std::fstream damaged(File("memory.ferry"), std::ios::in | std::ios::out);
  damaged.seekp(40) << "damage";
  damaged.close();
  EXPECT_EQ(rpc::ReasonOf(Define(define).status()), "memory_damaged");
  EXPECT_THAT(Names(), IsEmpty());
}

}  // namespace
}  // namespace ferry::vm
