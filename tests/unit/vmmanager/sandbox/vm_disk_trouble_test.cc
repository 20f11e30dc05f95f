// Disks that fail on the host: the VM stands still, and loses nothing.
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;

class VmDiskTroubleTest : public SandboxTest {
 protected:
  void SetUp() override {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name("web");
    v1::DiskSpec* disk = request.mutable_spec()->add_disks();
    disk->set_name("root");
    disk->set_file(folder_.path() + "/root.raw");
    disk->set_format("raw");
    std::ofstream(disk->file()) << "disk";
    vm_ = *Await(host_.inventory->Create(request));
    ASSERT_TRUE(Await(vm_->Start()).ok());
  }
  void Fail(bool no_room) {
    host_.System(*vm_)->Fail({{"0", "0"}, no_room});
    Settle();
  }

  std::shared_ptr<UtilityVm> vm_;
};

TEST_F(VmDiskTroubleTest, ItStandsStillUntilItsUserLetsItGoOn) {
  Fail(true);
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  const std::string why = vm_->Describe(false).state_reason();
  EXPECT_THAT(why, HasSubstr("its disk root (" + folder_.path() + "/root.raw) has no room left"));
  EXPECT_THAT(why, HasSubstr("ferryctl vm resume web"));
  EXPECT_THAT(EventTypes(), Contains("vm.disk_failed"));
  EXPECT_EQ(Row(vm_->id()).desired_state, "paused");
  ASSERT_TRUE(Await(vm_->Resume()).ok());
  EXPECT_EQ(vm_->state(), v1::VM_STATE_RUNNING);
  EXPECT_THAT(vm_->Describe(false).state_reason(), IsEmpty());
  EXPECT_TRUE(host_.System(*vm_)->Step());
  // And again, for another reason.
  Fail(false);
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("fails with an I/O error"));
}

// A migration that fails, for instance, runs on what its user has not paused.
TEST_F(VmDiskTroubleTest, ItsVmmIsToldThatItIsToStayPaused) {
  host_.backend.script().Block("Pause");
  Fail(true);
  Await(host_.backend.script().WaitBlocked("Pause"));
  host_.backend.script().Release("Pause");
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
}

TEST_F(VmDiskTroubleTest, TheNextDaemonKnowsWhyItStandsStill) {
  Fail(true);
  RestartDaemon();
  vm_ = *host_.inventory->Find("web");
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("no room left"));
  ASSERT_TRUE(Await(vm_->Resume()).ok());
  EXPECT_TRUE(host_.System(*vm_)->Step());
}

// A merge, for instance, lets it go on when it has ended, and it comes to the same disk again.
TEST_F(VmDiskTroubleTest, WhoeverIsAtItFirstDecides) {
  host_.backend.script().Block("Pause");
  auto pausing = Begin(vm_->Pause());
  Await(host_.backend.script().WaitBlocked("Pause"));
  Fail(true);
  EXPECT_EQ(vm_->state(), v1::VM_STATE_RUNNING);
  host_.backend.script().Release("Pause");
  ASSERT_TRUE(Finish(pausing).ok());
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(EventTypes(), Not(Contains("vm.disk_failed")));
}

TEST_F(VmDiskTroubleTest, OneThatRunsAgainIsLeftAlone) {
  host_.backend.script().Block("GetProperties");
  host_.System(*vm_)->Fail({{"0", "0"}, true});
  Await(host_.backend.script().WaitBlocked("GetProperties"));
  ASSERT_TRUE(Await(host_.System(*vm_)->Resume()).ok());
  host_.backend.script().Release("GetProperties");
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_RUNNING);
}

TEST_F(VmDiskTroubleTest, AVmmThatEndsMeanwhileHasEnded) {
  host_.backend.script().Block("ListDiskTroubles");
  host_.System(*vm_)->Fail({{"0", "0"}, true});
  Await(host_.backend.script().WaitBlocked("ListDiskTroubles"));
  host_.System(*vm_)->Exit(SystemExit::Cause::kCrashed, "killed");
  host_.backend.script().Release("ListDiskTroubles");
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_FAILED);
}

}  // namespace
}  // namespace ferry::vm
