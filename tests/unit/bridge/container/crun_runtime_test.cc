#include "bridge/container/crun_runtime.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "bridge/protocol/run_failure.h"
#include "tests/unit/bridge/task_test.h"

namespace ferry::bridge {
namespace {

const std::string kId(64, '1');

// Finds in its command line what crun would, then does as the test says.
constexpr char kScript[] = R"(#!/bin/sh
folder=$(dirname $0)
log=$6
verb=$7
echo "$verb" >>$folder/verbs
while [ $# -gt 0 ]; do
  if [ "$1" = --pid-file ]; then pid_file=$2; fi
  if [ "$1" = --process ] || [ "$1" = --resources ]; then cp $2 $folder/input; fi
  shift
done
# A process that outlives it, as a container's does.
leave() { sleep 1000 <&- >&- 2>&- & echo $! >$pid_file; echo $! >$folder/left; }
)";

class CrunRuntimeTest : public TaskTest {
 protected:
  CrunRuntimeTest() {
    // What crun leaves behind comes to this process, as it comes to process 1.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    options_.program = folder_.path() + "/crun";
    options_.state_folder = folder_.Make("state");
    options_.work_folder = folder_.path() + "/work";
    options_.cgroup_root = folder_.Make("cgroup");
    std::filesystem::create_directories(CgroupFolder());
  }

  ~CrunRuntimeTest() override { prctl(PR_SET_CHILD_SUBREAPER, 0); }

  std::string CgroupFolder() const { return options_.cgroup_root + "/containers/" + kId; }

  CrunRuntime& Runtime(const std::string& script) {
    std::ofstream(options_.program) << kScript << script << "\n";
    chmod(options_.program.c_str(), 0755);
    return runtime_.emplace(io_.get_executor(), options_, pids_);
  }

  // Statuses that can be copied.
  using Launched = absl::StatusOr<std::shared_ptr<SpawnedProcess>>;
  static Task<Launched> Share(Task<absl::StatusOr<SpawnedProcess>> task) {
    absl::StatusOr<SpawnedProcess> made = co_await std::move(task);
    if (!made.ok()) co_return made.status();
    co_return std::make_shared<SpawnedProcess>(*std::move(made));
  }

  Launched Exec(const std::string& script, const std::string& process, bool terminal) {
    ContainerStdio stdio;
    stdio.terminal = terminal;
    return Await(Share(Runtime(script).Exec(kId, process, stdio)));
  }

  std::string Line(const std::string& name) const {
    std::string line;
    std::getline(std::ifstream(folder_.path() + "/" + name), line);
    return line;
  }

  // Returns when the process that crun has left behind has ended: by which signal.
  int SignalThatEndedWhatWasLeft() const {
    int status = 0;
    const pid_t pid = std::stoi(Line("left"));
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }

  bool LeftNoFiles() const { return std::filesystem::is_empty(options_.work_folder); }

  TestFolder folder_;
  CrunRuntime::Options options_;
  HelperPids pids_;
  std::optional<CrunRuntime> runtime_;
};

TEST_F(CrunRuntimeTest, AnExecsProcessIsTheOneThatCrunHasToldOf) {
  const auto exec = Exec("leave", "{\"args\":[]}", /*terminal=*/false);
  ASSERT_TRUE(exec.ok()) << exec.status();
  EXPECT_EQ(std::to_string((*exec)->pid), Line("left"));
  EXPECT_TRUE((*exec)->pidfd.valid() && (*exec)->std_in.valid() && (*exec)->std_err.valid());
  EXPECT_EQ(Line("input"), "{\"args\":[]}");
  EXPECT_TRUE(LeftNoFiles());
  kill((*exec)->pid, SIGTERM);
  EXPECT_EQ(SignalThatEndedWhatWasLeft(), SIGTERM);
}

TEST_F(CrunRuntimeTest, AnExecThatFailsLeavesNoProcess) {
  const auto exec = Exec("leave; exit 1", "{}", /*terminal=*/false);
  EXPECT_EQ(exec.status().message(), "crun failed with status 1");
  EXPECT_EQ(SignalThatEndedWhatWasLeft(), SIGKILL);
}

TEST_F(CrunRuntimeTest, AnExecWithoutItsTerminalLeavesNoProcess) {
  const auto exec = Exec("leave", "{}", /*terminal=*/true);
  EXPECT_EQ(exec.status().message().substr(0, 27), "no terminal was handed over");
  EXPECT_EQ(SignalThatEndedWhatWasLeft(), SIGKILL);
}

TEST_F(CrunRuntimeTest, AnErrorIsTheLastThingThatCrunSaid) {
  const absl::Status status =
      Await(Runtime("for i in $(seq 1000); do echo 2023-01-02T03:04:05Z: more >>$log; done\n"
                    "echo 2023-01-02T03:04:05Z: the cause >>$log; exit 1")
                .Start(kId));
  EXPECT_EQ(status, absl::InternalError("crun: the cause"));
  EXPECT_TRUE(LeftNoFiles());
}

TEST_F(CrunRuntimeTest, ThatAProgramIsMissingIsToldBesideTheWords) {
  const auto exec =
      Exec("echo '2023-01-02T03:04:05Z: executable file `x` not found' >>$log; exit 1", "{}",
           /*terminal=*/false);
  EXPECT_EQ(exec.status().message(), "crun: executable file `x` not found");
  EXPECT_EQ(RunFailureOf(exec.status()), RunFailure::kNoProgram);
}

TEST_F(CrunRuntimeTest, ThatCrunIsMissingIsNotThatAContainerIs) {
  CrunRuntime runtime(io_.get_executor(), options_, pids_);
  EXPECT_EQ(Await(runtime.Delete(kId)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Await(Share(runtime.Create(kId, "/b", ContainerStdio()))).status().code(),
            absl::StatusCode::kInternal);
}

TEST_F(CrunRuntimeTest, OneThatTakesTooLongIsGivenUp) {
  options_.limit = milliseconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(Runtime("sleep 1000").Resume(kId))));
  while (waitpid(-1, nullptr, 0) > 0) {
  }
}

TEST_F(CrunRuntimeTest, AContainerIsPausedWhenItsProcessesStandStill) {
  options_.freeze_limit = milliseconds(1);
  std::ofstream(CgroupFolder() + "/cgroup.events") << "populated 1\nfrozen 0\n";
  EXPECT_TRUE(absl::IsDeadlineExceeded(Await(Runtime("exit 0").Pause(kId))));
  const std::string freeze = absl::StrCat("echo frozen 1 >", CgroupFolder(), "/cgroup.events");
  EXPECT_TRUE(Await(Runtime(freeze).Pause(kId)).ok());
}

TEST_F(CrunRuntimeTest, EachVerbHasItsName) {
  CrunRuntime& runtime = Runtime("exit 0");
  EXPECT_TRUE(Await(runtime.Start(kId)).ok());
  EXPECT_TRUE(Await(runtime.Resume(kId)).ok());
  EXPECT_TRUE(Await(runtime.Update(kId, "{\"pids\":{}}")).ok());
  EXPECT_EQ(Line("input"), "{\"pids\":{}}");
  EXPECT_TRUE(Await(runtime.Delete(kId)).ok());
  std::ifstream file(folder_.path() + "/verbs");
  std::string verbs;
  for (std::string verb; file >> verb;) verbs += verb + ";";
  EXPECT_EQ(verbs, "start;resume;update;delete;");
}

}  // namespace
}  // namespace ferry::bridge
