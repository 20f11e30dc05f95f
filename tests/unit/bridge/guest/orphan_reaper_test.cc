#include "bridge/guest/orphan_reaper.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>

#include "bridge/runtime/async.h"

namespace ferry::bridge {
namespace {

// A child that lives until it is told otherwise, or with this process.
class Child {
 public:
  Child() : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) pause();
  }
  ~Child() {
    if (!listed()) return;  // collected: its number may be another's
    End();
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Returns when it has ended; nobody has collected it then.
  void End() {
    kill(pid_, SIGKILL);
    siginfo_t info = {};
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  pid_t pid() const { return pid_; }
  bool listed() const {
    const std::vector<pid_t> all = ListChildren();
    return std::find(all.begin(), all.end(), pid_) != all.end();
  }

 private:
  pid_t pid_;
};

class OrphanReaperTest : public testing::Test {
 protected:
  void Start(pid_t owned) {
    scope_.Spawn(
        ReapOrphans([owned](uint32_t pid) { return pid == static_cast<uint32_t>(owned); }));
  }
  ~OrphanReaperTest() override {
    scope_.Cancel();
    io_.restart();
    io_.poll();
  }

  bool RunUntilGone(const Child& child) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (child.listed()) {
      if (io_.run_one_until(limit) == 0) return false;
    }
    return true;
  }

  asio::io_context io_;
  TaskScope scope_{io_.get_executor()};
};

TEST_F(OrphanReaperTest, CollectsWhatEndsAndKeepsWhatIsOwed) {
  Child owed;
  Child orphan;
  Start(owed.pid());
  io_.poll();
  // The owed one is the first zombie, and must not hide the other.
  owed.End();
  EXPECT_TRUE(orphan.listed());
  orphan.End();
  EXPECT_TRUE(RunUntilGone(orphan));
  EXPECT_TRUE(owed.listed());
  int status = 0;
  ASSERT_EQ(waitpid(owed.pid(), &status, 0), owed.pid());
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST_F(OrphanReaperTest, CollectsWhatHadEndedBeforeItStarted) {
  Child orphan;
  orphan.End();
  Start(0);
  EXPECT_TRUE(RunUntilGone(orphan));
}

}  // namespace
}  // namespace ferry::bridge
