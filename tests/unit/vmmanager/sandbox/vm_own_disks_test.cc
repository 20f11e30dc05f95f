// Disks of a VM's own that come, go and grow.
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/sandbox/own_disks.h"
#include "vmmanager/sandbox/snapshot_plan.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

class VmOwnDisksTest : public SandboxTest {
 protected:
  void SetUp() override {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    *request.mutable_spec()->add_disks() = Disk("root");
    vm_ = *Await(host_.inventory->Create(request));
    ASSERT_TRUE(Await(vm_->Start()).ok());
  }
  v1::DiskSpec Disk(const std::string& name) {
    v1::DiskSpec disk;
    disk.set_name(name);
    disk.set_file(folder_.path() + "/" + name + ".raw");
    disk.set_format("raw");
    std::ofstream(disk.file()) << "disk";
    host_.overlays.images[disk.file()] = {.format = "raw", .bytes = 1024};
    return disk;
  }
  absl::Status Attach(const std::string& name) { return Await(vm_->AttachOwnDisk(Disk(name))); }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& [name, disk] : DisksByName(vm_->document())) {
      names.push_back(name + "@" + disk.place.lun);
    }
    return names;
  }
  void EndVm() {
    ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
    Settle();
  }
  void Restart() {
    RestartDaemon();
    vm_ = *host_.inventory->Find("web");
  }

  std::shared_ptr<UtilityVm> vm_;
};

TEST_F(VmOwnDisksTest, OneThatComesStays) {
  ASSERT_TRUE(Attach("data").ok());
  EXPECT_EQ(host_.System(*vm_)->disks().size(), 1u);
  EndVm();
  EXPECT_THAT(Names(), ElementsAre("data@1", "root@0"));
  Restart();
  ASSERT_TRUE(Await(vm_->Start()).ok());
  EXPECT_THAT(Names(), ElementsAre("data@1", "root@0"));
  EXPECT_EQ(vm_->spec().disks_size(), 2);
}

TEST_F(VmOwnDisksTest, OneThatGoesLeavesTheOthersWhereTheyAre) {
  ASSERT_TRUE(Attach("data").ok());
  ASSERT_TRUE(Attach("more").ok());
  ASSERT_TRUE(Await(vm_->DetachOwnDisk("data")).ok());
  EXPECT_EQ(host_.System(*vm_)->disks().size(), 1u);
  EXPECT_THAT(Names(), ElementsAre("more@2", "root@0"));
  EndVm();
  Restart();
  EXPECT_THAT(Names(), ElementsAre("more@2", "root@0"));
  EXPECT_EQ(rpc::ReasonOf(Await(vm_->DetachOwnDisk("data"))), "no_such_disk");
}

