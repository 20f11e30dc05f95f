#include "vmmanager/images/child_tool_runner.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

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

  TestFolder folder_;
  ChildToolRunner runner_{io_.get_executor(), UserForTools(std::nullopt)};
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

TEST_F(ChildToolRunnerTest, AMissingToolIsAnsweredWithItsPackage) {
  ToolCommand command = Tool("/usr/bin/no-such-tool", {});
  command.package = "no-such-package";
  const absl::Status missing = Await(runner_.Run(std::move(command))).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("no-such-tool is not installed"));
  EXPECT_EQ(NextStepOf(missing), "Install it: apt-get install no-such-package");
}

TEST_F(ChildToolRunnerTest, AToolThatHangsIsEnded) {
  ToolCommand command = Tool("/bin/sleep", {"1000"});
  command.deadline = milliseconds(1);
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = held;
  command.holds = std::move(held);
  const absl::Status late = Await(runner_.Run(std::move(command))).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("sleep did not end"));
  // What it holds is let go of when it has been reaped.
  Until([&] { return watched.expired(); });
}

TEST_F(ChildToolRunnerTest, CancellingEndsTheTool) {
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = held;
  TaskScope scope(io_.get_executor());
  ToolCommand command = Tool("/bin/sleep", {"1000"});
  command.holds = std::move(held);
  scope.Spawn([](ChildToolRunner* runner, ToolCommand sleep) -> Task<void> {
    (void)co_await runner->Run(std::move(sleep));
  }(&runner_, std::move(command)));
  Settle();
  Await(scope.CancelAndJoin());
  Until([&] { return watched.expired(); });
}

TEST_F(ChildToolRunnerTest, ToolsHaveNoRightsOfRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give them away";
  const auto who = Await(runner_.Run(Tool("/usr/bin/id", {"-un"})));
  ASSERT_TRUE(who.ok()) << who.status();
  EXPECT_EQ(who->last_words, "nobody");
}

}  // namespace
}  // namespace ferry::vm
