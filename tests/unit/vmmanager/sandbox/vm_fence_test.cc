// Who may run a VM, from its start to its end.
#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

class VmFenceTest : public SandboxTest {
 protected:
  void TearDown() override {
    fence().on_call = [](const std::string&) {};
    SandboxTest::TearDown();
  }

  FakeFence& fence() { return host_.fence; }
};

TEST_F(VmFenceTest, IsClaimedBeforeTheSystemStartsAndGivenUpWithIt) {
  auto vm = Create("web");
  bool system_there = true;
  fence().on_call = [&](const std::string& call) {
    if (call == "claim 1") system_there = vm->system() != nullptr;
  };
  EXPECT_TRUE(Await(vm->Start()).ok());
  EXPECT_FALSE(system_there);
  EXPECT_TRUE(fence().Holds(vm->id()));
  EXPECT_EQ(vm->Describe(false).fence(), "fake");
  EXPECT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  // Whoever looks next finds it given up.
  EXPECT_FALSE(fence().Holds(vm->id()));
  EXPECT_EQ(fence().calls.back(), "release");
  Settle();
  EXPECT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  EXPECT_EQ(fence().calls.back(), "delete");
}

TEST_F(VmFenceTest, AStoppedVmIsGivenUpBeforeAnybodyIsTold) {
  auto vm = Boot();
  AsyncEvent given_up(io_.get_executor());
  fence().before_release = &given_up;
  auto stopped = Begin(vm->Stop(true, milliseconds(0)));
  Settle();
  EXPECT_FALSE(stopped->has_value());
  given_up.Set();
  EXPECT_TRUE(Finish(stopped).ok());
  EXPECT_FALSE(fence().Holds(vm->id()));
  fence().before_release = nullptr;
}

TEST_F(VmFenceTest, AnotherCopyKeepsItFromStarting) {
  auto vm = Create("web");
  fence().refusal = FenceHeld("process 7 holds it", "end process 7");
  const absl::Status refused = Await(vm->Start());
  EXPECT_EQ(refused, fence().refusal);
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_THAT(vm->Describe(false).state_reason(), HasSubstr("process 7 holds it"));
  EXPECT_EQ(host_.System(*vm), nullptr);
  fence().refusal = absl::OkStatus();
  EXPECT_TRUE(Await(vm->Start()).ok());
}

TEST_F(VmFenceTest, ABootThatFailsKeepsNothing) {
  auto vm = Create("web");
  for (const char* step : {"Create", "Start"}) {
    host_.backend.script().FailNext(step, absl::UnavailableError("no"));
    EXPECT_FALSE(Await(vm->Start()).ok());
    Settle();
    EXPECT_FALSE(fence().Holds(vm->id())) << step;
  }
}

TEST_F(VmFenceTest, ACrashGivesItUp) {
  auto vm = Boot();
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  Settle();
  EXPECT_FALSE(fence().Holds(vm->id()));
}

TEST_F(VmFenceTest, ADaemonThatGoesKeepsItForTheNext) {
  auto vm = Boot();
  const std::string id = vm->id();
  RestartDaemon();
  EXPECT_TRUE(fence().Holds(id));
  EXPECT_THAT(fence().calls, ElementsAre("prepare", "claim 1", "claim 1"));
}

