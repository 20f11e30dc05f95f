// A disk of a VM's own that goes to another file.
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/own_disks.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::Not;

class VmDiskMoveTest : public SandboxTest {
 protected:
  void SetUp() override {
    std::ofstream(from_) << "disk";
    host_.overlays.files[from_] = "";
    host_.overlays.inodes[from_] = kInode;
    host_.overlays.images[from_] = {.format = "raw", .bytes = 1024};
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    v1::DiskSpec* disk = request.mutable_spec()->add_disks();
    disk->set_name("root");
    disk->set_file(from_);
    disk->set_format("raw");
    vm_ = *Await(host_.inventory->Create(request));
  }
  void Start() { ASSERT_TRUE(Await(vm_->Start()).ok()); }
  DiskMoveWish Wish() {
    DiskMoveWish wish;
    wish.disk = "root";
    wish.from = from_;
    wish.from_inode = kInode;
    wish.image = host_.overlays.images[from_];
    wish.to = to_;
    return wish;
  }
  absl::Status Move() { return Await(vm_->MoveOwnDisk(Wish())); }
  // Up to the instant at which it is written down as moved, and is not yet.
  auto BeginSwitch() {
    host_.backend.script().Block("MoveDiskSwitch");
    auto moving = Begin(vm_->MoveOwnDisk(Wish()));
    Await(host_.backend.script().WaitBlocked("MoveDiskSwitch"));
    return moving;
  }
  void FailStoreAt(const std::string& wanted) {
    host_.at_point = [this, wanted](const std::string& point) {
      if (point == wanted) host_.store.FailNext(absl::ResourceExhaustedError("full"));
    };
  }
  // The daemon dies; the next one goes on with what it finds.
  void Restart() {
    host_.settings.switch_wait = milliseconds(1);
    RestartDaemon();
    vm_ = *host_.inventory->Find("web");
    vm_->SettleDiskMove();
    Settle();
  }
  // Where all who know of the disk have it, and that nothing else is left.
  void ExpectIn(const std::string& file) {
    const std::string other = file == from_ ? to_ : from_;
    EXPECT_EQ(vm_->spec().disks(0).file(), file);
    EXPECT_EQ(vm_->document().virtual_machine.devices.scsi.at("0").attachments.at("0").path, file);
    const VmRow row = Row(vm_->id());
    EXPECT_EQ(row.disk_move, "");
    EXPECT_THAT(row.spec_json, HasSubstr(file));
    EXPECT_THAT(row.spec_json, Not(HasSubstr(other)));
    EXPECT_THAT(row.document_json, Not(HasSubstr(other)));
    EXPECT_TRUE(host_.overlays.files.contains(file));
    EXPECT_FALSE(host_.overlays.files.contains(other));
    if (vm_->system() == nullptr) return;
    EXPECT_EQ(Await(vm_->system()->ListDiskFiles())->at({"0", "0"}), file);
    EXPECT_TRUE(host_.System(*vm_)->Step());
  }

  static constexpr uint64_t kInode = 77;
  const std::string from_ = folder_.path() + "/root.raw";
  const std::string to_ = folder_.path() + "/elsewhere.raw";
  std::shared_ptr<UtilityVm> vm_;
};

TEST_F(VmDiskMoveTest, ItGoesOnThere) {
  Start();
  const absl::Status moved = Move();
  ASSERT_TRUE(moved.ok()) << moved;
  ExpectIn(to_);
  EXPECT_THAT(EventTypes(), Contains("vm.disk_moved"));
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  Settle();
  Restart();
  Start();
  ExpectIn(to_);
}

TEST_F(VmDiskMoveTest, TheFormerFileMayStay) {
  Start();
  DiskMoveWish wish = Wish();
  wish.keep = true;
  ASSERT_TRUE(Await(vm_->MoveOwnDisk(wish)).ok());
  EXPECT_TRUE(host_.overlays.files.contains(from_));
  EXPECT_EQ(vm_->spec().disks(0).file(), to_);
}

TEST_F(VmDiskMoveTest, AStoppedVmFindsItThere) {
  const absl::Status moved = Move();
  ASSERT_TRUE(moved.ok()) << moved;
  EXPECT_EQ(host_.overlays.copied[to_], from_);
  ExpectIn(to_);
  Start();
  ExpectIn(to_);
}

TEST_F(VmDiskMoveTest, WhatFailsLeavesItWhereItIs) {
  Start();
  host_.backend.script().FailNext("MoveDisk", absl::ResourceExhaustedError("no room"));
  const absl::Status failed = Move();
  EXPECT_TRUE(absl::IsResourceExhausted(failed)) << failed;
  EXPECT_THAT(failed.message(), HasSubstr("stays in"));
  ExpectIn(from_);
  host_.overlays.before_copy = [](const std::string&) -> Task<absl::Status> {
    co_return absl::InternalError("qemu-img failed");
  };
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  Settle();
  EXPECT_THAT(Move().message(), HasSubstr("qemu-img failed"));
  ExpectIn(from_);
}

