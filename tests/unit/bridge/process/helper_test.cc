#include "bridge/process/helper.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include "bridge/process/child_gate.h"
#include "bridge/process/kernel_modules.h"
#include "tests/unit/bridge/run_task.h"

namespace ferry::bridge {
namespace {

SpawnSpec Script(const std::string& script) {
  SpawnSpec spec;
  spec.command = {"/bin/sh", "-c", script};
  return spec;
}

class HelperTest : public testing::Test {
 protected:
  absl::Status RunScript(const std::string& script, milliseconds limit) {
    absl::Status result;
    auto run = [](SpawnSpec spec, milliseconds limit, absl::Status* out) -> Task<void> {
      *out = co_await RunHelper(spec, limit);
    };
    RunTask(io_, run(Script(script), limit, &result));
    return result;
  }

  asio::io_context io_;
};

TEST_F(HelperTest, TellsHowItEnded) {
  EXPECT_TRUE(RunScript("exit 0", milliseconds(60'000)).ok());
  EXPECT_EQ(RunScript("exit 3", milliseconds(60'000)).message(), "/bin/sh failed with status 3");
  EXPECT_EQ(RunScript("kill -9 $$", milliseconds(60'000)).message(),
            "/bin/sh was ended by signal 9");
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST_F(HelperTest, IsKilledWithAllThatItStartedWhenItsTimeIsOver) {
  const absl::Status late = RunScript("sleep 1000 & sleep 1000", milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST_F(HelperTest, OneAtATimeIsInsideTheGate) {
  ChildGate gate(io_.get_executor());
  std::vector<std::string> events;
  auto pass = [](ChildGate* gate, AsyncEvent* go, std::vector<std::string>* events,
                 std::string name) -> Task<void> {
    const ChildGate::Pass inside = co_await gate->Enter();
    events->push_back(name + " in");
    co_await go->Wait();
    events->push_back(name + " out");
  };
  AsyncEvent go(io_.get_executor());
  Spawn(io_.get_executor(), pass(&gate, &go, &events, "a"));
  Spawn(io_.get_executor(), pass(&gate, &go, &events, "b"));
  RunReady(io_);
  EXPECT_TRUE(gate.closed());
  EXPECT_EQ(events, std::vector<std::string>{"a in"});
  go.Set();
  RunReady(io_);
  EXPECT_FALSE(gate.closed());
  EXPECT_EQ(events, (std::vector<std::string>{"a in", "a out", "b in", "b out"}));
}

TEST(KernelModulesTest, AModuleThatTheImageDoesNotHaveIsNoError) {
  EXPECT_TRUE(KernelModules("/no/such/folder").Load("erofs").ok());
  EXPECT_FALSE(KernelModules("/no/such/folder").LoadFile("erofs.ko").ok());
}

}  // namespace
}  // namespace ferry::bridge