TEST_F(VmFenceTest, WhatRunsAlreadyIsToldOfAFenceThatIsLost) {
  auto vm = Boot();
  fence().refusal = FenceHeld("process 7 holds it", "end process 7");
  RestartDaemon();
  auto adopted = *host_.inventory->Find(vm->id());
  EXPECT_EQ(adopted->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(host_.System(*adopted)->Step());
  EXPECT_THAT(EventTypes(), Contains("vm.fence_lost"));
}

TEST_F(VmFenceTest, WhatIsPausedDoesNotRunAgainAgainstTheFence) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  fence().refusal = FenceHeld("process 7 holds it", "end process 7");
  RestartDaemon();
  auto adopted = *host_.inventory->Find(vm->id());
  EXPECT_EQ(adopted->state(), v1::VM_STATE_PAUSED);
  EXPECT_THAT(EventTypes(), Not(Contains("vm.fence_lost")));
  EXPECT_EQ(Await(adopted->Resume()), fence().refusal);
  EXPECT_EQ(adopted->state(), v1::VM_STATE_PAUSED);
  EXPECT_FALSE(host_.System(*adopted)->Step());
  fence().refusal = absl::OkStatus();
  EXPECT_TRUE(Await(adopted->Resume()).ok());
  EXPECT_TRUE(host_.System(*adopted)->Step());
}

// As a VMM is left that a former daemon's migration had stopped.
TEST_F(VmFenceTest, WhatStandsStillDoesNotRunAgainAgainstTheFence) {
  auto vm = Boot();
  ASSERT_TRUE(Await(host_.System(*vm)->Pause()).ok());
  fence().refusal = FenceHeld("process 7 holds it", "end process 7");
  RestartDaemon();
  auto adopted = *host_.inventory->Find(vm->id());
  EXPECT_THAT(EventTypes(), Not(Contains("vm.fence_lost")));
  EXPECT_FALSE(host_.System(*adopted)->Step());
  // Whoever looks sees that, and can let it go on when it may.
  EXPECT_EQ(adopted->state(), v1::VM_STATE_PAUSED);
  EXPECT_EQ(Await(adopted->Resume()), fence().refusal);
  fence().refusal = absl::OkStatus();
  EXPECT_TRUE(Await(adopted->Resume()).ok());
  EXPECT_TRUE(host_.System(*adopted)->Step());
}

// To its VMM it has just come, and waits to be told that it may run.
TEST_F(VmFenceTest, WhatHasArrivedAndMayNotRunCanBeResumedLater) {
  auto vm = Boot();
  FakeComputeSystem* system = host_.System(*vm);
  ASSERT_TRUE(Await(system->Pause()).ok());
  system->PretendArrived();
  fence().refusal = FenceHeld("process 7 holds it", "end process 7");
  RestartDaemon();
  Settle();
  auto adopted = *host_.inventory->Find(vm->id());
  EXPECT_EQ(adopted->state(), v1::VM_STATE_PAUSED);
  fence().refusal = absl::OkStatus();
  EXPECT_TRUE(Await(adopted->Resume()).ok());
  EXPECT_TRUE(host_.System(*adopted)->Step());
}

TEST_F(VmFenceTest, OneVmsHungFenceDoesNotKeepTheOthersFromBeingAdopted) {
  auto web = Boot("web");
  auto db = Boot("db");
  AsyncEvent answers(io_.get_executor());
  fence().before_claim = [&answers](const FenceClaim&) { return &answers; };
  RestartDaemon();
  for (const auto& vm : {web, db}) {
    EXPECT_EQ((*host_.inventory->Find(vm->id()))->state(), v1::VM_STATE_RUNNING);
  }
  answers.Set();
  Settle();
  fence().before_claim = nullptr;
}

TEST_F(VmFenceTest, AVmThatEndedWhileTheDaemonWasAwayIsGivenUp) {
  auto vm = Boot();
  const std::string id = vm->id();
  Await(host_.inventory->Detach());
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "killed");
  RestartDaemon();
  EXPECT_FALSE(fence().Holds(id));
}

TEST_F(VmFenceTest, ADiskThatAnotherUsesIsAFence) {
  auto vm = Create("web");
  absl::Status in_use = absl::InternalError("Failed to get \"write\" lock");
  in_use.SetPayload(kDiskInUse, absl::Cord());
  host_.backend.script().FailNext("Start", in_use);
  const absl::Status refused = Await(vm->Start());
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("a disk of the VM is in use"));
}

}  // namespace
}  // namespace ferry::vm
