#include "vmmanager/containers/vm_container.h"

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <csignal>
#include <fstream>

#include "tests/unit/vmmanager/containers/containers_fixture.h"

namespace ferry::vm {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;

class VmContainerTest : public ContainersTest {
 protected:
  void SetUp() override {
    vm_ = Boot("vm");
    guest_ = &Guest(vm_->id());
  }
  FakeInit& Init(const VmContainer& container) {
    return *guest_->containers.at(container.id()).init;
  }
  static void ExpectWrongState(const absl::Status& status, const std::string& text) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    EXPECT_FALSE(NextStepOf(status).empty());
  }
  // Until it is gone whole.
  void RunOneThatRemovesItself() {
    auto request = Request("vm", "one");
    request.mutable_spec()->set_remove_when_stopped(true);
    request.mutable_spec()->set_detached(true);
    const auto container = Run(request);
    Exit(*container, 3);
    Until([&] { return container->gone() && store_->Pins().empty(); });
  }

  std::shared_ptr<UtilityVm> vm_;
  FakeContainerGuest* guest_ = nullptr;
};

TEST_F(VmContainerTest, RunsOnceAndKeepsHowItEnded) {
  const auto container = Make(Request("vm", "one"));
  ExpectWrongState(Await(container->Pause()), "it is CREATED");
  ExpectWrongState(Await(container->Stop(milliseconds(1))), "was not started");
  ASSERT_TRUE(Await(container->Start()).ok());
  ASSERT_TRUE(Await(container->Start()).ok());
  v1::Container described = container->Describe(false);
  EXPECT_EQ(described.state(), v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(described.process_id(), 100u);
  EXPECT_NE(described.started_unix_ms(), 0u);
  EXPECT_FALSE(described.has_exit_status());
  ExpectWrongState(Await(containers_->Remove(container, false)), "it is RUNNING");
  Exit(*container, 7);
  described = container->Describe(false);
  EXPECT_EQ(described.state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_EQ(described.exit_status().code(), 7u);
  EXPECT_NE(described.stopped_unix_ms(), 0u);
  ExpectWrongState(Await(container->Start()), "it is STOPPED");
  ExpectWrongState(Await(container->Resume()), "it is STOPPED");
  EXPECT_TRUE(Await(container->Stop(milliseconds(1))).ok());
  RestartDaemon();
  const auto same = *containers_->Find("one", "");
  EXPECT_EQ(same->Describe(false).exit_status().code(), 7u);
  ASSERT_TRUE(Await(containers_->Remove(same, false)).ok());
  ExpectNothingLeft(vm_->id());
  EXPECT_THAT(EventTypes(), Contains("container.removed"));
}

TEST_F(VmContainerTest, ItsVmIsWrittenDownBeforeItIs) {
  const auto container = Make(Request("vm", "one"));
  const auto stage = [&] {
    return FromRow(Await(host_.store.ListContainers())->front())->record.stage();
  };
  guest_->blocks_at = "persist";
  auto starting = Begin(container->Start());
  Await(guest_->blocked.Wait());
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(stage(), state::v1::CONTAINER_STAGE_CREATED);
  guest_->go_on.Set();
  ASSERT_TRUE(Finish(starting).ok());
  EXPECT_EQ(stage(), state::v1::CONTAINER_STAGE_RUNNING);
}

TEST_F(VmContainerTest, PausesAndResumes) {
  const auto container = Run(Request("vm", "one"));
  for (int time = 0; time < 2; ++time) ASSERT_TRUE(Await(container->Pause()).ok());
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_PAUSED);
  ExpectWrongState(Await(container->Start()), "it is PAUSED");
  ExpectWrongState(container->CheckRunning("given a process"), "it is PAUSED");
  RestartDaemon();
  const auto same = *containers_->Find("one", "");
  EXPECT_EQ(same->state(), v1::CONTAINER_STATE_PAUSED);
  for (int time = 0; time < 2; ++time) ASSERT_TRUE(Await(same->Resume()).ok());
  EXPECT_EQ(same->state(), v1::CONTAINER_STATE_RUNNING);
  EXPECT_TRUE(same->CheckRunning("given a process").ok());
}

TEST_F(VmContainerTest, StopsWithItsSignalAndThenByForce) {
  auto container = Run(Request("vm", "one"));
  ASSERT_TRUE(Await(container->Stop(milliseconds(10'000))).ok());
  EXPECT_THAT(Init(*container).signals, ElementsAre(SIGTERM));
  EXPECT_EQ(container->Describe(false).exit_status().signal(), uint32_t{SIGTERM});
  container = Run(Request("vm", "two"));
  Init(*container).obeys = false;
  ASSERT_TRUE(Await(container->Stop(milliseconds(5))).ok());
  EXPECT_THAT(Init(*container).signals, ElementsAre(SIGTERM, SIGKILL));
  container = Run(Request("vm", "three"));
  ASSERT_TRUE(Await(container->Pause()).ok());
  ASSERT_TRUE(Await(container->Stop(milliseconds(0))).ok());
  EXPECT_THAT(Init(*container).signals, ElementsAre(SIGKILL));
  container = Run(Request("vm", "four"));
  ASSERT_TRUE(Await(container->Pause()).ok());
  ASSERT_TRUE(Await(container->Stop(milliseconds(10'000))).ok());
  EXPECT_THAT(Init(*container).signals, ElementsAre(SIGTERM));
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
}

TEST_F(VmContainerTest, WhoHasMorePatienceHoldsUpNobody) {
  const auto container = Run(Request("vm", "one"));
  Init(*container).obeys = false;
  auto patient = Begin(container->Stop(milliseconds(3'600'000)));
  Settle();
  EXPECT_FALSE(patient->has_value());
  ASSERT_TRUE(Await(container->Stop(milliseconds(0))).ok());
  EXPECT_TRUE(Finish(patient).ok());
  EXPECT_THAT(Init(*container).signals, ElementsAre(SIGTERM, SIGKILL));
}

TEST_F(VmContainerTest, WhatIsToBeRemovedByItselfIsTriedAgain) {
  auto request = Request("vm", "one");
  request.mutable_spec()->set_remove_when_stopped(true);
  const auto container = Run(request);
  guest_->fails_at = {"delete"};
  Exit(*container, 0);
  guest_->Forget(container->id());
  containers_->NoteExitTaken(vm_->id(), container->record().process_id());
  Settle();
  EXPECT_FALSE(container->gone());
  Until([&] { return containers_->List().empty(); });
  ExpectNothingLeft(vm_->id());
}

TEST_F(VmContainerTest, WhoeverRemovesItByItselfIsWokenWhenSomethingChanges) {
  auto request = Request("vm", "one");
  request.mutable_spec()->set_remove_when_stopped(true);
  const auto container = Run(request);
  guest_->fails_at = {"delete", "delete"};
  Exit(*container, 0);
  guest_->Forget(container->id());
  for (int time = 0; time < 2; ++time) {
    containers_->NoteExitTaken(vm_->id(), container->record().process_id());
    Settle();
  }
  EXPECT_THAT(guest_->fails_at, testing::IsEmpty());
  Until([&] { return containers_->List().empty(); });
}

TEST_F(VmContainerTest, OneThatNeverRanIsRemovedWithItsVmWithoutTheAgent) {
  const auto container = Make(Request("", "one"));
  FakeContainerGuest& guest = Guest(container->record().vm_id());
  guest.agent_there.Reset();
  ExpectWrongState(Await(container->Stop(milliseconds(1))), "was not started");
  const absl::Status removed = Await(containers_->Remove(container, false));
  EXPECT_TRUE(removed.ok()) << removed;
}

TEST_F(VmContainerTest, ForceEndsAndRemoves) {
  const auto container = Run(Request("vm", "one"));
  Init(*container).obeys = false;
  ASSERT_TRUE(Await(container->Pause()).ok());
  ASSERT_TRUE(Await(containers_->Remove(container, true)).ok());
  ExpectNothingLeft(vm_->id());
  EXPECT_TRUE(Await(containers_->Remove(container, false)).ok());
}

TEST_F(VmContainerTest, ARemovalThatFailsCanBeRepeated) {
  const auto container = Make(Request("vm", "one"));
  guest_->fails_at = {"unmount /run/gcs/l"};
  EXPECT_EQ(Await(containers_->Remove(container, false)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ((*containers_->Find("one", ""))->state(), v1::CONTAINER_STATE_STOPPED);
  ASSERT_TRUE(Await(containers_->Remove(container, false)).ok());
  ExpectNothingLeft(vm_->id());
}

TEST_F(VmContainerTest, LimitsChangeWhileItLives) {
  auto request = Request("vm", "one");
  request.mutable_spec()->mutable_limits()->set_pids(10);
  const auto container = Run(request);
  v1::ContainerLimits changes;
  changes.set_memory_bytes(1 << 20);
  EXPECT_EQ(Await(container->Update(changes)).code(), absl::StatusCode::kInvalidArgument);
  changes.set_memory_bytes(64 << 20);
  ASSERT_TRUE(Await(container->Update(changes)).ok());
  EXPECT_EQ(boost::json::parse(guest_->containers.at(container->id()).resources),
            boost::json::parse(R"({"memory":{"limit":67108864}})"));
  RestartDaemon();
  const v1::ContainerLimits& kept = (*containers_->Find("one", ""))->spec().limits();
  EXPECT_EQ(kept.memory_bytes(), 64u << 20);
  EXPECT_EQ(kept.pids(), 10u);
  const auto same = *containers_->Find("one", "");
  Exit(*same, 0);
  ExpectWrongState(Await(same->Update(changes)), "it is STOPPED");
}

TEST_F(VmContainerTest, WhatItWritesToGrowsWhileItLives) {
  const auto container = Run(Request("vm", "one"));
  const std::string lun = std::to_string(container->record().scratch_disk().lun());
  guest_->calls.clear();
  ASSERT_TRUE(Await(container->GrowScratch(1 << 30)).ok());
  EXPECT_THAT(guest_->calls,
              testing::ElementsAre("resize " + lun + " to 1073741824",
                                   "grow " + container->record().scratch_disk().mount_path()));
  // Nor is an agent that is just coming back passed over.
  guest_->calls.clear();
  guest_->agent_there.Reset();
  const auto later = Begin(container->GrowScratch(1 << 30));
  Settle();
  EXPECT_THAT(guest_->calls, testing::IsEmpty());
  guest_->agent_there.Set();
  Settle();
  EXPECT_TRUE(later->has_value() && (*later)->ok());
  guest_->fails_at = {"grow"};
  EXPECT_FALSE(Await(container->GrowScratch(2u << 30)).ok());
  RestartDaemon();
  const auto same = *containers_->Find("one", "");
  EXPECT_EQ(same->spec().scratch().size_bytes(), 1u << 30);
  EXPECT_TRUE(Await(same->GrowScratch(2u << 30)).ok());
  auto request = Request("vm", "two");
  request.mutable_spec()->set_read_only(true);
  EXPECT_THAT(Await(Run(request)->GrowScratch(1 << 30)).message(), HasSubstr("is read-only"));
}

TEST_F(VmContainerTest, NumbersAreTheGuests) {
  const auto container = Run(Request("vm", "one"));
  guest_->metrics.pids_current = 3;
  EXPECT_EQ(Await(container->Stats())->pids_current, 3u);
  Exit(*container, 0);
  ExpectWrongState(Await(container->Stats()).status(), "it is STOPPED");
}

TEST_F(VmContainerTest, AStartThatFailsTellsAndLeavesWhatItIs) {
  const auto container = Make(Request("vm", "one"));
  guest_->fails_at = {"start"};
  EXPECT_EQ(Await(container->Start()).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_CREATED);
  guest_->fails_at = {"start"};
  guest_->containers.at(container->id()).state = bridge::ContainerState::kStopped;
  EXPECT_EQ(Await(container->Start()).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_TRUE(container->Describe(false).exit_status().unknown());
}

TEST_F(VmContainerTest, OneThatIsToBeRemovedGoesOnceItsExitStatusWasTaken) {
  auto request = Request("vm", "one");
  request.mutable_spec()->set_remove_when_stopped(true);
  const auto container = Run(request);
  Exit(*container, 3);
  EXPECT_EQ(container->state(), v1::CONTAINER_STATE_STOPPED);
  EXPECT_FALSE(container->gone());
  guest_->containers.at(container->id()).forgotten = true;
  containers_->NoteExitTaken(vm_->id(), container->record().process_id());
  Until([&] { return container->gone() && store_->Pins().empty(); });
  ExpectNothingLeft(vm_->id());
}

TEST_F(VmContainerTest, TheNumberOfAnInitThatWasForgottenIsNotTold) {
  const auto container = Run(Request("vm", "one"));
  Exit(*container, 3);
  EXPECT_NE(container->Describe(true).process_id(), 0u);
  guest_->Forget(container->id());
  EXPECT_EQ(container->Describe(true).process_id(), 0u);
}

TEST_F(VmContainerTest, WhatIsRemovedByItselfIsInTheAuditLog) {
  RunOneThatRemovesItself();
  Settle();
  std::ifstream file(folder_.path() + "/audit.log");
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  const boost::json::object record = boost::json::parse(line).as_object();
  EXPECT_EQ(record.at("method").as_string(), "automatic removal");
  EXPECT_EQ(record.at("request"), boost::json::parse(R"({"container":"one","vm":"vm"})"));
  EXPECT_EQ(record.at("outcome").as_string(), "OK");
  EXPECT_FALSE(std::getline(file, line));
}

TEST_F(VmContainerTest, ADetachedOneThatIsToBeRemovedGoesAtOnce) {
  RunOneThatRemovesItself();
  ExpectNothingLeft(vm_->id());
}

TEST_F(VmContainerTest, AVmThatEndsTakesItsContainersAlong) {
  const auto running = Run(Request("vm", "one"));
  const auto created = Make(Request("vm", "two"));
  auto request = Request("vm", "three");
  request.mutable_spec()->set_remove_when_stopped(true);
  const auto brief = Run(request);
  guest_->running = false;
  host_.System(*vm_)->Exit(SystemExit::Cause::kCrashed, "a signal");
  Until([&] { return brief->gone(); });
  for (const auto& container : {running, created}) {
    const v1::Container described = container->Describe(false);
    EXPECT_EQ(described.state(), v1::CONTAINER_STATE_STOPPED);
    EXPECT_TRUE(described.exit_status().unknown());
    EXPECT_EQ(described.process_id(), 0u);
  }
  EXPECT_EQ(Rows(), 2u);
  // Without its guest there is nothing to be taken out of it.
  guest_->calls.clear();
  ASSERT_TRUE(Await(containers_->Remove(running, false)).ok());
  EXPECT_TRUE(guest_->calls.empty());
  // And with the VM goes what is left.
  ASSERT_TRUE(Await(host_.inventory->Delete(vm_)).ok());
  EXPECT_EQ(Rows(), 0u);
  EXPECT_TRUE(store_->Pins().empty());
  EXPECT_TRUE(ScratchFolders().empty());
}

TEST_F(VmContainerTest, NoneIsMadeInAVmThatMoves) {
  ASSERT_TRUE(vm_->OpenMigration("session", "host-b:1").ok());
  const absl::Status moving = Await(containers_->Create(Request("vm", "two"))).status();
  EXPECT_EQ(moving.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(moving.message()), HasSubstr("while migration session is under way"));
  vm_->ReturnFromMigration(1);
}

}  // namespace
}  // namespace ferry::vm
