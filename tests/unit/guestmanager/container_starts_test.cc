#include "guestmanager/container_starts.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

const std::string kStarted(64, 'a');

using StartResult = std::shared_ptr<std::optional<absl::StatusOr<std::shared_ptr<Process>>>>;

class ContainerStartsTest : public GuestTest {
 protected:
  static ProcessSpec Init() {
    ProcessSpec spec;
    spec.container_id = kStarted;
    spec.command = {"serve"};
    spec.has_stdin = true;
    return spec;
  }
  StartResult StartContainer() { return Start(guest_->StartContainer(Init())); }
  // A start that the agent has got, and does not answer.
  StartResult StartUnanswered() {
    agent_->holds_starts = true;
    StartResult starting = StartContainer();
    EXPECT_FALSE(starting->has_value());
    EXPECT_EQ(agent_->processes.size(), 1u);
    return starting;
  }
  StartResult AwaitMovedStart() { return Start(moved_->AwaitStart(kStarted)); }
  void ConnectToMoved() {
    agent_->Connect(moved_transport_.get());
    Settle();
  }
  std::vector<bridge::Frame> StartRequests() const {
    std::vector<bridge::Frame> requests;
    for (const bridge::Frame& frame : agent_->received) {
      if (frame.type == bridge::kExecuteProcess) requests.push_back(frame);
    }
    return requests;
  }
  void ExpectSentAgainAsItWas() const {
    const auto requests = StartRequests();
    ASSERT_EQ(requests.size(), 2u);
    EXPECT_EQ(requests[0].id, requests[1].id);
    EXPECT_EQ(requests[0].payload, requests[1].payload);
  }
  static void ExpectStarted(const StartResult& started) {
    ASSERT_TRUE(started->has_value());
    ASSERT_TRUE((*started)->ok()) << (*started)->status();
    EXPECT_NE(***started, nullptr);
  }
  // It is the only one, its exit is noticed, and nobody took it for a stray.
  void ExpectWorks(Guest& guest, const StartResult& started) {
    ExpectStarted(started);
    if (HasFatalFailure()) return;
    const std::shared_ptr<Process> init = ***started;
    EXPECT_EQ(agent_->processes.size(), 1u);
    EXPECT_EQ(guest.Find(init->pid()), init);
    TestSink sink;
    const auto attachment = Attach(*init, sink);
    agent_->Write(init->pid(), false, "first words");
    agent_->EndOutput(init->pid());
    agent_->EndOutput(init->pid());
    agent_->Exit(init->pid(), 3);
    Settle();
    EXPECT_EQ(sink.out, "first words");
    EXPECT_EQ(sink.exited, (ExitStatus{ExitStatus::Kind::kCode, 3}));
    EXPECT_TRUE(agent_->signals.empty());
  }
};

TEST_F(ContainerStartsTest, OneThatIsNotAnsweredYetGoesWithTheGuest) {
  Ready();
  const auto starting = StartUnanswered();
  Migrate();
  ASSERT_TRUE(starting->has_value());
  EXPECT_FALSE((*starting)->ok());
  const auto awaited = AwaitMovedStart();
  ConnectToMoved();
  EXPECT_FALSE(awaited->has_value());
  // It is no stray.
  EXPECT_TRUE(agent_->signals.empty());
  agent_->AnswerStarts();
  Settle();
  ExpectWorks(*moved_, awaited);
  EXPECT_EQ(***AwaitMovedStart(), nullptr);
}

TEST_F(ContainerStartsTest, OneThatFailedOnTheWayLeavesNoProcess) {
  Ready();
  agent_->silent = true;
  StartContainer();
  Migrate();
  agent_->silent = false;
  agent_->refusals[bridge::kExecuteProcess] = bridge::kHresultInvalidState;
  const auto awaited = AwaitMovedStart();
  ConnectToMoved();
  ASSERT_TRUE(awaited->has_value());
  EXPECT_TRUE(absl::IsFailedPrecondition((*awaited)->status())) << (*awaited)->status();
  EXPECT_TRUE(moved_->processes().empty());
  EXPECT_TRUE(moved_->Save()->starting.empty());
}