TEST_F(VmDiskMoveTest, ItCanBeCalledOff) {
  Start();
  host_.backend.script().Block("MoveDisk");
  auto moving = Begin(vm_->MoveOwnDisk(Wish()));
  Await(host_.backend.script().WaitBlocked("MoveDisk"));
  EXPECT_NE(Row(vm_->id()).disk_move, "");
  EXPECT_EQ(rpc::ReasonOf(vm_->CheckSavable()), "disk_move_not_settled");
  ASSERT_TRUE(vm_->CallOffDiskMove().ok());
  EXPECT_TRUE(absl::IsCancelled(Finish(moving)));
  host_.backend.script().Release("MoveDisk");
  ExpectIn(from_);
  // What was called off before is no order for the next one.
  EXPECT_TRUE(Move().ok());
}

TEST_F(VmDiskMoveTest, NotWhileItChangesOver) {
  Start();
  auto moving = BeginSwitch();
  EXPECT_TRUE(absl::IsFailedPrecondition(vm_->CallOffDiskMove()));
  host_.backend.script().Release("MoveDiskSwitch");
  EXPECT_TRUE(Finish(moving).ok());
  ExpectIn(to_);
}

TEST_F(VmDiskMoveTest, WhatCannotBeWrittenDownIsNotDone) {
  Start();
  host_.store.FailNext(absl::ResourceExhaustedError("full"));
  EXPECT_TRUE(absl::IsResourceExhausted(Move()));
  ExpectIn(from_);
  FailStoreAt("DISK_MOVE.recorded");
  EXPECT_TRUE(absl::IsResourceExhausted(Move()));
  ExpectIn(from_);
  // That it changes over, which is what is written next.
  FailStoreAt("DISK_MOVE.reserved");
  EXPECT_TRUE(absl::IsResourceExhausted(Move()));
  ExpectIn(from_);
}

TEST_F(VmDiskMoveTest, AChangeOverThatFailsIsTakenBack) {
  Start();
  host_.backend.script().FailNext("MoveDiskSwitch", absl::AbortedError("not now"));
  EXPECT_THAT(Move().message(), HasSubstr("not now"));
  ExpectIn(from_);
}

TEST_F(VmDiskMoveTest, ADaemonThatDiesWhileItCopiesLeavesItWhereItWas) {
  Start();
  host_.backend.script().Block("MoveDisk");
  auto moving = Begin(vm_->MoveOwnDisk(Wish()));
  Await(host_.backend.script().WaitBlocked("MoveDisk"));
  Restart();
  EXPECT_TRUE(absl::IsUnavailable(Finish(moving)));
  ExpectIn(from_);
}

// It is written down as moved, and its VMM has not been told.
TEST_F(VmDiskMoveTest, WhereItIsItsVmmKnows) {
  Start();
  auto moving = BeginSwitch();
  EXPECT_THAT(Row(vm_->id()).spec_json, HasSubstr(to_));
  Restart();
  EXPECT_FALSE(Finish(moving).ok());
  ExpectIn(from_);
}

TEST_F(VmDiskMoveTest, ADaemonThatDiesBeforeItHasTidiedUpIsFollowedByOneThatDoes) {
  Start();
  FailStoreAt("DISK_MOVE.tidied");
  host_.settings.retry_pause = std::chrono::hours(1);
  EXPECT_TRUE(absl::IsResourceExhausted(Move()));
  EXPECT_NE(Row(vm_->id()).disk_move, "");
  host_.at_point = [](const std::string&) {};
  Restart();
  ExpectIn(to_);
}

TEST_F(VmDiskMoveTest, AVmThatEndsMeanwhileHasItWhereItWas) {
  Start();
  host_.backend.script().Block("MoveDisk");
  auto moving = Begin(vm_->MoveOwnDisk(Wish()));
  Await(host_.backend.script().WaitBlocked("MoveDisk"));
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  EXPECT_FALSE(Finish(moving).ok());
  host_.backend.script().Release("MoveDisk");
  Settle();
  Start();
  ExpectIn(from_);
}

TEST_F(VmDiskMoveTest, SomeDisksStay) {
  DiskMoveWish other = Wish();
  other.disk = "none";
  EXPECT_EQ(rpc::ReasonOf(Await(vm_->MoveOwnDisk(other))), "no_such_disk");
  other = Wish();
  other.from = "/former";
  EXPECT_TRUE(absl::IsAborted(Await(vm_->MoveOwnDisk(other))));
  other = Wish();
  other.to = from_;
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->MoveOwnDisk(other))));
  Start();
  ASSERT_TRUE(vm_->OpenMigration("session", "elsewhere").ok());
  EXPECT_THAT(Move().message(), HasSubstr("while migration session is under way"));
}

TEST_F(VmDiskMoveTest, OneThatIsOnlyReadNeedsAVmThatDoesNotRun) {
  v1::DiskSpec tools;
  tools.set_name("tools");
  tools.set_file(folder_.path() + "/tools.raw");
  tools.set_format("raw");
  tools.set_read_only(true);
  std::ofstream(tools.file()) << "disk";
  ASSERT_TRUE(Await(vm_->AttachOwnDisk(tools)).ok());
  DiskMoveWish wish = Wish();
  wish.disk = "tools";
  wish.from = tools.file();
  Start();
  EXPECT_EQ(rpc::ReasonOf(Await(vm_->MoveOwnDisk(wish))), "disk_is_read_only");
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  Settle();
  EXPECT_TRUE(Await(vm_->MoveOwnDisk(wish)).ok());
}

}  // namespace
}  // namespace ferry::vm
