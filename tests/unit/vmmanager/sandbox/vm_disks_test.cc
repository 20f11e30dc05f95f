// Disks that come and go while the VM runs.
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

class VmDisksTest : public SandboxTest {
 protected:
  void SetUp() override {
    file_ = folder_.path() + "/disk.raw";
    std::ofstream(file_) << "disk";
    vm_ = Boot();
  }
  absl::StatusOr<DiskSlot> Attach() { return Await(vm_->AttachDisk(Disk())); }
  schema::Attachment Disk() const {
    schema::Attachment disk;
    disk.path = file_;
    disk.format = "raw";
    disk.read_only = true;
    return disk;
  }
  // In the machine itself, in its document, and in the document that the store has.
  std::vector<size_t> Counts() {
    const auto document = schema::ComputeSystemFromJson(Row(vm_->id()).document_json);
    return {host_.System(*vm_)->disks().size(), CountIn(vm_->document()), CountIn(*document)};
  }
  static size_t CountIn(const schema::ComputeSystem& document) {
    const auto& scsi = document.virtual_machine.devices.scsi;
    const auto found = scsi.find("0");
    return found == scsi.end() ? 0 : found->second.attachments.size();
  }

  TestFolder folder_;
  std::string file_;
  std::shared_ptr<UtilityVm> vm_;
};

using Each = std::vector<size_t>;

TEST_F(VmDisksTest, ADiskIsInTheMachineAndInItsDocumentUntilItIsTakenOut) {
  const auto first = Attach();
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Attach();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE(first->lun, second->lun);
  EXPECT_EQ(Counts(), (Each{2, 2, 2}));
  ASSERT_TRUE(Await(vm_->DetachDisk(*first)).ok());
  EXPECT_EQ(Counts(), (Each{1, 1, 1}));
  EXPECT_TRUE(absl::IsNotFound(Await(vm_->DetachDisk(*first))));
  // Its place is free again.
  EXPECT_EQ(Attach()->lun, first->lun);
}

TEST_F(VmDisksTest, ADiskGrowsAndDoesNotShrink) {
  host_.overlays.images[file_] = {.format = "raw", .bytes = 4096};
  schema::Attachment disk = Disk();
  disk.read_only = false;
  const auto slot = Await(vm_->AttachDisk(disk));
  ASSERT_TRUE(slot.ok()) << slot.status();
  ASSERT_TRUE(Await(vm_->ResizeDisk(*slot, 8192)).ok());
  EXPECT_EQ(host_.System(*vm_)->sizes().at({"0", std::to_string(slot->lun)}), 8192u);
  EXPECT_TRUE(Await(vm_->ResizeDisk(*slot, 4096)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->ResizeDisk(*slot, 512))));
  EXPECT_TRUE(absl::IsNotFound(Await(vm_->ResizeDisk({0, 40}, 8192))));
  ASSERT_TRUE(vm_->OpenMigration("session", "elsewhere").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->ResizeDisk(*slot, 16384))));
}

TEST_F(VmDisksTest, ADiskThatTheMachineRefusesIsInNoDocument) {
  std::filesystem::remove(file_);
  EXPECT_FALSE(Attach().ok());
  EXPECT_EQ(Counts(), (Each{0, 0, 0}));
}

TEST_F(VmDisksTest, ARestartedDaemonKnowsThemAndAVmThatStartsAgainHasNone) {
  ASSERT_TRUE(Attach().ok());
  RestartDaemon();
  vm_ = *host_.inventory->Find("web");
  EXPECT_EQ(CountIn(vm_->document()), 1u);
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  Settle();
  EXPECT_EQ(CountIn(vm_->document()), 0u);
  EXPECT_EQ(CountIn(*schema::ComputeSystemFromJson(Row(vm_->id()).document_json)), 0u);
}

TEST_F(VmDisksTest, TheyStayWhileAMigrationHoldsTheVm) {
  const auto slot = Attach();
  ASSERT_TRUE(vm_->OpenMigration("session", "elsewhere").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Attach().status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->DetachDisk(*slot))));
  vm_->ReturnFromMigration(vm_->epoch());
  EXPECT_TRUE(Await(vm_->DetachDisk(*slot)).ok());
}

TEST_F(VmDisksTest, AStoppedVmIsGivenNone) {
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Attach().status()));
}

}  // namespace
}  // namespace ferry::vm
