// Disks of a VM's own that come, go and grow.
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"
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

TEST_F(VmOwnDisksTest, ANameOrAPlaceIsTakenOnce) {
  EXPECT_TRUE(absl::IsInvalidArgument(Attach("root")));
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
  EXPECT_TRUE(absl::IsFailedPrecondition(Attach("data")));
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
