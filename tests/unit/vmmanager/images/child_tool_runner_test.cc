#include "vmmanager/images/child_tool_runner.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "tests/unit/vmmanager/images/images_fixture.h"
#include "tests/unit/vmmanager/next_step.h"

namespace ferry::vm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChildToolRunnerTest : public TaskTest {
 protected:
  static ToolCommand Tool(const std::string& program, std::vector<std::string> arguments) {
    ToolCommand command;
    command.program = program;
    command.arguments = std::move(arguments);
    command.deadline = milliseconds(60'000);
    return command;
  }

  // One that says who it is, and hangs.
  ToolCommand Sleeper() {
    ToolCommand command = Tool("/bin/sh", {"-c", "echo $$ >&5; exec sleep 1000"});
    command.progress = [this](absl::string_view line) {
      pid_ = std::atoi(std::string(line).c_str());
    };
    auto held = std::make_shared<int>(0);
    held_ = held;
    command.holds = std::move(held);
    return command;
  }
  static bool IsThere(pid_t pid) { return ::kill(pid, 0) == 0; }

  TestFolder folder_;
  pid_t pid_ = 0;
  std::weak_ptr<int> held_;
  ChildToolRunner runner_{io_.get_executor(), UserForTools()};
};

TEST_F(ChildToolRunnerTest, AToolEndsWithItsStatusAndItsLastWords) {
  const auto good = Await(runner_.Run(Tool("/bin/echo", {"all", "is $(well)"})));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->exit_code, 0);
  EXPECT_EQ(good->last_words, "all is $(well)");
  const auto bad = Await(runner_.Run(Tool("/bin/ls", {"/there-is-no-such-thing"})));
  ASSERT_TRUE(bad.ok()) << bad.status();
  EXPECT_NE(bad->exit_code, 0);
  EXPECT_THAT(bad->last_words, HasSubstr("No such file"));
  const absl::Status failed = Await(RunTool(runner_, Tool("/bin/ls", {"/there-is-no-such-thing"})));
  EXPECT_THAT(std::string(failed.message()), HasSubstr("ls failed with status 2: "));
}

TEST_F(ChildToolRunnerTest, OfALongTaleTheEndIsKept) {
  WriteFile(folder_.path() + "/tale", std::string(1'000'000, 'x') + "the end\n");
  const UniqueFd tale(::open((folder_.path() + "/tale").c_str(), O_RDONLY | O_CLOEXEC));
  ToolCommand command = Tool("/bin/cat", {"/proc/self/fd/3"});
  command.descriptors = {{3, tale.get()}};
  std::filesystem::permissions(folder_.path() + "/tale", std::filesystem::perms::all);
  const auto told = Await(runner_.Run(std::move(command)));
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->exit_code, 0) << told->last_words;
  EXPECT_LE(told->last_words.size(), 2048u);
  EXPECT_THAT(told->last_words, HasSubstr("xthe end"));
}

TEST_F(ChildToolRunnerTest, ProgressComesInLines) {
  std::vector<std::string> lines;
  ToolCommand command = Tool("/bin/sh", {"-c", "printf '1 2\\n2 2\\n' >&5"});
  command.progress = [&lines](absl::string_view line) { lines.emplace_back(line); };
  const auto end = Await(runner_.Run(std::move(command)));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_THAT(lines, ElementsAre("1 2", "2 2"));
}

TEST_F(ChildToolRunnerTest, WhatItPrintsIsToldWithoutItsWarnings) {
  std::string printed;
  ToolCommand command = Tool("/bin/sh", {"-c", "echo a; echo careful >&2; echo b"});
  command.output = [&printed](absl::string_view bytes) {
    printed.append(bytes.data(), bytes.size());
  };
  const auto end = Await(runner_.Run(std::move(command)));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(printed, "a\nb\n");
  EXPECT_EQ(end->last_words, "careful");
}

TEST_F(ChildToolRunnerTest, AMissingToolIsAnsweredWithItsPackage) {
  ToolCommand command = Tool("/usr/bin/no-such-tool", {});
  command.package = "no-such-package";
  const absl::Status missing = Await(runner_.Run(std::move(command))).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no-such-tool is not installed"));
  EXPECT_EQ(NextStepOf(missing), "Install it: apt-get install no-such-package");
}

TEST_F(ChildToolRunnerTest, AToolThatHangsIsEndedBeforeThatIsTold) {
  // Until it was given time enough to say who it is.
  for (milliseconds deadline(1); pid_ == 0; deadline *= 4) {
    ToolCommand command = Sleeper();
    command.deadline = deadline;
    const absl::Status late = Await(runner_.Run(std::move(command))).status();
    EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(late.message()), HasSubstr("sh did not end"));
    EXPECT_TRUE(held_.expired());
  }
  EXPECT_FALSE(IsThere(pid_));
}

TEST_F(ChildToolRunnerTest, CancellingEndsTheTool) {
  TaskScope scope(io_.get_executor());
  scope.Spawn([](ChildToolRunner* runner, ToolCommand sleep) -> Task<void> {
    (void)co_await runner->Run(std::move(sleep));
  }(&runner_, Sleeper()));
  Until([this] { return pid_ != 0; });
  EXPECT_TRUE(IsThere(pid_));
  Await(scope.CancelAndJoin());
  // What it holds is let go of when it has been reaped.
  Until([this] { return held_.expired(); });
  EXPECT_FALSE(IsThere(pid_));
}

TEST_F(ChildToolRunnerTest, WithoutAUserNoToolRuns) {
  ChildToolRunner runner(io_.get_executor(), absl::FailedPreconditionError("no user"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(runner.Run(Tool("/bin/echo", {}))).status()));
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes somebody else";
  EXPECT_TRUE(absl::IsFailedPrecondition(UserForTools("there-is-no-such-user").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(UserForTools("root").status()));
}

TEST_F(ChildToolRunnerTest, FerrysOwnToolsNeedNoWayToThem) {
  const std::string hidden = folder_.Make("hidden");
  std::filesystem::copy_file("/bin/echo", hidden + "/echo");
  std::filesystem::permissions(hidden, std::filesystem::perms::owner_all);
  ToolCommand command = Tool(hidden + "/echo", {"here"});
  command.ferrys_own = true;
  const auto end = Await(runner_.Run(std::move(command)));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->last_words, "here");
  ToolCommand missing = Tool(hidden + "/absent", {});
  missing.ferrys_own = true;
  const absl::Status refused = Await(runner_.Run(std::move(missing))).status();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("it belongs to Ferry"));
}

TEST_F(ChildToolRunnerTest, ToolsHaveNoRightsOfRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give them away";
  const auto who = Await(runner_.Run(Tool("/usr/bin/id", {"-un"})));
  ASSERT_TRUE(who.ok()) << who.status();
  EXPECT_EQ(who->last_words, "nobody");
}

}  // namespace
}  // namespace ferry::vm
