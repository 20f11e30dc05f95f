#include "bridge/process/helper.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

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
    auto run = [](SpawnSpec spec, milliseconds limit, HelperPids* pids,
                  absl::Status* out) -> Task<void> {
      *out = co_await RunHelper(spec, limit, pids);
    };
    RunTask(io_, run(Script(script), limit, &pids_, &result));
    return result;
  }

  asio::io_context io_;
  HelperPids pids_;
};

TEST_F(HelperTest, TellsHowItEnded) {
  EXPECT_TRUE(RunScript("exit 0", milliseconds(60'000)).ok());
  EXPECT_EQ(RunScript("exit 3", milliseconds(60'000)).message(), "/bin/sh failed with status 3");
  EXPECT_EQ(RunScript("kill -9 $$", milliseconds(60'000)).message(),
            "/bin/sh was ended by signal 9");
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
}

TEST_F(HelperTest, AProgramThatIsMissingIsAFaultOfTheGuest) {
  SpawnSpec spec;
  spec.command = {"/no/such/program"};
  EXPECT_EQ(Helper::Spawn(spec).status().code(), absl::StatusCode::kInternal);
}

TEST_F(HelperTest, IsKilledWhenItsTimeIsOver) {
  const absl::Status late = RunScript("exec sleep 1000", milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  int status = 0;
  if (waitpid(-1, &status, 0) > 0) {
    EXPECT_EQ(WTERMSIG(status), SIGKILL);
  }
}

TEST_F(HelperTest, IsKilledWithAllThatItStarted) {
  SpawnSpec spec = Script("sleep 1000 & echo on; exec sleep 1000");
  spec.want_stdout = true;
  absl::StatusOr<SpawnedProcess> spawned = Helper::Spawn(spec);
  ASSERT_TRUE(spawned.ok()) << spawned.status();
  std::optional<Helper> helper(std::in_place, io_.get_executor(), *spawned, pids_);
  char text[8];
  ASSERT_EQ(read(spawned->std_out.get(), text, sizeof(text)), 3);
  helper.reset();
  // Both hold the writing end for as long as they live.
  EXPECT_EQ(read(spawned->std_out.get(), text, sizeof(text)), 0);
  waitpid(spawned->pid, nullptr, 0);
}

// Holds back the end of a child of this process: its parent is told only after its tracer was.
class Tracer {
 public:
  explicit Tracer(pid_t pid) {
    int ready[2];
    if (pipe(ready) != 0 || pipe(release_) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      close(release_[1]);
      const char attached = ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) == 0 ? 'y' : 'n';
      char byte;
      if (write(ready[1], &attached, 1) != 1 || read(release_[0], &byte, 1) != 0) _exit(1);
      _exit(0);
    }
    char answer = 'n';
    attached_ = read(ready[0], &answer, 1) == 1 && answer == 'y';
    for (const int end : {ready[0], ready[1], release_[0]}) close(end);
  }
  ~Tracer() {
    close(release_[1]);
    waitpid(pid_, nullptr, 0);
  }
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;
  bool attached() const { return attached_; }

 private:
  int release_[2] = {-1, -1};
  pid_t pid_ = -1;
  bool attached_ = false;
};

// Without this, an agent would stand still with a program that a disk holds.
TEST_F(HelperTest, OneThatDoesNotDieIsLeftToTheReaper) {
  absl::StatusOr<SpawnedProcess> spawned = Helper::Spawn(Script("exec sleep 1000"));
  ASSERT_TRUE(spawned.ok()) << spawned.status();
  const pid_t pid = spawned->pid;
  {
    std::optional<Helper> helper(std::in_place, io_.get_executor(), *spawned, pids_);
    EXPECT_TRUE(pids_.Contains(pid));
    const Tracer tracer(pid);
    ASSERT_TRUE(tracer.attached());
    helper.reset();
    EXPECT_FALSE(pids_.Contains(pid));
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  }
  EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
}

class ChildGateTest : public HelperTest {
 protected:
  static Task<void> GoThrough(ChildGate* gate, AsyncEvent* go, std::vector<std::string>* events,
                              std::string name, milliseconds limit) {
    const absl::StatusOr<ChildGate::Pass> inside = co_await gate->Enter(limit);
    events->push_back(name + (inside.ok() ? " in" : " late"));
    if (!inside.ok()) co_return;
    co_await go->Wait();
    events->push_back(name + " out");
  }
};

TEST_F(ChildGateTest, OneAtATimeIsInsideAndTheReaperComesBetween) {
  std::vector<std::string> events;
  ChildGate gate(io_.get_executor(), [&events, &gate] {
    events.push_back(gate.closed() ? "collect inside" : "collect");
  });
  AsyncEvent go(io_.get_executor());
  const milliseconds limit(600'000);
  Spawn(io_.get_executor(), GoThrough(&gate, &go, &events, "a", limit));
  Spawn(io_.get_executor(), GoThrough(&gate, &go, &events, "b", limit));
  RunReady(io_);
  EXPECT_TRUE(gate.closed());
  EXPECT_EQ(events, std::vector<std::string>{"a in"});
  go.Set();
  RunReady(io_);
  EXPECT_FALSE(gate.closed());
  EXPECT_EQ(events,
            (std::vector<std::string>{"a in", "a out", "collect", "b in", "b out", "collect"}));
}

TEST_F(ChildGateTest, WhoWaitsTooLongLeavesTheLine) {
  std::vector<std::string> events;
  ChildGate gate(io_.get_executor(), nullptr);
  AsyncEvent go(io_.get_executor());
  Spawn(io_.get_executor(), GoThrough(&gate, &go, &events, "a", milliseconds(600'000)));
  RunTask(io_, GoThrough(&gate, &go, &events, "b", milliseconds(1)));
  EXPECT_EQ(events, (std::vector<std::string>{"a in", "b late"}));
  go.Set();
  RunTask(io_, GoThrough(&gate, &go, &events, "c", milliseconds(600'000)));
  EXPECT_EQ(events.back(), "c out");
  EXPECT_FALSE(gate.closed());
}

TEST(KernelModulesTest, AModuleThatTheImageDoesNotHaveIsNoError) {
  EXPECT_TRUE(KernelModules("/no/such/folder").Load("erofs").ok());
  EXPECT_FALSE(KernelModules("/no/such/folder").LoadFile("erofs.ko").ok());
}

}  // namespace
}  // namespace ferry::bridge
