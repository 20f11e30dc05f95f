// Disks that fail on the host: the VM stands still, and loses nothing.
#include <fstream>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/rpc/error_info.h"

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

// What is cut then arrives paused, whatever its VMM still has to hear of it.
TEST_F(VmDiskTroubleTest, ItIsPausedBeforeItsVmmIsToldSo) {
  host_.backend.script().Block("Pause");
  Fail(true);
  Await(host_.backend.script().WaitBlocked("Pause"));
  EXPECT_TRUE(vm_->paused_by_user());
  host_.backend.script().Release("Pause");
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
}

// Whoever decides where it runs lets it run; it is not to stand still for ever after that.
TEST_F(VmDiskTroubleTest, ASwitchoverIsAwaited) {
  ASSERT_TRUE(vm_->OpenMigration("session-1", "host-b:1").ok());
  vm_->FreezeGuest();
  host_.backend.script().FailNext("Pause", absl::InternalError("it is not to be paused now"));
  Fail(true);
  EXPECT_FALSE(vm_->paused_by_user());
  EXPECT_THAT(EventTypes(), Not(Contains("vm.disk_failed")));
  EXPECT_FALSE(Await(host_.System(*vm_)->Pause()).ok());
  vm_->ReturnFromMigration(1);
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("no room left"));
  ASSERT_TRUE(Await(vm_->Resume()).ok());
  EXPECT_TRUE(host_.System(*vm_)->Step());
}

TEST_F(VmDiskTroubleTest, SoIsTheAnswerOfAnotherHost) {
  ASSERT_TRUE(vm_->OpenMigration("session-1", "host-b:1").ok());
  vm_->FreezeGuest();
  vm_->MarkInDoubt();
  Fail(true);
  EXPECT_EQ(vm_->state(), v1::VM_STATE_IN_DOUBT);
  vm_->ReturnFromMigration(3);
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(EventTypes(), Contains("vm.disk_failed"));
}

// What fails as soon as it goes on has arrived all the same.
TEST_F(VmDiskTroubleTest, OneThatComesFromElsewhereIsPausedOnceItIsHere) {
  v1::CreateVmRequest request;
  request.mutable_spec()->set_name("incoming");
  auto vm = *Await(host_.inventory->Create(request));
  const schema::MigrationInitializeOptions options;
  MigrationEndpoint endpoint;
  endpoint.unix_path = folder_.path() + "/in";
  vm->ExpectMigration("session-1");
  ASSERT_TRUE(Await(vm->PrepareIncoming(options, endpoint)).ok());
  host_.System(*vm)->PretendArrived();
  host_.backend.script().on_first_run = [](FakeComputeSystem& system) {
    system.Fail({{"0", "0"}, true});
  };
  host_.backend.script().Block("FinalizeLiveMigrationRan");
  auto arriving = Begin(vm->RunIncoming(2, false));
  Await(host_.backend.script().WaitBlocked("FinalizeLiveMigrationRan"));
  Settle();
  host_.backend.script().Release("FinalizeLiveMigrationRan");
  const absl::Status arrived = Finish(arriving);
  ASSERT_TRUE(arrived.ok()) << arrived;
  Settle();
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm->Describe(false).state_reason(), HasSubstr("a disk of its fails"));
}

// Whatever stopped it, and however that was missed.
TEST_F(VmDiskTroubleTest, WhateverStoppedItItCanBeResumed) {
  ASSERT_TRUE(Await(host_.System(*vm_)->Pause()).ok());
  Settle();
  ASSERT_EQ(vm_->state(), v1::VM_STATE_RUNNING);
  ASSERT_TRUE(Await(vm_->Resume()).ok());
  EXPECT_TRUE(host_.System(*vm_)->Step());
}

TEST_F(VmDiskTroubleTest, WhatWasStoppedForSomethingElseIsLeftAlone) {
  ASSERT_TRUE(vm_->OpenMigration("session-1", "host-b:1").ok());
  vm_->FreezeGuest();
  ASSERT_TRUE(Await(host_.System(*vm_)->Pause()).ok());
  vm_->UnfreezeGuest();
  Settle();
  EXPECT_FALSE(vm_->paused_by_user());
}

