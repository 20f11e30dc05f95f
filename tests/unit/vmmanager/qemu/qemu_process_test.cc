#include "vmmanager/qemu/qemu_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <fstream>

#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {
namespace {

class QemuProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "ferry-process-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  ProcessEnd Wait(QemuProcess& process) {
    ProcessEnd end;
    auto wait = [](QemuProcess* p, ProcessEnd* into) -> Task<void> {
      *into = co_await p->WaitEnd();
    };
    Spawn(context_.get_executor(), wait(&process, &end));
    context_.restart();
    context_.run_for(std::chrono::seconds(30));
    return end;
  }

  asio::io_context context_;
  std::string folder_;
};

TEST_F(QemuProcessTest, TellsExitStatusFromSignal) {
  LaunchSpec spec;
  spec.argv = {"/bin/sh", "-c", "exit 9"};
  auto exits = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_TRUE(exits.ok()) << exits.status();
  const ProcessEnd by_itself = Wait(**exits);
  EXPECT_TRUE(by_itself.known);
  EXPECT_EQ(by_itself.exit_code, 9);
  EXPECT_EQ(by_itself.signal, 0);
  spec.argv = {"/bin/sleep", "1000"};
  auto sleeps = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_TRUE(sleeps.ok()) << sleeps.status();
  (*sleeps)->Kill();
  EXPECT_EQ(Wait(**sleeps).signal, SIGKILL);
}

TEST_F(QemuProcessTest, SaysWhyAProgramCannotRun) {
  LaunchSpec spec;
  spec.argv = {"/nonexistent/qemu"};
  auto process = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_FALSE(process.ok());
  EXPECT_NE(process.status().message().find("/nonexistent/qemu"), absl::string_view::npos);
}

TEST_F(QemuProcessTest, GivesOnlyTheNamedDescriptorsAndASessionOfItsOwn) {
  auto folder = OpenFolder(folder_);
  ASSERT_TRUE(folder.ok());
  auto socket = ListenUnix(folder->get(), "s");
  ASSERT_TRUE(socket.ok()) << socket.status();
  LaunchSpec spec;
  spec.argv = {"/bin/sh", "-c", "ls /proc/$$/fd; cut -d' ' -f1,6 /proc/$$/stat"};
  spec.stderr_path = folder_ + "/log";
  spec.descriptors[12] = socket->get();
  auto process = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(Wait(**process).exit_code, 0);
  const std::string pid = std::to_string((*process)->pid());
  EXPECT_EQ(FileTail(spec.stderr_path, 4096), "0\n1\n12\n2\n" + pid + " " + pid);
}

TEST_F(QemuProcessTest, HasTheNicenessThatWasAskedFor) {
  LaunchSpec spec;
  spec.argv = {"/bin/sh", "-c", "cut -d' ' -f19 /proc/$$/stat"};
  spec.stderr_path = folder_ + "/log";
  spec.niceness = 7;
  auto process = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(Wait(**process).exit_code, 0);
  EXPECT_EQ(FileTail(spec.stderr_path, 4096), "7");
}

TEST_F(QemuProcessTest, AdoptsOnlyTheVeryProcess) {
  LaunchSpec spec;
  spec.argv = {"/bin/sleep", "1000"};
  auto process = QemuProcess::Launch(context_.get_executor(), spec);
  ASSERT_TRUE(process.ok()) << process.status();
  const pid_t pid = (*process)->pid();
  const uint64_t start = (*process)->start_time();
  EXPECT_TRUE(QemuProcess::Adopt(context_.get_executor(), pid, start).ok());
  EXPECT_TRUE(
      absl::IsNotFound(QemuProcess::Adopt(context_.get_executor(), pid, start + 1).status()));
  (*process)->Kill();
  EXPECT_EQ(Wait(**process).signal, SIGKILL);
  EXPECT_TRUE(absl::IsNotFound(QemuProcess::Adopt(context_.get_executor(), pid, start).status()));
}

TEST_F(QemuProcessTest, TailIsCutAtALine) {
  const std::string path = folder_ + "/text";
  { std::ofstream(path) << "first line\nsecond\nthird\n"; }
  EXPECT_EQ(FileTail(path, 1000), "first line\nsecond\nthird");
  EXPECT_EQ(FileTail(path, 15), "second\nthird");
  EXPECT_EQ(FileTail(folder_ + "/none", 15), "");
}

TEST_F(QemuProcessTest, SocketsWorkInFoldersWithLongPaths) {
  const std::string deep = folder_ + "/" + std::string(150, 'd');
  std::filesystem::create_directories(deep);
  auto folder = OpenFolder(deep);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_TRUE(absl::IsNotFound(ConnectUnix(folder->get(), "s").status()));
  auto listening = ListenUnix(folder->get(), "s");
  ASSERT_TRUE(listening.ok()) << listening.status();
  EXPECT_TRUE(ConnectUnix(folder->get(), "s").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckUnixPath(deep + "/s")));
  EXPECT_TRUE(CheckUnixPath("/run/s").ok());
}

}  // namespace
}  // namespace ferry::vm
