// Checkpoints in files that are, or become, somebody else's.
#include <filesystem>

#include "tests/unit/vmmanager/saving/checkpoint_files_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CheckpointOwnersTest : public CheckpointFilesFixture {
 protected:
  // Each base lies over an older file; and that as a checkpoint.
  void PutOlder() {
    for (const std::string disk : {"root", "data"}) {
      Put(disk + "-old.qcow2", "");
      Put(disk + "-base.qcow2", disk + "-old.qcow2");
    }
  }
  v1::DefineCheckpointRequest OlderDefinition(const std::string& name) {
    v1::DefineCheckpointRequest request = Definition(name);
    request.mutable_disks(0)->set_file(File("root-old.qcow2"));
    request.mutable_disks(1)->set_file(File("data-old.qcow2"));
    return request;
  }
  // Another VM with one disk.
  v1::CreateVmRequest Other(const std::string& file) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("db");
    v1::DiskSpec* disk = request.mutable_spec()->add_disks();
    disk->set_name("root");
    disk->set_file(File(file));
    disk->set_format("qcow2");
    return request;
  }
  void CreateOther(const std::string& file) {
    const auto made = Await(host_.inventory->Create(Other(file)));
    ASSERT_TRUE(made.ok()) << made.status();
  }
  void Link(const std::string& name, const std::string& to) {
    std::filesystem::create_symlink(File(to), File(name));
    const auto image = host_.overlays.images.find(File(to));
    if (image != host_.overlays.images.end()) host_.overlays.images[File(name)] = image->second;
  }
};

TEST_F(CheckpointOwnersTest, NoneIsDefinedOverOneThatWasTakenMeanwhile) {
  auto vm = BootOverBases();
  // Once its files were looked at, which is twice the disk's two and the other's.
  constexpr int kLast = 8;
  int looked = 0;
  host_.overlays.before_examine = [this, &looked]() -> Task<void> {
    if (++looked != kLast) co_return;
    v1::CreateCheckpointRequest request = Request("x");
    const auto taken = co_await checkpoints_->Create(request);
    EXPECT_TRUE(taken.ok()) << taken.status();
  };
  EXPECT_EQ(rpc::ReasonOf(Define(Definition("x")).status()), "checkpoint_exists");
  EXPECT_NE(vm->checkpoints().at("x").memory_file(), "");
}

