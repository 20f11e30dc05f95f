// What a restarted daemon makes of the VMs that its predecessor left.
#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"

namespace ferry::vm {
namespace {

class AdoptionTest : public SandboxTest {
 protected:
  static AdoptionClaim MayHaveLeft() {
    AdoptionClaim claim;
    claim.kind = AdoptionClaim::Kind::kMigratingOut;
    claim.session_id = "session-1";
    claim.destination = "host-b:1";
    claim.may_have_left = true;
    return claim;
  }

  std::shared_ptr<UtilityVm> Found(const std::string& name = "web") {
    auto vm = host_.inventory->Find(name);
    EXPECT_TRUE(vm.ok()) << vm.status();
    return vm.value_or(nullptr);
  }
};

TEST_F(AdoptionTest, WhatMayHaveLeftAndIsGoneIsNotStartedAgain) {
  const std::string id = Boot()->id();
  host_.backend.script().FailNext("Adopt", absl::NotFoundError("it does not run any more"));
  RestartDaemon({{id, MayHaveLeft()}});
  EXPECT_EQ(Found()->state(), v1::VM_STATE_IN_DOUBT);
  const absl::Status started = Await(Found()->Start());
  EXPECT_EQ(started.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(started.message(), HasSubstr("host-b:1"));
  // Once that host has refused it, it is this host's, as dead as it is.
  Found()->ReturnFromMigration(3);
  EXPECT_EQ(Found()->state(), v1::VM_STATE_FAILED);
  EXPECT_TRUE(Await(Found()->Start()).ok());
}

TEST_F(AdoptionTest, WhatMayHaveLeftAndRunsHasNotLeft) {
  const std::string id = Boot()->id();
  RestartDaemon({{id, MayHaveLeft()}});
  EXPECT_EQ(Found()->state(), v1::VM_STATE_MIGRATING_OUT);
}

TEST_F(AdoptionTest, AStaleCopyIsItsSessionsAgain) {
  const std::string id = Boot()->id();
  AdoptionClaim claim;
  claim.kind = AdoptionClaim::Kind::kStale;
  claim.session_id = "session-1";
  claim.stale_epoch = 1;
  RestartDaemon({{id, claim}});
  EXPECT_FALSE(Await(Found()->Stop(true, milliseconds(0))).ok());
  EXPECT_TRUE(Found()->HoldStale("session-1").ok());
  // Also if it ended while the daemon was away.
  host_.backend.script().FailNext("Adopt", absl::NotFoundError("it does not run any more"));
  RestartDaemon({{id, claim}});
  EXPECT_EQ(Found()->state(), v1::VM_STATE_STOPPED);
  EXPECT_FALSE(Await(Found()->Start()).ok());
}

TEST_F(AdoptionTest, WhatCameAfterAStaleCopyIsNoOnesButItsUsers) {
  const std::string id = Boot()->id();
  AdoptionClaim claim;
  claim.kind = AdoptionClaim::Kind::kStale;
  claim.session_id = "session-1";
  claim.stale_epoch = 0;
  RestartDaemon({{id, claim}});
  EXPECT_TRUE(Await(Found()->Stop(true, milliseconds(0))).ok());
}

TEST_F(AdoptionTest, WhatCannotBeTakenOverAndLivesIsNeitherEndedNorStartedAgain) {
  auto vm = Boot();
  const std::string id = vm->id();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  host_.backend.script().FailNext("Pause", absl::UnavailableError("its monitor does not answer"));
  RestartDaemon();
  ASSERT_NE(Found()->system(), nullptr);
  EXPECT_NE(Found()->state(), v1::VM_STATE_STOPPED);
  EXPECT_FALSE(Await(Found()->Start()).ok());
  EXPECT_NE(host_.System(*Found())->state(), schema::SystemState::kStopped);
}

}  // namespace
}  // namespace ferry::vm