TEST_F(ContainerStartsTest, OneOutlivesTheLink) {
  Ready();
  const auto starting = StartUnanswered();
  transport_->Break();
  Settle();
  EXPECT_FALSE(starting->has_value());
  agent_->Connect();
  Settle();
  agent_->AnswerStarts();
  Settle();
  ExpectWorks(*guest_, starting);
}

TEST_F(ContainerStartsTest, ARequestThatWasLostIsSentAgainAsItWas) {
  Ready();
  agent_->silent = true;
  const auto starting = StartContainer();
  agent_->silent = false;
  transport_->Break();
  Settle();
  EXPECT_FALSE(starting->has_value());
  agent_->Connect();
  Settle();
  ExpectSentAgainAsItWas();
  ExpectWorks(*guest_, starting);
}

TEST_F(ContainerStartsTest, ARequestThatWasLostOnAMoveIsSentAgainAsItWas) {
  Ready();
  agent_->silent = true;
  StartContainer();
  Migrate();
  agent_->silent = false;
  const auto awaited = AwaitMovedStart();
  ConnectToMoved();
  ExpectSentAgainAsItWas();
  ExpectWorks(*moved_, awaited);
}

TEST_F(ContainerStartsTest, AnAnswerThatWasLostIsAskedForAgain) {
  Ready();
  const auto starting = StartUnanswered();
  agent_->LoseStarts();
  transport_->Break();
  agent_->Connect();
  Settle();
  ExpectWorks(*guest_, starting);
}

TEST_F(ContainerStartsTest, AnAnswerThatWasLostOnAMoveIsAskedForAgain) {
  Ready();
  StartUnanswered();
  agent_->LoseStarts();
  Migrate();
  // The agent may be there first.
  ConnectToMoved();
  ExpectWorks(*moved_, AwaitMovedStart());
}

TEST_F(ContainerStartsTest, OneThatADaemonHadHeardOfIsAskedForAgainByTheNext) {
  Ready();
  std::optional<GuestState> written;
  guest_->set_on_change([&] { written = *guest_->Save(); });
  const auto starting = StartUnanswered();
  // What is written down has it from when it was sent on.
  ASSERT_TRUE(written.has_value());
  ASSERT_EQ(written->starting.size(), 1u);
  EXPECT_NE(written->starting[0].wait_call_id, 0);
  const GuestState before = *written;
  agent_->AnswerStarts();
  Settle();
  ExpectStarted(starting);
  EXPECT_TRUE(written->starting.empty());
  const uint32_t pid = (***starting)->pid();
  Migrate(before);
  ConnectToMoved();
  const auto awaited = AwaitMovedStart();
  ExpectWorks(*moved_, awaited);
  if (HasFatalFailure()) return;
  EXPECT_EQ((***awaited)->pid(), pid);
}

TEST_F(ContainerStartsTest, ARefusedOneIsNotWrittenDownAsPending) {
  Ready();
  std::optional<GuestState> written;
  guest_->set_on_change([&] { written = *guest_->Save(); });
  agent_->refusals[bridge::kExecuteProcess] = bridge::kHresultInvalidState;
  const auto refused = StartContainer();
  ASSERT_TRUE(refused->has_value());
  EXPECT_FALSE((*refused)->ok());
  EXPECT_TRUE(written->starting.empty());
}

TEST_F(ContainerStartsTest, AnAgentThatWouldRefuseARepeatedOneIsNotAskedAgain) {
  agent_->repeats_starts = false;
  Ready();
  StartUnanswered();
  Migrate();
  const auto awaited = AwaitMovedStart();
  ConnectToMoved();
  EXPECT_EQ(StartRequests().size(), 1u);
  agent_->AnswerStarts();
  Settle();
  ExpectWorks(*moved_, awaited);
}

TEST_F(ContainerStartsTest, NothingIsStartedBeforeTheGuestKnowsTheTime) {
  Ready();
  agent_->silent = true;
  StartContainer();
  Migrate();
  agent_->silent = false;
  agent_->clock_ahead = 0;
  agent_->holds_clock = true;
  const auto awaited = AwaitMovedStart();
  ConnectToMoved();
  EXPECT_EQ(StartRequests().size(), 1u);
  agent_->AnswerClock();
  Settle();
  EXPECT_EQ(StartRequests().size(), 2u);
  ExpectWorks(*moved_, awaited);
}

