#include <set>

#include "tests/unit/vmmanager/saving/checkpoints_fixture.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

class CheckpointQuiesceTest : public CheckpointsTest {
 protected:
  CheckpointQuiesceTest() {
    host_.at_point = [this](const std::string& point) {
      if (agent_ != nullptr && agent_->frozen) frozen_at_.insert(point);
      if (at_point) at_point(point);
    };
  }

  std::shared_ptr<UtilityVm> BootQuiet() {
    auto vm = BootWithDisks();
    agent_ = &guests_.Agent(vm->id());
    return vm;
  }
  static v1::CreateCheckpointRequest Quiesced(const std::string& name) {
    v1::CreateCheckpointRequest request = Request(name);
    request.set_disk_only(true);
    request.set_quiesce(true);
    return request;
  }
  void ExpectNothingLeft(const UtilityVm& vm, const std::string& what) {
    Settle();
    EXPECT_FALSE(agent_->frozen) << what;
    EXPECT_EQ(DiskOf(vm, 0), File("root.qcow2")) << what;
    EXPECT_THAT(host_.overlays.files, IsEmpty()) << what;
    EXPECT_THAT(Names(), IsEmpty()) << what;
    EXPECT_TRUE(Await(host_.store.ListCheckpoints())->empty()) << what;
  }

  guest::FakeAgent* agent_ = nullptr;
  std::set<std::string> frozen_at_;
  std::function<void(const std::string&)> at_point;
};

TEST_F(CheckpointQuiesceTest, FilesystemsAreFrozenWhileTheDisksChangeOver) {
  auto vm = BootQuiet();
  const auto taken = Take(Quiesced("clean"));
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_TRUE(taken->quiesced());
  EXPECT_FALSE(agent_->frozen);
  EXPECT_THAT(frozen_at_,
              ElementsAre("CHECKPOINT.frozen", "CHECKPOINT.overlaid", "CHECKPOINT.recorded"));
  EXPECT_THAT(EventTypes(), IsSupersetOf({"vm.filesystems_frozen", "vm.filesystems_thawed"}));
  EXPECT_EQ(DiskOf(*vm, 0), File("root.clean.qcow2"));
  // What a daemon remembers.
  Restart();
  v1::ListCheckpointsRequest list;
  list.set_vm("web");
  EXPECT_TRUE(Await(checkpoints_->List(list))->front().quiesced());
}

TEST_F(CheckpointQuiesceTest, OnlyIfThatIsWanted) {
  BootQuiet();
  v1::CreateCheckpointRequest request = Quiesced("plain");
  request.set_quiesce(false);
  const auto taken = Take(request);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_FALSE(taken->quiesced());
  EXPECT_EQ(agent_->CountReceived(bridge::kFreezeFilesystems), 0);
}

TEST_F(CheckpointQuiesceTest, WhoCannotAnswerIsRefused) {
  auto vm = BootQuiet();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  const absl::Status paused = Take(Quiesced("t")).status();
  EXPECT_EQ(rpc::ReasonOf(paused), "vm_paused");
  EXPECT_THAT(rpc::NextStepOf(paused), HasSubstr("ferryctl vm resume web"));
  ASSERT_TRUE(Await(vm->Resume()).ok());
  agent_->freezes = false;
  guests_.Connect(*host_.System(*vm));
  Settle();
  const absl::Status old = Take(Quiesced("t")).status();
  EXPECT_EQ(rpc::ReasonOf(old), "agent_cannot_quiesce") << old;
  EXPECT_THAT(rpc::NextStepOf(old), HasSubstr("without --quiesce"));
  ExpectNothingLeft(*vm, "an old agent");
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  const absl::Status stopped = Take(Quiesced("t")).status();
  EXPECT_EQ(rpc::ReasonOf(stopped), "vm_not_running");
  EXPECT_THAT(rpc::NextStepOf(stopped), HasSubstr("without --quiesce"));
}

