#include "tests/unit/vmmanager/containers/containers_fixture.h"
#include "vmmanager/containers/container_moves.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {
namespace {

class ContainerRecoveryTest : public ContainersTest {
 protected:
  void SetUp() override {
    vm_ = Boot("vm");
    guest_ = &Guest(vm_->id());
  }
  std::shared_ptr<VmContainer> Found(const std::string& name) {
    auto found = containers_->Find(name, "");
    EXPECT_TRUE(found.ok()) << found.status();
    return *found;
  }
  // What a daemon wrote that died in that stage.
  void SetStage(const VmContainer& container, state::v1::ContainerStage stage) {
    StoredContainer stored{container.record(), container.spec()};
    stored.record.set_stage(stage);
    ASSERT_TRUE(Await(host_.store.PutContainer(ToRow(stored))).ok());
  }

  // A daemon died when it had written down its VM, and not yet that the container runs.
  void ForgetStart(const VmContainer& container) {
    StoredContainer stored{container.record(), container.spec()};
    stored.record.set_stage(state::v1::CONTAINER_STAGE_CREATED);
    stored.record.clear_process_id();
    stored.record.clear_started_unix_ms();
    ASSERT_TRUE(Await(host_.store.PutContainer(ToRow(stored))).ok());
  }
  // It runs, its init is known, and so will be how it ends.
  void ExpectKnown(const VmContainer& before) {
    const auto container = Found("one");
    EXPECT_EQ(container->state(), v1::CONTAINER_STATE_RUNNING);
    EXPECT_EQ(container->Describe(false).process_id(),
              guest_->containers.at(before.id()).init->pid());
    EXPECT_NE(container->Describe(false).started_unix_ms(), 0u);
    Exit(before, 5);
    EXPECT_EQ(container->Describe(false).exit_status().code(), 5u);
  }