TEST_F(CheckpointOwnersTest, NoneIsTakenOverOneThatWasDefinedMeanwhile) {
  auto vm = BootOverBases();
  PutOlder();
  bool first = true;
  host_.overlays.before_make = [this, &first]() -> Task<void> {
    if (!first) co_return;
    first = false;
    v1::DefineCheckpointRequest request = OlderDefinition("x");
    const auto defined = co_await checkpoints_->Define(request);
    EXPECT_TRUE(defined.ok()) << defined.status();
  };
  EXPECT_EQ(rpc::ReasonOf(Take("x").status()), "checkpoint_exists");
  EXPECT_EQ(vm->checkpoints().at("x").disks(0).file(), File("root-old.qcow2"));
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_THAT(host_.overlays.files, IsEmpty());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(CheckpointOwnersTest, NoneIsForgottenBesideOneThatWasDefinedMeanwhile) {
  auto vm = BootOverBases();
  PutOlder();
  bool first = true;
  host_.overlays.before_make = [this, &first]() -> Task<void> {
    if (!first) co_return;
    first = false;
    v1::DefineCheckpointRequest request = OlderDefinition("x");
    const auto defined = co_await checkpoints_->Define(request);
    EXPECT_TRUE(defined.ok()) << defined.status();
  };
  v1::CreateCheckpointRequest request = Request("gone");
  request.set_disk_only(true);
  request.set_no_metadata(true);
  EXPECT_EQ(rpc::ReasonOf(Take(request).status()), "vm_has_checkpoints");
  EXPECT_THAT(Names(), ElementsAre("x"));
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
}

// It is its user's whichever way the VM has gone meanwhile.
TEST_F(CheckpointOwnersTest, AUsersFileStaysAfterManyWays) {
  auto vm = BootOverBases();
  host_.overlays.files[File("root.qcow2")] = File("root-base.qcow2");
  host_.overlays.files[File("data.qcow2")] = File("data-base.qcow2");
  ASSERT_TRUE(Define(Definition("x")).ok());
  v1::CreateCheckpointRequest disks = Request("y");
  disks.set_disk_only(true);
  ASSERT_TRUE(Take(disks).ok());
  ASSERT_TRUE(Revert("x").ok());
  ASSERT_TRUE(Revert("y").ok());
  ASSERT_TRUE(Delete("y").ok());
  EXPECT_EQ(DiskOf(*vm, 0), File("root.qcow2"));
  ASSERT_TRUE(Revert("x").ok());
  EXPECT_NE(DiskOf(*vm, 0), File("root.qcow2"));
  EXPECT_TRUE(host_.overlays.files.contains(File("root.qcow2")));
  EXPECT_TRUE(host_.overlays.files.contains(File("data.qcow2")));
}

TEST_F(CheckpointOwnersTest, AnotherVmsFileIsKnownByAnyName) {
  BootOverBases();
  Link("other.qcow2", "root-base.qcow2");
  CreateOther("other.qcow2");
  EXPECT_EQ(rpc::ReasonOf(Define(Definition("x")).status()), "file_in_use");
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(CheckpointOwnersTest, AFileThatAnotherVmLiesOverIsNotDefined) {
  BootOverBases();
  Put("other.qcow2", "root-base.qcow2");
  CreateOther("other.qcow2");
  EXPECT_EQ(rpc::ReasonOf(Define(Definition("x")).status()), "file_in_use");
}

TEST_F(CheckpointOwnersTest, WhereItCannotBeKnownNoneIsDefined) {
  BootOverBases();
  Put("middle.qcow2", "root-base.qcow2");
  Put("other.qcow2", "middle.qcow2");
  CreateOther("other.qcow2");
  host_.overlays.images[File("middle.qcow2")].format = "damaged";
  EXPECT_EQ(rpc::ReasonOf(Define(Definition("x")).status()), "chain_unknown");
  // One that is not there is over nothing.
  host_.overlays.images.erase(File("middle.qcow2"));
  EXPECT_TRUE(Define(Definition("x")).ok());
}

TEST_F(CheckpointOwnersTest, AFileThatAnotherDiskOfItsVmLiesOverIsNotDefined) {
  BootOverBases();
  Put("data.qcow2", "root-base.qcow2");
  v1::DefineCheckpointRequest request = Definition("x");
  request.mutable_disks()->RemoveLast();
  EXPECT_EQ(rpc::ReasonOf(Define(request).status()), "file_in_use");
}

// One VM more, once all of it was looked at for the first time.
TEST_F(CheckpointOwnersTest, ItIsLookedAtAgainInTheLastMoment) {
  BootOverBases();
  Put("other.qcow2", "data-base.qcow2");
  // The disk's two files, and those of the other disk.
  constexpr int kLast = 4;
  int looked = 0;
  const v1::CreateVmRequest other = Other("other.qcow2");
  host_.overlays.before_examine = [this, &looked, &other]() -> Task<void> {
    if (++looked != kLast) co_return;
    const auto made = co_await host_.inventory->Create(other);
    EXPECT_TRUE(made.ok()) << made.status();
  };
  v1::DefineCheckpointRequest request = Definition("x");
  request.mutable_disks()->DeleteSubrange(0, 1);
  EXPECT_EQ(rpc::ReasonOf(Define(request).status()), "file_in_use");
  EXPECT_GT(looked, kLast);
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(CheckpointOwnersTest, ACheckpointsFileIsKnownByAnyName) {
  BootOverBases();
  PutOlder();
  ASSERT_TRUE(Define(OlderDefinition("old")).ok());
  Link("root-alias.qcow2", "root-old.qcow2");
  Put("root-base.qcow2", "root-alias.qcow2");
  v1::DefineCheckpointRequest again = Definition("again");
  again.mutable_disks()->RemoveLast();
  again.mutable_disks(0)->set_file(File("root-alias.qcow2"));
  EXPECT_EQ(rpc::ReasonOf(Define(again).status()), "file_in_use");
  // Nor does anything lie over it by that name.
  again.mutable_disks(0)->set_file(File("root-base.qcow2"));
  EXPECT_EQ(rpc::ReasonOf(Define(again).status()), "file_in_use");
  EXPECT_THAT(Names(), ElementsAre("old"));
}

TEST_F(CheckpointOwnersTest, NoDiskGoesOnInAFileThatIsInUseByAnotherName) {
  BootWithDisks();
  Put("root-new.qcow2", "root.qcow2");
  Put("data-new.qcow2", "data.qcow2");
  Link("other.qcow2", "root-new.qcow2");
  CreateOther("other.qcow2");
  EXPECT_EQ(ReasonOfReuse(), "file_in_use");
}

TEST_F(CheckpointOwnersTest, NoDiskGoesOnInAFileThatAnotherVmLiesOver) {
  BootWithDisks();
  Put("root-new.qcow2", "root.qcow2");
  Put("data-new.qcow2", "data.qcow2");
  Put("other.qcow2", "root-new.qcow2");
  CreateOther("other.qcow2");
  EXPECT_EQ(ReasonOfReuse(), "file_in_use");
}

TEST_F(CheckpointOwnersTest, NothingIsMergedIntoAFileThatAnotherVmLiesOver) {
  BootWithDisks();
  ASSERT_TRUE(Take("a").ok());
  Put("root.qcow2", "");
  Put("other.qcow2", "root.qcow2");
  CreateOther("other.qcow2");
  const absl::Status refused = Delete("a");
  EXPECT_EQ(rpc::ReasonOf(refused), "file_in_use") << refused;
  EXPECT_THAT(Names(), ElementsAre("a"));
  // Also where there is another of which it cannot be known.
  v1::CreateVmRequest broken = Other("broken.qcow2");
  broken.mutable_spec()->set_name("aa");
  Put("broken.qcow2", "");
  ASSERT_TRUE(Await(host_.inventory->Create(broken)).ok());
  host_.overlays.images[File("broken.qcow2")].format = "raw";
  EXPECT_EQ(rpc::ReasonOf(Delete("a")), "file_in_use");
  // What cannot be found out of others is their own affair.
  Put("other.qcow2", "data-new.qcow2");
  host_.overlays.images[File("other.qcow2")].format = "raw";
  const absl::Status deleted = Delete("a");
  EXPECT_TRUE(deleted.ok()) << deleted;
}

TEST_F(CheckpointOwnersTest, FilesOfFerrydsOwnAreNotDefinedByAnyName) {
  BootOverBases();
  Put("state/own.qcow2", "");
  Put("root.qcow2", "state/own.qcow2");
  Link("own-alias.qcow2", "state/own.qcow2");
  v1::DefineCheckpointRequest request = Definition("x");
  request.mutable_disks()->RemoveLast();
  request.mutable_disks(0)->set_file(File("own-alias.qcow2"));
  EXPECT_EQ(Define(request).status().code(), absl::StatusCode::kInvalidArgument);
  Put("root.qcow2", "own-alias.qcow2");
  EXPECT_EQ(Define(request).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Names(), IsEmpty());
}

}  // namespace
}  // namespace ferry::vm
