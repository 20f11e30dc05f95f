#include "vmmanager/sandbox/wrong_state.h"

#include <gmock/gmock.h>

#include "tests/unit/vmmanager/next_step.h"

namespace ferry::vm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Next(v1::VmState state, absl::string_view operation) {
  return NextStep({"web", state, "session-1"}, operation);
}

TEST(WrongState, NextStepFitsTheState) {
  EXPECT_THAT(Next(v1::VM_STATE_STOPPED, "paused"), HasSubstr("ferryctl start web"));
  EXPECT_THAT(Next(v1::VM_STATE_STARTING, "used"), HasSubstr("Wait until it has started"));
  EXPECT_THAT(Next(v1::VM_STATE_PAUSED, "started"), HasSubstr("ferryctl vm resume web"));
  EXPECT_THAT(Next(v1::VM_STATE_STOPPING, "used"),
              AllOf(HasSubstr("Wait until it has stopped"), HasSubstr("ferryctl start web")));
  EXPECT_THAT(Next(v1::VM_STATE_SAVED, "used"), HasSubstr("ferryctl start web"));
  EXPECT_THAT(Next(v1::VM_STATE_SAVED, "deleted"), HasSubstr("delete --force web"));
  EXPECT_THAT(Next(v1::VM_STATE_SAVED, "restarted"), HasSubstr("--discard-saved web"));
  EXPECT_THAT(Next(v1::VM_STATE_SAVING, "stopped"), HasSubstr("inspect web"));
  EXPECT_THAT(Next(v1::VM_STATE_RESTORING, "used"), HasSubstr("inspect web"));
  EXPECT_THAT(Next(v1::VM_STATE_FAILED, "used"),
              AllOf(HasSubstr("ferryctl vm inspect web"), HasSubstr("ferryctl start web"),
                    HasSubstr("ferryctl vm delete web")));
  for (const v1::VmState held :
       {v1::VM_STATE_MIGRATING_OUT, v1::VM_STATE_INCOMING, v1::VM_STATE_IN_DOUBT}) {
    EXPECT_THAT(Next(held, "stopped"), HasSubstr("ferryctl migration watch session-1"));
  }
}

TEST(WrongState, NextStepFitsTheOperation) {
  EXPECT_THAT(Next(v1::VM_STATE_RUNNING, "deleted"), HasSubstr("ferryctl stop web"));
  EXPECT_THAT(Next(v1::VM_STATE_RUNNING, "used"), Not(HasSubstr("ferryctl stop")));
  EXPECT_THAT(Next(v1::VM_STATE_PAUSED, "stopped"),
              AllOf(HasSubstr("ferryctl vm resume web"), HasSubstr("ferryctl stop --force web")));
  EXPECT_THAT(Next(v1::VM_STATE_PAUSED, "deleted"), Not(HasSubstr("resume")));
  EXPECT_THAT(Next(v1::VM_STATE_RUNNING, "restored"), HasSubstr("ferryctl stop --no-save web"));
  EXPECT_THAT(Next(v1::VM_STATE_PAUSED, "restored"), HasSubstr("ferryctl stop --force web"));
}

TEST(WrongState, EveryStateHasANextStep) {
  for (int state = v1::VM_STATE_UNSPECIFIED + 1; state < v1::VmState_ARRAYSIZE; ++state) {
    ASSERT_TRUE(v1::VmState_IsValid(state));
    EXPECT_NE(Next(static_cast<v1::VmState>(state), "used"), "") << state;
  }
}

TEST(WrongState, IsAFailedPreconditionThatCarriesIt) {
  const absl::Status status = WrongState({"web", v1::VM_STATE_STOPPED, ""}, "paused", "no");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "no");
  EXPECT_EQ(NextStepOf(status), "Start it first: ferryctl start web");
  EXPECT_EQ(rpc::ReasonOf(status), "wrong_state");
}

}  // namespace
}  // namespace ferry::vm