TEST_F(VmOwnDisksTest, AStoppedVmTakesThemToo) {
  EndVm();
  ASSERT_TRUE(Attach("data").ok());
  ASSERT_TRUE(Await(vm_->DetachOwnDisk("root")).ok());
  EXPECT_THAT(Names(), ElementsAre("data@1"));
  ASSERT_TRUE(Await(vm_->Start()).ok());
  EXPECT_THAT(Names(), ElementsAre("data@1"));
  ASSERT_TRUE(Await(vm_->DetachOwnDisk("data")).ok());
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(VmOwnDisksTest, WhatItsMachineDoesNotTakeItDoesNotHave) {
  host_.backend.script().FailNext("Modify", absl::FailedPreconditionError("it is in use"));
  EXPECT_EQ(Attach("data").message(), "it is in use");
  EXPECT_THAT(Names(), ElementsAre("root@0"));
  EXPECT_THAT(Row(vm_->id()).spec_json, Not(HasSubstr("data")));
  host_.store.FailNext(absl::ResourceExhaustedError("full"));
  EXPECT_TRUE(absl::IsResourceExhausted(Attach("data")));
  EXPECT_THAT(Names(), ElementsAre("root@0"));
  EXPECT_TRUE(host_.System(*vm_)->disks().empty());
}

// It is the machine that has it, or not.
TEST_F(VmOwnDisksTest, OneThatWasOnItsWayWhenTheDaemonDiedIsNotAttached) {
  ASSERT_TRUE(Attach("data").ok());
  ASSERT_THAT(Row(vm_->id()).spec_json, HasSubstr("data"));
  schema::ModifySettingRequest request;
  request.resource_path = DiskResource("1");
  request.request_type = "Remove";
  ASSERT_TRUE(Await(host_.System(*vm_)->Modify(request)).ok());
  Restart();
  EXPECT_THAT(Names(), ElementsAre("root@0"));
  EXPECT_THAT(Row(vm_->id()).spec_json, Not(HasSubstr("data")));
}

TEST_F(VmOwnDisksTest, OneThatWasOnItsWayOutIsGone) {
  host_.at_point = [this](const std::string& point) {
    if (point == "DISK.unplugged") host_.store.FailNext(absl::UnavailableError("it dies"));
  };
  ASSERT_TRUE(Attach("data").ok());
  EXPECT_THAT(Await(vm_->DetachOwnDisk("data")).message(), HasSubstr("not written down yet"));
  EXPECT_THAT(Names(), ElementsAre("root@0"));
  Settle();
  EXPECT_THAT(Row(vm_->id()).spec_json, Not(HasSubstr("data")));
}

TEST_F(VmOwnDisksTest, OneOfWhichNothingIsSaidMayHaveCome) {
  host_.backend.script().FailNext("Modify", absl::DeadlineExceededError("no answer"));
  EXPECT_EQ(rpc::ReasonOf(Attach("data")), "disk_in_doubt");
  EXPECT_THAT(Names(), ElementsAre("data@1", "root@0"));
  ASSERT_TRUE(Await(vm_->DetachOwnDisk("data")).ok());
  EXPECT_TRUE(Attach("data").ok());
}

TEST_F(VmOwnDisksTest, WhatIsSetMeanwhileStays) {
  host_.backend.script().Block("Modify");
  auto attaching = Begin(vm_->AttachOwnDisk(Disk("data")));
  Await(host_.backend.script().WaitBlocked("Modify"));
  v1::SetVmRequest changes;
  changes.set_autostart(true);
  ASSERT_TRUE(Await(vm_->Set(changes)).ok());
  host_.backend.script().FailNext("Modify", absl::FailedPreconditionError("it is in use"));
  host_.backend.script().Release("Modify");
  EXPECT_FALSE(Finish(attaching).ok());
  EXPECT_THAT(Row(vm_->id()).spec_json, HasSubstr("autostart"));
  EXPECT_THAT(Row(vm_->id()).spec_json, Not(HasSubstr("data")));
}

TEST_F(VmOwnDisksTest, AFileIsOneDiskOnly) {
  v1::DiskSpec again = Disk("root");
  again.set_name("again");
  EXPECT_THAT(Await(vm_->AttachOwnDisk(again)).message(), HasSubstr("already, as disk root"));
}

TEST_F(VmOwnDisksTest, ANameOrAPlaceIsTakenOnce) {
  v1::DiskSpec root = Disk("other");
  root.set_name("root");
  EXPECT_TRUE(absl::IsInvalidArgument(Await(vm_->AttachOwnDisk(root))));
  v1::DiskSpec data = Disk("data");
  data.set_lun(0);
  EXPECT_TRUE(absl::IsInvalidArgument(Await(vm_->AttachOwnDisk(data))));
  schema::Attachment scratch;
  scratch.path = Disk("scratch").file();
  ASSERT_TRUE(Await(vm_->AttachDisk(scratch)).ok());
  data.set_lun(1);
  EXPECT_TRUE(absl::IsAlreadyExists(Await(vm_->AttachOwnDisk(data))));
  data.clear_lun();
  EXPECT_TRUE(Await(vm_->AttachOwnDisk(data)).ok());
  EndVm();
  EXPECT_THAT(Names(), ElementsAre("data@2", "root@0"));
}

TEST_F(VmOwnDisksTest, TheyStayWhileAMigrationHoldsTheVm) {
  ASSERT_TRUE(vm_->OpenMigration("session", "elsewhere").ok());
  EXPECT_THAT(Attach("data").message(), HasSubstr("while migration session is under way"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->DetachOwnDisk("root"))));
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->ResizeOwnDisk("root", 4096))));
}

TEST_F(VmOwnDisksTest, TheyGrowAndDoNotShrink) {
  ASSERT_TRUE(Await(vm_->ResizeOwnDisk("root", 4096)).ok());
  EXPECT_EQ(host_.System(*vm_)->sizes().at({"0", "0"}), 4096u);
  EXPECT_EQ(rpc::ReasonOf(Await(vm_->ResizeOwnDisk("root", 512))), "disk_is_larger");
  EXPECT_TRUE(Await(vm_->ResizeOwnDisk("root", 1024)).ok());
  EndVm();
  ASSERT_TRUE(Await(vm_->ResizeOwnDisk("root", 8192)).ok());
  EXPECT_EQ(host_.overlays.images[folder_.path() + "/root.raw"].bytes, 8192u);
  v1::DiskSpec data = Disk("data");
  data.set_read_only(true);
  ASSERT_TRUE(Await(vm_->AttachOwnDisk(data)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(vm_->ResizeOwnDisk("data", 4096))));
}

}  // namespace
}  // namespace ferry::vm
