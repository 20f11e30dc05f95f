#include "guestmanager/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::guest {
namespace {

// A kind of process that nobody reaches through a guest's bridge.
class UnbridgedProcess : public Process {
 public:
  UnbridgedProcess() { spec_.command = {"sleep", "5"}; }
  uint32_t pid() const override { return 42; }
  const ProcessSpec& spec() const override { return spec_; }
  uint64_t created_unix_ms() const override { return 1; }
  std::optional<ExitStatus> exit_status() const override { return std::nullopt; }
  bool attached() const override { return false; }
  Task<absl::StatusOr<ExitStatus>> Wait() override { co_return Never(); }
  Task<absl::StatusOr<bool>> Signal(uint32_t) override { co_return Never(); }
  Task<absl::Status> ResizeConsole(uint32_t, uint32_t) override { co_return Never(); }
  Task<void> AwaitInput(std::string) override { co_return; }
  void SettleInput() override {}
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(AttachOptions, AttachSink&) override {
    return Never();
  }

 private:
  static absl::Status Never() { return absl::UnimplementedError("not in this test"); }
  ProcessSpec spec_;
};

// Has what its test says.
class StatedProcess final : public UnbridgedProcess {
 public:
  ProcessState migration_state() const override { return state; }
  ProcessState state;
};

TEST(ProcessTest, OneWithoutABridgeHasTheZeroValueAsItsState) {
  const ProcessState state = UnbridgedProcess().migration_state();
  EXPECT_EQ(state.pid, 0u);
  EXPECT_EQ(state.container_id, "");
  EXPECT_TRUE(state.spec.command.empty());
  EXPECT_EQ(state.stdin_port, 0u);
  EXPECT_EQ(state.stdout_port, 0u);
  EXPECT_EQ(state.stderr_port, 0u);
  EXPECT_EQ(state.wait_call_id, 0);
  EXPECT_FALSE(state.exit_status.has_value());
}

TEST(ProcessTest, OneWithoutABridgeIsNamedAndNotCarried) {
  const absl::Status refused = StateToCarry(UnbridgedProcess()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(refused.message(),
            "process 42 (sleep 5) has no bridge to the guest and can't be carried over");
}

TEST(ProcessTest, OneWithPortsNeedsAWaitUnlessItHasExited) {
  StatedProcess process;
  process.state.stdout_port = 7;
  const absl::Status refused = StateToCarry(process).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              testing::HasSubstr("process 42 (sleep 5) has no pending wait"));
  process.state.wait_call_id = 9;
  ASSERT_TRUE(StateToCarry(process).ok());
  EXPECT_EQ(StateToCarry(process)->wait_call_id, 9);
  process.state.wait_call_id = 0;
  process.state.exit_status = ExitStatus{ExitStatus::Kind::kCode, 0};
  EXPECT_TRUE(StateToCarry(process).ok());
}

}  // namespace
}  // namespace ferry::guest