  std::shared_ptr<UtilityVm> vm_;
  FakeContainerGuest* guest_ = nullptr;
};

TEST_F(ContainerRecoveryTest, ARunningOneIsTakenUpAndItsExitIsSeen) {
  const auto before = Run(Request("vm", "one"));
  RestartDaemon();
  const auto container = Found("one");
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(container->Describe(false).process_id(), before->record().process_id());
  Exit(*container, 5);
  EXPECT_EQ(container->Describe(false).exit_status().code(), 5u);
  ASSERT_TRUE(Await(containers_->Remove(container, false)).ok());
  ExpectNothingLeft(vm_->id());
}

TEST_F(ContainerRecoveryTest, LayersAreStillShared) {
  Run(Request("vm", "one"));
  RestartDaemon();
  const auto second = Make(Request("vm", "two"));
  EXPECT_EQ(guest_->disks.size(), 4u);
  ASSERT_TRUE(Await(containers_->Remove(Found("one"), true)).ok());
  EXPECT_EQ(guest_->disks.size(), 3u);
  ASSERT_TRUE(Await(containers_->Remove(second, true)).ok());
  ExpectNothingLeft(vm_->id());
}

TEST_F(ContainerRecoveryTest, DisksOfAFormerBootAreNotTakenForThoseOfThisOne) {
  const auto former = Run(Request("vm", "one"));
  ASSERT_TRUE(Await(vm_->Stop(true, milliseconds(0))).ok());
  guest_->disks.clear();
  guest_->mounts.clear();
  guest_->containers.clear();
  ++guest_->boots;
  ASSERT_TRUE(Await(vm_->Start()).ok());
  auto request = Request("vm", "two");
  request.mutable_spec()->set_image("other");
  Run(request);
  const auto disks = guest_->disks;
  RestartDaemon();
  ASSERT_TRUE(Await(containers_->Remove(Found("one"), false)).ok());
  EXPECT_EQ(guest_->disks.size(), disks.size());
  ASSERT_TRUE(Await(containers_->Remove(Found("two"), true)).ok());
  ExpectNothingLeft(vm_->id());
}

TEST_F(ContainerRecoveryTest, OneWhoseInitIsNotKnownIsNotStopped) {
  const auto before = Run(Request("vm", "one"));
  guest_->containers.at(before->id()).forgotten = true;
  RestartDaemon();
  const absl::Status refused = Await(Found("one")->Stop(milliseconds(0)));
  EXPECT_EQ(rpc::ReasonOf(refused), "init_unknown");
  EXPECT_EQ(rpc::ReasonOf(Await(containers_->Remove(Found("one"), true))), "init_unknown");
}

TEST_F(ContainerRecoveryTest, WhatEndedMeanwhileWithoutAWitnessHasAnUnknownExit) {
  const auto before = Run(Request("vm", "one"));
  guest_->containers.at(before->id()).forgotten = true;
  guest_->containers.at(before->id()).state = bridge::ContainerState::kStopped;
  RestartDaemon();
  EXPECT_EQ(Found("one")->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_TRUE(Found("one")->Describe(false).exit_status().unknown());
}

TEST_F(ContainerRecoveryTest, OneWhoseInitIsNotKnownIsSeenToEnd) {
  const auto before = Run(Request("vm", "one"));
  guest_->containers.at(before->id()).forgotten = true;
  RestartDaemon();
  EXPECT_EQ(Found("one")->state(), v1::CONTAINER_STATE_RUNNING);
  Exit(*before, 5);
  EXPECT_EQ(Found("one")->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_TRUE(Found("one")->Describe(false).exit_status().unknown());
}

// Of a short one the agent may tell the end first.
TEST_F(ContainerRecoveryTest, AnEndBeforeTheAnswerToItsStartIsStillThatOfItsInit) {
  Make(Request("vm", "one"));
  RestartDaemon();
  const auto container = *containers_->Find("one", "");
  FakeContainerGuest& guest = Guest(container->record().vm_id());
  guest.holds_answers = true;
  auto starting = Begin(container->Start());
  Settle();
  Exit(*container, 7);
  guest.answer.Set();
  const absl::Status started = Finish(starting);
  EXPECT_TRUE(started.ok()) << started;
  Settle();
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_EQ(container->record().exit().code(), 7u);
}

TEST_F(ContainerRecoveryTest, ItsEndIsAwaitedBeforeItsStateIsAskedFor) {
  const auto before = Run(Request("vm", "one"));
  guest_->containers.at(before->id()).forgotten = true;
  guest_->calls.clear();
  RestartDaemon();
  EXPECT_THAT(guest_->calls,
              testing::ElementsAre("await " + before->id(), "properties " + before->id()));
}

TEST_F(ContainerRecoveryTest, AnAgentThatDoesNotAnswerIsAskedAgain) {
  const auto before = Run(Request("vm", "one"));
  guest_->containers.at(before->id()).forgotten = true;
  guest_->containers.at(before->id()).state = bridge::ContainerState::kPaused;
  guest_->fails_at = {"properties", "properties"};
  RestartDaemon();
  Until([&] { return Found("one")->state() == v1::CONTAINER_STATE_PAUSED; });
}

TEST_F(ContainerRecoveryTest, AStartThatNobodyHeardOfIsFoundOutAbout) {
  const auto before = Make(Request("vm", "one"));
  guest_->containers.at(before->id()).state = bridge::ContainerState::kRunning;
  guest_->containers.at(before->id()).starting = true;
  RestartDaemon();
  ExpectKnown(*before);
}

TEST_F(ContainerRecoveryTest, WhoeverStartsItJoinsTheStartThatNobodyHeardOf) {
  const auto before = Make(Request("vm", "one"));
  guest_->containers.at(before->id()).state = bridge::ContainerState::kRunning;
  guest_->containers.at(before->id()).starting = true;
  guest_->agent_there.Reset();
  RestartDaemon();
  // First in line when the agent comes.
  auto starting = Begin(Found("one")->Start());
  Settle();
  EXPECT_FALSE(starting->has_value());
  guest_->agent_there.Set();
  const absl::Status started = Finish(starting);
  ASSERT_TRUE(started.ok()) << started;
  ExpectKnown(*before);
}

TEST_F(ContainerRecoveryTest, WhoeverStopsOrRemovesItTakesTheStartThatNobodyHeardOfIn) {
  for (const bool removed : {false, true}) {
    const auto before = Make(Request("vm", "one"));
    guest_->containers.at(before->id()).state = bridge::ContainerState::kRunning;
    guest_->containers.at(before->id()).starting = true;
    guest_->agent_there.Reset();
    RestartDaemon();
    const auto container = Found("one");
    auto ending = Begin(removed ? containers_->Remove(container, true)
                                : container->Stop(milliseconds(10'000)));
    Settle();
    EXPECT_FALSE(ending->has_value());
    guest_->agent_there.Set();
    const absl::Status ended = Finish(ending);
    ASSERT_TRUE(ended.ok()) << ended;
    if (removed) break;
    EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
    ASSERT_TRUE(Await(containers_->Remove(container, false)).ok());
  }
  ExpectNothingLeft(vm_->id());
}

TEST_F(ContainerRecoveryTest, AStartThatOnlyTheContainersRowKnowsOfIsTaken) {
  for (const auto state : {bridge::ContainerState::kRunning, bridge::ContainerState::kPaused}) {
    const auto before = Run(Request("vm", "one"));
    FakeContainerGuest::Container& container = guest_->containers.at(before->id());
    container.state = state;
    container.forgotten = true;  // its VM was not written down with it
    container.starting = true;
    RestartDaemon();
    EXPECT_FALSE(container.starting);
    EXPECT_EQ(Found("one")->state(), state == bridge::ContainerState::kPaused
                                         ? v1::CONTAINER_STATE_PAUSED
                                         : v1::CONTAINER_STATE_RUNNING);
    Exit(*before, 5);
    EXPECT_EQ(Found("one")->Describe(false).exit_status().code(), 5u);
    ASSERT_TRUE(Await(containers_->Remove(Found("one"), false)).ok());
  }
}

TEST_F(ContainerRecoveryTest, AnInitThatOnlyTheVmsRowKnowsOfIsFound) {
  const auto before = Run(Request("vm", "one"));
  ForgetStart(*before);
  RestartDaemon();
  ExpectKnown(*before);
}

TEST_F(ContainerRecoveryTest, WhoeverStartsItFindsTheInitThatOnlyTheVmsRowKnowsOf) {
  const auto before = Run(Request("vm", "one"));
  ForgetStart(*before);
  guest_->agent_there.Reset();
  RestartDaemon();
  auto starting = Begin(Found("one")->Start());
  Settle();
  guest_->agent_there.Set();
  const absl::Status started = Finish(starting);
  ASSERT_TRUE(started.ok()) << started;
  ExpectKnown(*before);
}

TEST_F(ContainerRecoveryTest, NobodyStartsItWhileItsStateIsAskedFor) {
  const auto before = Make(Request("vm", "one"));
  guest_->blocks_at = "properties";
  RestartDaemon();
  auto starting = Begin(Found("one")->Start());
  Settle();
  EXPECT_EQ(guest_->calls.back(), "properties " + before->id());
  guest_->go_on.Set();
  const absl::Status started = Finish(starting);
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_NE(Found("one")->Describe(false).process_id(), 0u);
  Exit(*before, 5);
  EXPECT_EQ(Found("one")->Describe(false).exit_status().code(), 5u);
}

TEST_F(ContainerRecoveryTest, TheVmOfOneThatWasBeingMadeGoesWithIt) {
  auto request = Request("", "one");
  request.set_request_id("r1");
  host_.backend.script().Block("Start");
  auto making = Begin(containers_->Create(request));
  Await(host_.backend.script().WaitBlocked("Start"));
  RestartDaemon();
  EXPECT_FALSE(Finish(making).ok());
  Until([&] { return host_.inventory->List().size() == 1; });
  Until([&] { return Rows() == 0; });
  host_.backend.script().Release("Start");
  // The caller who got no answer asks again, perhaps at once.
  const auto again = Make(request);
  EXPECT_TRUE(again->record().owns_vm());
  EXPECT_EQ(host_.inventory->List().size(), 2u);
}

TEST_F(ContainerRecoveryTest, ARequestThatIsRepeatedAwaitsTheEndOfItsFirstAttempt) {
  auto request = Request("", "one");
  request.set_request_id("r1");
  const auto before = Make(request);
  SetStage(*before, state::v1::CONTAINER_STAGE_MAKING);
  RestartDaemon();
  const auto again = Make(request);
  EXPECT_NE(again->id(), before->id());
  EXPECT_EQ(Rows(), 1u);
  EXPECT_EQ(host_.inventory->List().size(), 2u);
}

TEST_F(ContainerRecoveryTest, OneThatTheAgentDoesNotKnowHasStopped) {
  const auto before = Run(Request("vm", "one"));
  guest_->containers.clear();
  RestartDaemon();
  EXPECT_EQ(Found("one")->state(), v1::CONTAINER_STATE_STOPPED);
}

TEST_F(ContainerRecoveryTest, AScratchDiskIsWhereALaterDaemonWouldFindIt) {
  const auto container = Run(Request("vm", "one"));
  const std::string before = container->record().scratch_file();
  // What it writes down as it starts is over.
  Settle();
  host_.store.FailNext(absl::ResourceExhaustedError("the disk is full"));
  EXPECT_FALSE(Await(container->UseScratch("/elsewhere")).ok());
  EXPECT_EQ(container->record().scratch_file(), before);
  EXPECT_TRUE(Await(container->UseScratch("/elsewhere")).ok());
  EXPECT_EQ(container->record().scratch_file(), "/elsewhere");
}

TEST_F(ContainerRecoveryTest, WithItsVmItHasStopped) {
  Run(Request("vm", "one"));
  guest_->running = false;
  host_.System(*vm_)->Exit(SystemExit::Cause::kCrashed, "a signal");
  RestartDaemon();
  EXPECT_EQ(Found("one")->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_TRUE(Found("one")->Describe(false).exit_status().unknown());
  ASSERT_TRUE(Await(containers_->Remove(Found("one"), false)).ok());
  EXPECT_EQ(Rows(), 0u);
}

TEST_F(ContainerRecoveryTest, HalfOfOneIsTakenBack) {
  for (const auto stage :
       {state::v1::CONTAINER_STAGE_MAKING, state::v1::CONTAINER_STAGE_REMOVING}) {
    const auto container = Make(Request("vm", "one"));
    StoredContainer stored{container->record(), container->spec()};
    stored.record.set_stage(stage);
    // What it had brought it had not written down yet.
    for (auto& layer : *stored.record.mutable_layers()) layer.clear_disk();
    stored.record.clear_scratch_disk();
    ASSERT_TRUE(Await(host_.store.PutContainer(ToRow(stored))).ok());
    RestartDaemon();
    Until([&] { return store_->Pins().empty(); });
    ExpectNothingLeft(vm_->id());
  }
}

TEST_F(ContainerRecoveryTest, OneThatIsToBeRemovedGoesIfItEndedWithoutTheDaemon) {
  auto request = Request("vm", "one");
  request.mutable_spec()->set_remove_when_stopped(true);
  request.mutable_spec()->set_detached(true);
  const auto before = Run(request);
  guest_->containers.at(before->id()).state = bridge::ContainerState::kStopped;
  guest_->containers.at(before->id()).init->Exit({guest::ExitStatus::Kind::kCode, 1});
  RestartDaemon();
  Until([&] { return guest_->empty() && store_->Pins().empty(); });
  ExpectNothingLeft(vm_->id());
}

TEST_F(ContainerRecoveryTest, PinsAndFilesOfNobodyGo) {
  ASSERT_TRUE(Await(store_->Pin(std::string(64, 'e'), "web")).ok());
  ASSERT_TRUE(Await(store_->Pin("session-of-somebody", "web")).ok());
  std::filesystem::create_directories(scratch_folder() + "/" + std::string(64, 'e'));
  std::filesystem::create_directories(scratch_folder() + "/not-ours");
  const auto container = Make(Request("vm", "one"));
  RestartDaemon();
  std::vector<std::string> owners;
  for (const ImagePin& pin : store_->Pins()) owners.push_back(pin.owner);
  EXPECT_THAT(owners, testing::UnorderedElementsAre(container->id(), "session-of-somebody"));
  Until([&] { return ScratchFolders().size() == 2; });
  EXPECT_THAT(ScratchFolders(), testing::UnorderedElementsAre(container->id(), "not-ours"));
}

TEST_F(ContainerRecoveryTest, ARowThatCannotBeReadIsLeftAlone) {
  const auto container = Make(Request("vm", "one"));
  ContainerRow row = ToRow({container->record(), container->spec()});
  row.record = "damaged";
  ASSERT_TRUE(Await(host_.store.PutContainer(row)).ok());
  RestartDaemon();
  EXPECT_TRUE(containers_->List().empty());
  EXPECT_EQ(Rows(), 1u);
  EXPECT_EQ(store_->Pins().size(), 1u);
  EXPECT_FALSE(ScratchFolders().empty());
  // Its VM stays with it, and takes it along when it is deleted.
  const ContainerExports exports(*containers_);
  const absl::Status held = exports.CheckMovable(vm_->id(), kAsNeeded);
  EXPECT_EQ(rpc::ReasonOf(held), "container_unreadable");
  EXPECT_FALSE(NextStepOf(held).empty());
  const auto vm = *host_.inventory->Find("vm");
  ASSERT_TRUE(Await(vm->Stop(true, milliseconds(0))).ok());
  ASSERT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  EXPECT_EQ(Rows(), 0u);
  EXPECT_TRUE(store_->Pins().empty());
  EXPECT_TRUE(ScratchFolders().empty());
}

TEST_F(ContainerRecoveryTest, TheRowsOfAVmThatIsNotThereGo) {
  const auto container = Make(Request("vm", "one"));
  StoredContainer stored{container->record(), container->spec()};
  stored.record.set_vm_id("gone");
  ASSERT_TRUE(Await(host_.store.PutContainer(ToRow(stored))).ok());
  ASSERT_TRUE(
      Await(host_.store.PutContainer({std::string(64, 'd'), "gone", "two", "damaged"})).ok());
  RestartDaemon();
  EXPECT_EQ(Rows(), 0u);
  EXPECT_TRUE(store_->Pins().empty());
  EXPECT_TRUE(ScratchFolders().empty());
}

}  // namespace
}  // namespace ferry::vm
