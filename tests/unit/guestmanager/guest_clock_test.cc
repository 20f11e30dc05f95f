#include "guestmanager/guest_clock.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

constexpr int64_t kHour = 3'600'000'000'000;
// Far more than a round trip in memory takes, and far less than an hour.
constexpr int64_t kClose = kHour / 60;

class GuestClockTest : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    agent_->clock_ahead = 0;
  }

  int Count(uint32_t type) const { return agent_->CountReceived(type); }
  FakeAgent::Process& There(const std::shared_ptr<Process>& process) {
    return agent_->processes[process->pid()];
  }
};

TEST_F(GuestClockTest, AClockThatIsOffIsSet) {
  for (const int64_t ahead : {-kHour, kHour}) {
    agent_->clock_ahead = ahead;
    Ready();
    EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
  }
  EXPECT_EQ(Count(bridge::kAdjustClock), 2);
}

TEST_F(GuestClockTest, AnAgentThatDoesNotKnowOfItIsNotAsked) {
  agent_->clock_ahead.reset();
  Ready();
  Exec();
  EXPECT_EQ(Count(bridge::kGetClock), 0);
}

TEST_F(GuestClockTest, NoProcessIsStartedBefore) {
  agent_->clock_ahead = -kHour;
  agent_->holds_clock = true;
  Ready();
  ProcessSpec spec;
  spec.command = {"date"};
  const auto made = Start(guest_->CreateProcess(spec));
  EXPECT_EQ(Count(bridge::kExecuteProcess), 0);
  agent_->AnswerClock();
  Settle();
  EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
  EXPECT_TRUE(made->has_value() && (*made)->ok());
}

TEST_F(GuestClockTest, AnAgentThatRefusesIsServedAllTheSame) {
  agent_->refuses_clock = true;
  Ready();
  Exec();
  EXPECT_EQ(Count(bridge::kAdjustClock), 0);
}

TEST_F(GuestClockTest, AfterAMigrationOutputFlowsAtOnceAndInputOnceTheClockIsSet) {
  Ready();
  const auto process = Exec();
  const uint32_t pid = process->pid();
  agent_->clock_ahead = -kHour;
  Migrate();
  agent_->holds_clock = true;
  agent_->Connect(moved_transport_.get());
  Settle();
  TestSink sink;
  const auto attachment = Attach(*moved_->Find(pid), sink);
  agent_->Write(pid, false, "out");
  EXPECT_TRUE(attachment->SendStdin(0, "in").ok());
  EXPECT_TRUE(attachment->EndStdin(2).ok());
  Settle();
  EXPECT_EQ(sink.out, "out");
  EXPECT_EQ(There(process).in.taken, "");
  EXPECT_FALSE(There(process).in.ended);
  agent_->AnswerClock();
  Settle();
  EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
  EXPECT_EQ(There(process).in.taken, "in");
  EXPECT_TRUE(There(process).in.ended);
}

TEST_F(GuestClockTest, AfterAPauseItIsSetBeforeInputGoesOn) {
  Ready();
  const auto process = Exec();
  TestSink sink;
  const auto attachment = Attach(*process, sink);
  EXPECT_TRUE(attachment->SendStdin(0, "a").ok());
  Settle();
  guest_->StandsStill();
  EXPECT_TRUE(attachment->SendStdin(1, "b").ok());
  const auto signal = Start(process->Signal(1));
  EXPECT_EQ(There(process).in.taken, "a");
  agent_->clock_ahead = -kHour;
  agent_->holds_clock = true;
  guest_->RunsAgain();
  Settle();
  EXPECT_EQ(There(process).in.taken, "a");
  EXPECT_TRUE(agent_->signals.empty());
  agent_->AnswerClock();
  Settle();
  EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
  EXPECT_EQ(There(process).in.taken, "ab");
  EXPECT_EQ(agent_->signals.size(), 1u);
}

// The answer tells of the time before it.
TEST_F(GuestClockTest, APauseWhileItIsSetHasItSetAgain) {
  agent_->holds_clock = true;
  Ready();
  guest_->StandsStill();
  agent_->AnswerClock();
  Settle();
  agent_->clock_ahead = -kHour;
  guest_->RunsAgain();
  Settle();
  EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
  EXPECT_EQ(Count(bridge::kAdjustClock), 1);
}

TEST_F(GuestClockTest, AGuestThatWasFrozenAndGoesOnIsSetToo) {
  Ready();
  guest_->Freeze();
  agent_->clock_ahead = -kHour;
  guest_->Unfreeze();
  Settle();
  EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
}

TEST_F(GuestClockTest, ALinkThatBreaksMeanwhileHoldsNothingUpForEver) {
  agent_->holds_clock = true;
  Ready();
  ProcessSpec spec;
  spec.command = {"date"};
  const auto made = Start(guest_->CreateProcess(spec));
  agent_->clock_ahead = -kHour;
  agent_->holds_clock = false;
  agent_->Connect();
  Settle();
  EXPECT_LT(std::abs(*agent_->clock_ahead), kClose);
  EXPECT_TRUE(made->has_value() && (*made)->ok());
}

TEST_F(GuestClockTest, AGuestThatIsClosedMeanwhileEndsWhoeverWaits) {
  agent_->holds_clock = true;
  Ready();
  ProcessSpec spec;
  spec.command = {"date"};
  const auto made = Start(guest_->CreateProcess(spec));
  guest_->Close(absl::UnavailableError("gone"));
  Settle();
  ASSERT_TRUE(made->has_value());
  EXPECT_EQ((*made)->status().message(), "gone");
}

}  // namespace
}  // namespace ferry::guest