TEST_F(VmDiskTroubleTest, ABootSaysWhichDiskKeepsItBack) {
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  guests_.boot = false;
  host_.backend.script().on_first_run = [](FakeComputeSystem& system) {
    system.Fail({{"0", "0"}, false});
  };
  const absl::Status started = Await(vm_->Start());
  EXPECT_THAT(started.message(), HasSubstr("cannot boot: its disk root ("));
  EXPECT_THAT(started.message(), HasSubstr("fails with an I/O error"));
  EXPECT_EQ(rpc::ReasonOf(started), "disk_failed");
  EXPECT_EQ(vm_->state(), v1::VM_STATE_FAILED);
  EXPECT_EQ(vm_->system(), nullptr);
}

TEST_F(VmDiskTroubleTest, ABootEndsAlsoIfItsVmmDoesNotSayWhichDiskItIs) {
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  guests_.boot = false;
  host_.backend.script().on_first_run = [](FakeComputeSystem& system) {
    system.Fail({{"0", "0"}, false});
  };
  host_.backend.script().FailNext("ListDiskTroubles", absl::DeadlineExceededError("no answer"));
  EXPECT_THAT(Await(vm_->Start()).message(), HasSubstr("cannot boot: a disk of its fails"));
}

TEST_F(VmDiskTroubleTest, SoDoesOneWhoseVmmEndsMeanwhile) {
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  guests_.boot = false;
  host_.backend.script().on_first_run = [](FakeComputeSystem& system) {
    system.Fail({{"0", "0"}, false});
    system.Exit(SystemExit::Cause::kCrashed, "killed");
  };
  EXPECT_THAT(Await(vm_->Start()).message(), HasSubstr("cannot boot: its disk root"));
}

// As a VMM does whose disk hangs. Whoever wants to end it does not wait for that.
TEST_F(VmDiskTroubleTest, AVmmThatDoesNotSayWhyHoldsNobodyUp) {
  host_.backend.script().Block("ListDiskTroubles");
  Fail(true);
  Await(host_.backend.script().WaitBlocked("ListDiskTroubles"));
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("a disk of its fails"));
  EXPECT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  host_.backend.script().Release("ListDiskTroubles");
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_STOPPED);
}

TEST_F(VmDiskTroubleTest, WhatFailedWhileNoDaemonWasThereIsPausedByTheNext) {
  host_.System(*vm_)->Fail({{"0", "0"}, true});
  RestartDaemon();
  vm_ = *host_.inventory->Find("web");
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("no room left"));
  EXPECT_EQ(Row(vm_->id()).desired_state, "paused");
  EXPECT_THAT(EventTypes(), Contains("vm.disk_failed"));
}

// Its reason is found again when it comes back.
TEST_F(VmDiskTroubleTest, OneThatIsPausedForItGoesOnAMigrationAndBack) {
  Fail(true);
  ASSERT_TRUE(vm_->OpenMigration("session-1", "host-b:1").ok());
  vm_->FreezeGuest();
  vm_->MarkInDoubt();
  vm_->ReturnFromMigration(3);
  Settle();
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("no room left"));
}

// Until its arrival is recorded a restart has it arrive again.
TEST_F(VmDiskTroubleTest, WhatWasPausedSinceItArrivedStaysPaused) {
  AdoptionClaim claim;
  claim.kind = AdoptionClaim::Kind::kIncoming;
  claim.session_id = "session-1";
  claim.guest_is_loaded = true;
  Fail(true);
  RestartDaemon({{vm_->id(), claim}});
  vm_ = *host_.inventory->Find("web");
  ASSERT_EQ(vm_->state(), v1::VM_STATE_INCOMING);
  host_.System(*vm_)->PretendArrived();
  ASSERT_TRUE(Await(vm_->RunIncoming(2, false)).ok());
  EXPECT_EQ(vm_->state(), v1::VM_STATE_PAUSED);
  EXPECT_FALSE(host_.System(*vm_)->Step());
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
  // It fails all the same, and whoever resumes it is to know that.
  EXPECT_THAT(vm_->Describe(false).state_reason(), HasSubstr("no room left"));
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
