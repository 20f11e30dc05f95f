#include "vmmanager/qemu/console_log.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/bridge/task_test.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

class ConsoleLogTest : public TaskTest {
 protected:
  ConsoleLogTest() {
    std::string pattern = ::testing::TempDir() + "ferry-console-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~ConsoleLogTest() override {
    if (log_) log_->Close();
    Settle();
    std::filesystem::remove_all(folder_);
  }

  // A guest with a console, and whoever reads it.
  void Start(uint64_t limit = 100) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    guest_.Reset(ends[0]);
    log_ = ConsoleLog::Start(io_.get_executor(), UniqueFd(ends[1]), *OpenFolder(folder_), limit);
  }
  void Say(const std::string& text) {
    ASSERT_EQ(::send(guest_.get(), text.data(), text.size(), MSG_DONTWAIT),
              static_cast<ssize_t>(text.size()));
  }
  std::string File(const char* name) const {
    std::ifstream file(folder_ + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string folder_;
  UniqueFd guest_;
  std::shared_ptr<ConsoleLog> log_;
};

TEST_F(ConsoleLogTest, KeepsTheNewestInTwoBoundedFiles) {
  Start();
  std::string all;
  for (int i = 0; i < 200; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    all += line;
    Say(line);
    Settle();
    const std::string kept = File(ConsoleLog::kFormerName) + File(ConsoleLog::kName);
    ASSERT_LE(kept.size(), 200u);
    ASSERT_GE(kept.size(), std::min<size_t>(all.size(), 100));
    ASSERT_TRUE(all.ends_with(kept));
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 2);
}

TEST_F(ConsoleLogTest, OneWordLongerThanAllFilesIsCutToItsEnd) {
  Start();
  Say(std::string(1000, 'a') + std::string(150, 'b'));
  Settle();
  EXPECT_EQ(File(ConsoleLog::kName), std::string(50, 'b'));
  EXPECT_EQ(File(ConsoleLog::kFormerName), std::string(100, 'b'));
}

TEST_F(ConsoleLogTest, LastWordsAreThereAtOnce) {
  Start();
  Say("Kernel panic\n");
  guest_.Reset();  // and it ends
  log_->Drain();
  EXPECT_EQ(ConsoleTail(folder_, 1024), "Kernel panic");
}

TEST_F(ConsoleLogTest, TheTailReachesIntoTheFormerFile) {
  Start();
  Say(std::string(95, 'a') + "\nfour");
  Say("teen\n");
  Settle();
  EXPECT_EQ(File(ConsoleLog::kName), "teen\n");
  EXPECT_NE(ConsoleTail(folder_, 50).find("teen"), std::string::npos);
  EXPECT_NE(ConsoleTail(folder_, 50).find("four"), std::string::npos);
}

TEST_F(ConsoleLogTest, AnotherDaemonGoesOnBehindIt) {
  Start();
  Say("before\n");
  Settle();
  log_->Close();
  Start();
  Say("after\n");
  Settle();
  EXPECT_EQ(File(ConsoleLog::kName), "before\nafter\n");
}

TEST_F(ConsoleLogTest, ALinkInItsPlaceIsNotFollowed) {
  std::ofstream(folder_ + "/elsewhere") << "mine";
  std::filesystem::create_symlink(folder_ + "/elsewhere", folder_ + "/console.log");
  Start();
  Say("hello\n");
  Settle();
  EXPECT_EQ(File("elsewhere"), "mine");
}

}  // namespace
}  // namespace ferry::vm
