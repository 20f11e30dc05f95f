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
    wish.files = &host_.overlays;
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
  // Where all who know of the disk have it, and what is left of the other file.
  void ExpectIn(const std::string& file, bool alone = true) {
    const std::string other = file == from_ ? to_ : from_;
    EXPECT_EQ(vm_->spec().disks(0).file(), file);
    EXPECT_EQ(vm_->document().virtual_machine.devices.scsi.at("0").attachments.at("0").path, file);
    const VmRow row = Row(vm_->id());
    EXPECT_EQ(row.disk_move, "");
    EXPECT_THAT(row.spec_json, HasSubstr(file));
    EXPECT_THAT(row.spec_json, Not(HasSubstr(other)));
    EXPECT_THAT(row.document_json, Not(HasSubstr(other)));
    EXPECT_TRUE(host_.overlays.files.contains(file));
    EXPECT_NE(host_.overlays.files.contains(other), alone);
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
  const DiskMoveWish wish = Wish();
  auto moving = Begin(vm_->MoveOwnDisk(wish));
  Await(host_.backend.script().WaitBlocked("MoveDisk"));
  EXPECT_NE(Row(vm_->id()).disk_move, "");
  EXPECT_EQ(rpc::ReasonOf(vm_->CheckSavable()), "disk_move_not_settled");
  // Another one that waits is called off without this.
  DiskMoveWish second = Wish();
  auto waiting = Begin(vm_->MoveOwnDisk(second));
  Settle();
  vm_->CallOffDiskMove(second.control.get());
  vm_->CallOffDiskMove(wish.control.get());
  EXPECT_TRUE(absl::IsCancelled(Finish(moving)));
  host_.backend.script().Release("MoveDisk");
  EXPECT_TRUE(absl::IsCancelled(Finish(waiting)));
  ExpectIn(from_);
  // What was called off before is no order for the next one.
  EXPECT_TRUE(Move().ok());
}

TEST_F(VmDiskMoveTest, NotWhileItChangesOver) {
  Start();
  const DiskMoveWish wish = Wish();
  host_.backend.script().Block("MoveDiskSwitch");
  auto moving = Begin(vm_->MoveOwnDisk(wish));
  Await(host_.backend.script().WaitBlocked("MoveDiskSwitch"));
  EXPECT_TRUE(wish.control->changes_over);
  vm_->CallOffDiskMove(wish.control.get());
  host_.backend.script().Release("MoveDiskSwitch");
  EXPECT_TRUE(Finish(moving).ok());
  ExpectIn(to_);
}

TEST_F(VmDiskMoveTest, WhatCannotBeWrittenDownIsNotDone) {
  Start();
  Settle();
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

// Whose the former file is by then it cannot know.
TEST_F(VmDiskMoveTest, ALaterDaemonSettlesItAndRemovesNoFormerFile) {
  Start();
  FailStoreAt("DISK_MOVE.placed");
  host_.settings.retry_pause = std::chrono::hours(1);
  EXPECT_THAT(Move().message(), HasSubstr("not settled yet"));
  EXPECT_NE(Row(vm_->id()).disk_move, "");
  EXPECT_EQ(rpc::ReasonOf(vm_->CheckSavable()), "disk_move_not_settled");
  host_.at_point = [](const std::string&) {};
  Restart();
  ExpectIn(to_, false);
}

TEST_F(VmDiskMoveTest, WhatCannotBeWrittenDownYetIsTriedAgain) {
  Start();
  FailStoreAt("DISK_MOVE.placed");
  host_.settings.retry_pause = milliseconds(1);
  EXPECT_THAT(Move().message(), HasSubstr("not settled yet"));
  host_.at_point = [](const std::string&) {};
  while (!Row(vm_->id()).disk_move.empty()) Settle();
  ExpectIn(to_, false);
}

TEST_F(VmDiskMoveTest, AFileThatIsThereIsNobodysToTake) {
  host_.overlays.files[to_] = "";
  Start();
  EXPECT_TRUE(absl::IsAlreadyExists(Move()));
  ExpectIn(from_, false);
}

// Its user has put another one there meanwhile.
TEST_F(VmDiskMoveTest, WhatIsAnotherFileByNowIsNotGoneOnIn) {
  for (const bool runs : {false, true}) {
    if (runs) Start();
    host_.at_point = [this](const std::string& point) {
      if (point == "DISK_MOVE.reserved") host_.overlays.inodes[to_] = 1234;
    };
    EXPECT_THAT(Move().message(), HasSubstr("is another file now"));
    ExpectIn(from_, false);
    host_.overlays.files.erase(to_);
  }
}

TEST_F(VmDiskMoveTest, AFormerFileThatSomebodyHasTakenStays) {
  Start();
  DiskMoveWish wish = Wish();
  wish.may_remove = []() -> Task<absl::Status> {
    co_return absl::FailedPreconditionError("VM other lies over it");
  };
  EXPECT_THAT(Await(vm_->MoveOwnDisk(wish)).message(), HasSubstr("its former file"));
  ExpectIn(to_, false);
}

TEST_F(VmDiskMoveTest, ARecordOfANewerDaemonIsKept) {
  VmRow row = Row(vm_->id());
  row.disk_move = "\x08\x63";
  ASSERT_TRUE(Await(host_.store.PutVm(row)).ok());
  Restart();
  EXPECT_THAT(Await(vm_->Start()).message(), HasSubstr("cannot read"));
  v1::SetVmRequest changes;
  changes.set_autostart(true);
  ASSERT_TRUE(Await(vm_->Set(changes)).ok());
  EXPECT_EQ(Row(vm_->id()).disk_move, "\x08\x63");
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