TEST_F(CheckpointQuiesceTest, AnAgentThatIsAwayIsWaitedForAWhile) {
  auto vm = BootQuiet();
  host_.settings.agent_wait = milliseconds(1);
  host_.System(*vm)->link().Reset();
  Settle();
  const absl::Status away = Take(Quiesced("t")).status();
  EXPECT_EQ(rpc::ReasonOf(away), "agent_away") << away;
  ExpectNothingLeft(*vm, "away");
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(CheckpointQuiesceTest, WhatTheAgentCannotFreezeCostsNothing) {
  auto vm = BootQuiet();
  agent_->refusals[bridge::kFreezeFilesystems] = bridge::kHresultInvalidState;
  const absl::Status failed = Take(Quiesced("t")).status();
  EXPECT_EQ(rpc::ReasonOf(failed), "checkpoint_not_taken") << failed;
  EXPECT_THAT(std::string(failed.message()), HasSubstr("the VM runs on as before"));
  EXPECT_THAT(std::string(failed.message()), HasSubstr("refused"));
  EXPECT_THAT(rpc::NextStepOf(failed), HasSubstr("without --quiesce"));
  ExpectNothingLeft(*vm, "refused");
}

TEST_F(CheckpointQuiesceTest, AnAgentThatDoesNotAnswerIsHungUpOn) {
  for (const uint32_t request : {bridge::kFreezeFilesystems, bridge::kThawFilesystems}) {
    auto vm = agent_ == nullptr ? BootQuiet() : Found();
    const bool freeze = request == bridge::kFreezeFilesystems;
    agent_->ignored = {request};
    host_.settings.quiesce_limit = milliseconds(freeze ? 1 : 50);
    const absl::Status silent = Take(Quiesced("t")).status();
    EXPECT_EQ(rpc::ReasonOf(silent), "checkpoint_not_taken") << silent;
    ExpectNothingLeft(*vm, freeze ? "freeze" : "thaw");
    EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
    agent_->ignored.clear();
    guests_.Connect(*host_.System(*vm));
    Settle();
  }
  host_.settings.quiesce_limit = milliseconds(30'000);
  EXPECT_TRUE(Take(Quiesced("t")).ok());
}

TEST_F(CheckpointQuiesceTest, WhateverFailsThawsThem) {
  auto vm = BootQuiet();
  host_.backend.script().FailNext("AddOverlays", absl::ResourceExhaustedError("no room"));
  EXPECT_EQ(rpc::ReasonOf(Take(Quiesced("t")).status()), "checkpoint_not_taken");
  EXPECT_THAT(frozen_at_, Contains("CHECKPOINT.recorded"));
  ExpectNothingLeft(*vm, "overlays");
  at_point = [this](const std::string& point) {
    if (point != "CHECKPOINT.frozen") return;
    host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  };
  EXPECT_TRUE(absl::IsResourceExhausted(Take(Quiesced("t")).status()));
  ExpectNothingLeft(*vm, "record");
  at_point = nullptr;
  EXPECT_TRUE(Take(Quiesced("t")).ok());
}

TEST_F(CheckpointQuiesceTest, OneThatDidNotStayFrozenIsNone) {
  auto vm = BootQuiet();
  at_point = [this](const std::string& point) {
    // The time was over, or somebody in the guest did it.
    if (point == "CHECKPOINT.overlaid") agent_->frozen = false;
  };
  const absl::Status failed = Take(Quiesced("t")).status();
  EXPECT_EQ(rpc::ReasonOf(failed), "checkpoint_not_taken") << failed;
  EXPECT_THAT(std::string(failed.message()), HasSubstr("did not stay frozen"));
  ExpectNothingLeft(*vm, "thawed early");
}

TEST_F(CheckpointQuiesceTest, ADaemonThatDiesMeanwhileLeavesNothing) {
  auto vm = BootQuiet();
  host_.backend.script().Block("AddOverlays");
  auto taking = Begin(checkpoints_->Create(Quiesced("t")));
  Await(host_.backend.script().WaitBlocked("AddOverlays"));
  EXPECT_TRUE(agent_->frozen);
  Restart();
  host_.backend.script().Release("AddOverlays");
  (void)Finish(taking);
  ExpectNothingLeft(*Found(), "died");
  EXPECT_TRUE(host_.System(*Found())->Step());
}

TEST_F(CheckpointQuiesceTest, WhoStopsItAtOnceWaitsForNoGuest) {
  auto vm = BootQuiet();
  agent_->ignored = {bridge::kFreezeFilesystems};
  auto taking = Begin(checkpoints_->Create(Quiesced("t")));
  Until([this] { return agent_->CountReceived(bridge::kFreezeFilesystems) > 0; });
  EXPECT_FALSE(taking->has_value());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  EXPECT_FALSE(Finish(taking).ok());
  ExpectNothingLeft(*vm, "stopped");
}

TEST_F(CheckpointQuiesceTest, WhoStopsItAtOnceWaitsForNoAgentThatIsAway) {
  auto vm = BootQuiet();
  host_.settings.agent_wait = milliseconds(3'600'000);
  host_.System(*vm)->link().Reset();
  Settle();
  auto taking = Begin(checkpoints_->Create(Quiesced("t")));
  Settle();
  EXPECT_FALSE(taking->has_value());
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(1'000))).ok());
  EXPECT_FALSE(Finish(taking).ok());
  ExpectNothingLeft(*vm, "stopped");
}

TEST_F(CheckpointQuiesceTest, AVmThatEndsMeanwhileHoldsNobodyUp) {
  auto vm = BootQuiet();
  agent_->ignored = {bridge::kFreezeFilesystems};
  auto taking = Begin(checkpoints_->Create(Quiesced("t")));
  Until([this] { return agent_->CountReceived(bridge::kFreezeFilesystems) > 0; });
  host_.System(*vm)->Exit(SystemExit::Cause::kShutdown, "the guest powered off");
  EXPECT_FALSE(Finish(taking).ok());
  ExpectNothingLeft(*vm, "ended");
}

}  // namespace
}  // namespace ferry::vm
