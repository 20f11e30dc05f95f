#include "vmmanager/sandbox/utility_vm.h"

#include <algorithm>

#include "tests/unit/vmmanager/sandbox/sandbox_fixture.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kLong{60'000};

class UtilityVmTest : public SandboxTest {};

TEST_F(UtilityVmTest, StartsOnceItsAgentIsReady) {
  auto vm = Create("web");
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  guests_.boot = false;
  auto started = Begin(vm->Start());
  Settle();
  EXPECT_FALSE(started->has_value());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STARTING);
  guests_.Connect(*host_.System(*vm));
  EXPECT_TRUE(Finish(started).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(host_.System(*vm)->state(), schema::SystemState::kRunning);
}

TEST_F(UtilityVmTest, RepeatedCallsSucceedAndDoNothing) {
  auto vm = Boot();
  FakeComputeSystem* system = host_.System(*vm);
  EXPECT_TRUE(Await(vm->Start()).ok());
  EXPECT_EQ(host_.System(*vm), system);
  EXPECT_TRUE(Await(vm->Resume()).ok());
  EXPECT_TRUE(Await(vm->Pause()).ok());
  EXPECT_TRUE(Await(vm->Pause()).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
  EXPECT_TRUE(Await(vm->Resume()).ok());
  EXPECT_TRUE(Await(vm->Resume()).ok());
  EXPECT_TRUE(Await(vm->Stop(false, kLong)).ok());
  EXPECT_TRUE(Await(vm->Stop(false, kLong)).ok());
  EXPECT_TRUE(Await(vm->Stop(true, kLong)).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(UtilityVmTest, ConcurrentStartsBootOnce) {
  auto vm = Create("web");
  auto first = Begin(vm->Start());
  auto second = Begin(vm->Start());
  EXPECT_TRUE(Finish(first).ok());
  EXPECT_TRUE(Finish(second).ok());
  const auto types = EventTypes();
  EXPECT_EQ(std::count(types.begin(), types.end(), "vm.started"), 1);
}

TEST_F(UtilityVmTest, WhatFilesHoldIsNotInItsRow) {
  host_.settings.spool_folder = folder_.path() + "/spool";
  auto vm = Boot();
  guest::FakeAgent& agent = guests_.Agent(vm->id());
  guest::ProcessSpec spec;
  spec.command = {"serve"};
  spec.detached = true;
  const auto running = Await(vm->guest()->CreateProcess(spec));
  ASSERT_TRUE(running.ok()) << running.status();
  agent.holds_starts = true;
  spec.container_id = std::string(64, 'a');
  auto starting = Begin(vm->guest()->StartContainer(spec));
  Settle();
  for (const auto& [pid, process] : agent.processes) agent.Write(pid, false, "first words");
  Settle();
  ASSERT_TRUE(Await(vm->Persist()).ok());
  const auto state = DecodeGuest(Row(vm->id()).guest_state);
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_EQ(state->processes.size(), 1u);
  ASSERT_EQ(state->starting.size(), 1u);
  for (const guest::ProcessState& process : {state->processes[0], state->starting[0]}) {
    EXPECT_EQ(process.std_out.taken.offset, 11u);
    EXPECT_EQ(process.std_out.spool, "");
  }
}

TEST_F(UtilityVmTest, PausedGuestDoesNotRun) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  EXPECT_FALSE(host_.System(*vm)->Step());
  EXPECT_EQ(Row(vm->id()).desired_state, "paused");
  ASSERT_TRUE(Await(vm->Resume()).ok());
  EXPECT_TRUE(host_.System(*vm)->Step());
  EXPECT_EQ(Row(vm->id()).desired_state, "running");
}

TEST_F(UtilityVmTest, AgentThatNeverAnswersFailsTheBootAndLeavesNothing) {
  auto vm = Create("web");
  guests_.boot = false;
  host_.settings.boot_timeout = milliseconds(20);
  host_.backend.script().last_words = "last console output: no agent\xff here";
  const absl::Status status = Await(vm->Start());
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(),
            "VM web did not get ready: the guest's agent gave no answer within 20 ms; the VM was "
            "ended\nlast console output: no agent\xff here");
  EXPECT_THAT(NextStepOf(status), HasSubstr("--boot-timeout"));
  EXPECT_THAT(NextStepOf(status), HasSubstr("ferryctl start web"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_EQ(vm->guest(), nullptr);
  // What cannot be UTF-8 would make the answer unreadable for clients.
  EXPECT_THAT(vm->Describe(false).state_reason(), HasSubstr("no agent\\xff here"));
  EXPECT_TRUE(Row(vm->id()).adoption_record.empty());
  guests_.boot = true;
  EXPECT_TRUE(Await(vm->Start()).ok());
  EXPECT_EQ(vm->Describe(false).state_reason(), "");
}

TEST_F(UtilityVmTest, SystemThatEndsWhileBootingSaysWhy) {
  auto vm = Create("web");
  guests_.boot = false;
  auto started = Begin(vm->Start());
  Settle();
  host_.backend.script().last_words = "last console output: oh";
  host_.System(*vm)->Exit(SystemExit::Cause::kPanic, "no init found");
  const absl::Status status = Finish(started);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(),
            "VM web panicked: no init found before its agent was ready\nlast console output: oh");
  EXPECT_THAT(NextStepOf(status), HasSubstr("ferryctl start web"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_EQ(vm->system(), nullptr);
  EXPECT_TRUE(Row(vm->id()).adoption_record.empty());
}

TEST_F(UtilityVmTest, BackendThatCannotCreateOrStartFailsTheBoot) {
  auto vm = Create("web");
  for (const char* verb : {"Create", "Start"}) {
    host_.backend.script().FailNext(verb, absl::ResourceExhaustedError("no memory left"));
    const absl::Status status = Await(vm->Start());
    EXPECT_EQ(status, absl::ResourceExhaustedError("no memory left")) << verb;
    EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
    EXPECT_EQ(vm->system(), nullptr);
  }
  EXPECT_TRUE(Await(vm->Start()).ok());
}

TEST_F(UtilityVmTest, StopThatTakesTooLongLeavesItRunning) {
  auto vm = Boot();
  guests_.obey = false;
  const absl::Status status = Await(vm->Stop(false, milliseconds(10)));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr("was not done within 10 ms; it still runs"));
  EXPECT_THAT(NextStepOf(status), HasSubstr("ferryctl stop --force web"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Await(vm->UsableGuest()).ok());
  EXPECT_TRUE(Await(vm->Stop(true, kLong)).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(UtilityVmTest, StopTakesItsLimitOnceWhateverTheAgentDoes) {
  auto vm = Boot();
  host_.settings.agent_wait = milliseconds(10);
  guests_.Agent(vm->id()).silent = true;
  absl::Status status = Await(vm->Stop(false, milliseconds(20)));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr("still runs"));
  EXPECT_THAT(NextStepOf(status), HasSubstr("ferryctl stop --force web"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  // Without an agent there is nobody to wait an hour for.
  guests_.Agent(vm->id()).Stop();
  Settle();
  status = Await(vm->Stop(false, milliseconds(3'600'000)));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr("its agent is not connected; it still runs"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(UtilityVmTest, OperationsAfterTheDaemonLetGoAreRefused) {
  auto vm = Boot();
  host_.backend.script().Block("Pause");
  auto paused = Begin(vm->Pause());
  Await(host_.backend.script().WaitBlocked("Pause"));
  auto stopped = Begin(vm->Stop(false, kLong));
  Settle();
  Await(host_.inventory->Detach());
  host_.backend.script().Release("Pause");
  EXPECT_EQ(Finish(paused).code(), absl::StatusCode::kUnavailable);
  const absl::Status status = Finish(stopped);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("ferryd stops"));
  EXPECT_EQ(Await(vm->UsableGuest()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Await(vm->Resume()).code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(vm->system(), nullptr);
}

TEST_F(UtilityVmTest, LettingGoEndsAStopThatWaits) {
  auto vm = Boot();
  guests_.obey = false;
  auto stopped = Begin(vm->Stop(false, milliseconds(3'600'000)));
  Settle();
  Await(host_.inventory->Detach());
  EXPECT_EQ(Finish(stopped).code(), absl::StatusCode::kUnavailable);
}

TEST_F(UtilityVmTest, LettingGoDuringABootLeavesTheVm) {
  auto vm = Create("web");
  guests_.boot = false;
  auto started = Begin(vm->Start());
  Settle();
  Await(host_.inventory->Detach());
  EXPECT_EQ(Finish(started).code(), absl::StatusCode::kUnavailable);
  Settle();
  EXPECT_NE(vm->system(), nullptr);
  EXPECT_FALSE(Row(vm->id()).adoption_record.empty());
}

TEST_F(UtilityVmTest, ForcedStopThatFailsCanBeTriedAgain) {
  auto vm = Boot();
  host_.backend.script().FailNext("Terminate", absl::InternalError("cannot kill it"));
  EXPECT_EQ(Await(vm->Stop(true, kLong)), absl::InternalError("cannot kill it"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_TRUE(Await(vm->Stop(true, kLong)).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
}

TEST_F(UtilityVmTest, StopOfAPausedVmNamesTheWaysOut) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  const absl::Status status = Await(vm->Stop(false, kLong));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("is paused"));
  EXPECT_THAT(NextStepOf(status), HasSubstr("ferryctl vm resume web"));
  EXPECT_THAT(NextStepOf(status), HasSubstr("--force"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
}

TEST_F(UtilityVmTest, CrashFailsItWithTheReasonAndEndsItsProcesses) {
  auto vm = Boot();
  auto guest = *Await(vm->UsableGuest());
  guest::ProcessSpec spec;
  spec.command = {"sleep"};
  auto process = *Await(guest->CreateProcess(spec));
  auto waited = Begin(process->Wait());
  host_.backend.script().last_words = "last console output: oh";
  host_.System(*vm)->Exit(SystemExit::Cause::kCrashed, "signal 9");
  auto exit = Finish(waited);
  EXPECT_EQ(exit.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(exit.status().message(), HasSubstr("ended unexpectedly: signal 9"));
  EXPECT_EQ(vm->state(), v1::VM_STATE_FAILED);
  EXPECT_THAT(NextStepOf(exit.status()), HasSubstr("ferryctl vm inspect web"));
  const std::string reason = "ended unexpectedly: signal 9\nlast console output: oh";
  EXPECT_EQ(vm->Describe(false).state_reason(), reason);
  const absl::Status unusable = Await(vm->UsableGuest()).status();
  EXPECT_EQ(unusable.message(),
            "VM web cannot be used: it is FAILED (ended unexpectedly: signal 9)");
  EXPECT_THAT(NextStepOf(unusable), HasSubstr("ferryctl vm inspect web"));
  EXPECT_THAT(NextStepOf(unusable), HasSubstr("ferryctl start web"));
  Settle();
  EXPECT_EQ(Row(vm->id()).state_reason, reason);
  EXPECT_TRUE(Row(vm->id()).adoption_record.empty());
  EXPECT_EQ(EventTypes().back(), "vm.stopped");
}

TEST_F(UtilityVmTest, GuestThatPowersOffStopsIt) {
  auto vm = Boot();
  host_.System(*vm)->Exit(SystemExit::Cause::kShutdown, "");
  Settle();
  EXPECT_EQ(vm->state(), v1::VM_STATE_STOPPED);
  EXPECT_EQ(vm->Describe(false).state_reason(), "shut down");
  EXPECT_TRUE(Await(vm->Start()).ok());
}

TEST_F(UtilityVmTest, FailedPauseAndResumeChangeNothing) {
  auto vm = Boot();
  host_.backend.script().FailNext("Pause", absl::InternalError("no"));
  EXPECT_FALSE(Await(vm->Pause()).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  ASSERT_TRUE(Await(vm->Pause()).ok());
  host_.backend.script().FailNext("Resume", absl::InternalError("no"));
  EXPECT_FALSE(Await(vm->Resume()).ok());
  EXPECT_EQ(vm->state(), v1::VM_STATE_PAUSED);
}

TEST_F(UtilityVmTest, PropertiesNeedASystem) {
  auto vm = Create("web");
  schema::PropertyQuery query;
  query.types = {schema::PropertyType::kCompatibilityInfo};
  EXPECT_EQ(Await(vm->GetProperties(query)).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Await(vm->Start()).ok());
  auto properties = Await(vm->GetProperties(query));
  ASSERT_TRUE(properties.ok());
  EXPECT_EQ(properties->memory_size_in_mb, 256u);
  EXPECT_EQ(properties->compatibility_info, "fake-1");
}

TEST_F(UtilityVmTest, LifeCycleIsToldInOrder) {
  auto vm = Boot();
  ASSERT_TRUE(Await(vm->Pause()).ok());
  ASSERT_TRUE(Await(vm->Resume()).ok());
  ASSERT_TRUE(Await(vm->Stop(false, kLong)).ok());
  ASSERT_TRUE(Await(host_.inventory->Delete(vm)).ok());
  EXPECT_THAT(EventTypes(),
              ::testing::ElementsAre("vm.created", "vm.starting", "vm.started", "vm.paused",
                                     "vm.resumed", "vm.stopped", "vm.deleted"));
}

}  // namespace
}  // namespace ferry::vm