TEST_F(ContainerStartsTest, AnAgentThatCameTwiceMeanwhileIsAskedOnce) {
  Ready();
  StartUnanswered();
  Migrate();
  agent_->clock_ahead = 0;
  agent_->holds_clock = true;
  const auto awaited = AwaitMovedStart();
  for (int time = 0; time < 2; ++time) ConnectToMoved();
  EXPECT_EQ(StartRequests().size(), 1u);
  agent_->AnswerClock();
  Settle();
  EXPECT_EQ(StartRequests().size(), 2u);
  agent_->AnswerStarts();
  Settle();
  ExpectWorks(*moved_, awaited);
}

TEST_F(ContainerStartsTest, OneThatNobodyTakesEndsWithTheGuestThoughTheClockIsNotSet) {
  Ready();
  StartUnanswered();
  Migrate();
  agent_->clock_ahead = 0;
  agent_->holds_clock = true;
  // Each time it comes back and does not let its clock be set.
  for (int time = 0; time < 20; ++time) ConnectToMoved();
  EXPECT_EQ(StartRequests().size(), 1u);
  moved_->Close(absl::UnavailableError("the VM has ended"));
  moved_.reset();
  Settle();
}

TEST_F(ContainerStartsTest, WhoeverWantsItStartedJoinsTheOneThatCame) {
  Ready();
  StartUnanswered();
  Migrate();
  ConnectToMoved();
  const auto joined = Start(moved_->StartContainer(Init()));
  EXPECT_FALSE(joined->has_value());
  agent_->AnswerStarts();
  Settle();
  ExpectWorks(*moved_, joined);
}

TEST_F(ContainerStartsTest, ASecondOneOfThisHostIsRefused) {
  Ready();
  const auto starting = StartUnanswered();
  EXPECT_TRUE(absl::IsFailedPrecondition((*StartContainer())->status()));
  agent_->AnswerStarts();
  Settle();
  ExpectWorks(*guest_, starting);
}

TEST_F(ContainerStartsTest, ItsPortsAreFreeAfterTheGuestIsClosed) {
  Ready();
  StartUnanswered();
  const GuestState state = *guest_->Save();
  Migrate();
  const uint32_t port = state.starting[0].stdout_port;
  EXPECT_TRUE(moved_transport_->listening(port));
  moved_->Close(absl::UnavailableError("the daemon stops"));
  Settle();
  EXPECT_FALSE(moved_transport_->listening(port));
}

class SpooledStartsTest : public ContainerStartsTest {
 protected:
  SpooledStartsTest() {
    std::string name = testing::TempDir() + "ferry-starts-XXXXXX";
    spool_folder_ = mkdtemp(name.data());
  }
  ~SpooledStartsTest() override { std::filesystem::remove_all(spool_folder_); }
};

TEST_F(SpooledStartsTest, WhatItHasPrintedStaysForTheNextDaemon) {
  Ready();
  agent_->holds_starts = true;
  ProcessSpec spec = Init();
  spec.detached = true;
  Start(guest_->StartContainer(spec));
  const uint32_t pid = agent_->processes.begin()->first;
  agent_->Write(pid, false, "first words");
  Settle();
  EXPECT_EQ(agent_->processes[pid].out.base, 11u);
  GuestState state = *guest_->Save();
  state.starting[0].std_out.spool.clear();  // the file has it
  // A daemon that stops in good order.
  transport_->Break();
  guest_->Close(absl::UnavailableError("the daemon stops"));
  Settle();
  Migrate(state);
  ConnectToMoved();
  const auto awaited = AwaitMovedStart();
  agent_->AnswerStarts();
  Settle();
  ExpectStarted(awaited);
  if (HasFatalFailure()) return;
  TestSink sink;
  const auto attachment = Attach(****awaited, sink);
  EXPECT_EQ(sink.out, "first words");
}

}  // namespace
}  // namespace ferry::guest
