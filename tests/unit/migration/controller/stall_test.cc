// A transfer of which no byte moves is called off before the cut, and only then.
#include "migration/controller/stall_watchdog.h"
#include "tests/unit/migration/controller/controller_fixture.h"

namespace ferry::migration {
namespace {

TEST(StallWatchTest, OnlySilenceOfTheWholeLimitCounts) {
  const StallWatch::Clock::time_point start{};
  StallWatch watch(milliseconds(30), start);
  EXPECT_FALSE(watch.Stalled(0, start + milliseconds(29)));
  EXPECT_FALSE(watch.Stalled(1, start + milliseconds(30)));
  EXPECT_FALSE(watch.Stalled(1, start + milliseconds(59)));
  EXPECT_TRUE(watch.Stalled(1, start + milliseconds(60)));
  EXPECT_FALSE(watch.Stalled(2, start + milliseconds(61)));
}

class StallTest : public ControllerTest {
 protected:
  // Waits out the limit, which nothing else ends.
  void ExpectStalls(const std::shared_ptr<vm::UtilityVm>& vm) {
    const v1::Session session = Wait(a_, Migrate());
    EXPECT_EQ(session.outcome(), v1::SESSION_OUTCOME_FAILED);
    EXPECT_EQ(session.reason(), "transfer_stalled");
    EXPECT_THAT(session.error(), HasSubstr("no byte"));
    EXPECT_EQ(session.vm_location(), "host-a:1");
    ExpectRolledBack(vm);
  }
};

TEST_F(StallTest, SourceThatSendsNothing) {
  auto vm = Boot();
  a_.deps->limits.stall = milliseconds(20);
  a_.host.backend.script().Block("Page");
  ExpectStalls(vm);
  a_.deps->limits.stall = milliseconds(0);
  a_.host.backend.script().Release("Page");
  EXPECT_EQ(Wait(a_, Migrate()).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
}

TEST_F(StallTest, DestinationThatTakesNothing) {
  auto vm = Boot();
  a_.deps->limits.stall = milliseconds(20);
  // More than all the buffers on the way hold.
  a_.host.backend.script().pages = 400;
  a_.host.backend.script().page_bytes = 64 * 1024;
  b_.host.backend.script().Block("Transfer");
  ExpectStalls(vm);
}

TEST_F(StallTest, SilenceAfterTheCutIsNoStall) {
  Boot();
  a_.deps->limits.stall = milliseconds(20);
  a_.host.backend.script().Block("SwitchOver");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("SwitchOver"));
  // Far beyond the limit.
  Await(Delay(milliseconds(100)));
  a_.host.backend.script().Release("SwitchOver");
  EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
}

TEST_F(StallTest, WithoutALimitItWaits) {
  Boot();
  a_.deps->limits.stall = milliseconds(0);
  a_.host.backend.script().Block("Page");
  const std::string id = Migrate();
  Await(a_.host.backend.script().WaitBlocked("Page"));
  a_.host.backend.script().Release("Page");
  EXPECT_EQ(Wait(a_, id).outcome(), v1::SESSION_OUTCOME_SUCCEEDED);
}

}  // namespace
}  // namespace ferry::migration
