#include <gmock/gmock.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "tests/unit/tools/ferryctl/container_commands_fixture.h"
#include "tools/ferryctl/exit_codes.h"
#include "tools/ferryctl/process_exit.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(ContainerCommandsTest, RunHasTheOutputAndTheStatusOfTheCommand) {
  EXPECT_EQ(Ferryctl({"run", "-e", "A=b", "--memory", "64m", "web", "ls", "-l", "--host", "x"}), 3);
  EXPECT_EQ(printed_, "hello\n");
  EXPECT_EQ(said_, "");
  const v1::CreateContainerRequest& created = containers_.created;
  EXPECT_EQ(created.spec().image(), "web");
  EXPECT_THAT(created.spec().command(), ElementsAre("ls", "-l", "--host", "x"));
  EXPECT_THAT(created.spec().environment(), ElementsAre("A=b"));
  EXPECT_EQ(created.new_vm().memory_mb(), 256u);
  EXPECT_FALSE(created.request_id().empty());
  EXPECT_FALSE(created.spec().detached());
  EXPECT_TRUE(process_.exit_taken);
  EXPECT_THAT(containers_.removed, IsEmpty());
}

TEST_F(ContainerCommandsTest, RunDetachedPrintsTheId) {
  EXPECT_EQ(Ferryctl({"run", "-d", "--vm", "one", "--name", "shop", "web", "--", "sleep", "9"}),
            kOk);
  EXPECT_EQ(printed_, "id-of-shop\n");
  EXPECT_EQ(containers_.created.vm(), "one");
  EXPECT_TRUE(containers_.created.spec().detached());
  EXPECT_THAT(containers_.created.spec().command(), ElementsAre("sleep", "9"));
  EXPECT_EQ(containers_.containers["shop"].state(), v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(process_.opens, 0);
}

TEST_F(ContainerCommandsTest, RunWithRmLeavesNothing) {
  EXPECT_EQ(Ferryctl({"run", "--rm", "web"}), 3);
  EXPECT_TRUE(containers_.created.spec().remove_when_stopped());
  EXPECT_THAT(containers_.removed, ElementsAre("made-up!"));
}

TEST_F(ContainerCommandsTest, RunSaysWhyNothingCouldBeMade) {
  containers_.create_status = rpc::ErrorWithReason(absl::StatusCode::kNotFound, "no image web",
                                                   "no_image", "ferryctl image list shows all.");
  EXPECT_EQ(Ferryctl({"run", "web"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("running image web failed: no image web\n"));
  EXPECT_THAT(said_, HasSubstr("Next:     ferryctl image list"));
  EXPECT_THAT(containers_.removed, IsEmpty());
}

TEST_F(ContainerCommandsTest, RunTakesBackWhatHasNoFoldersThoughItWasToHaveThem) {
  containers_.knows_mounts = false;
  EXPECT_EQ(Ferryctl({"run", "--stays", "-v", "/a:/b", "web"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("newer ferryd"));
  EXPECT_THAT(containers_.removed, ElementsAre("made-up!"));
  EXPECT_EQ(printed_, "");
}

TEST_F(ContainerCommandsTest, RunTakesBackWhatCannotBeStarted) {
  containers_.start_status =
      rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "no such program", "no_program");
  EXPECT_EQ(Ferryctl({"run", "web", "nonsense"}), kNoProgram);
  EXPECT_THAT(containers_.removed, ElementsAre("made-up!"));
}

TEST_F(ContainerCommandsTest, RunInAPodGoesToThePodsVm) {
  containers_.Add("shop", v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(Ferryctl({"run", "-d", "--pod", "shop", "web"}), kOk);
  EXPECT_EQ(containers_.created.vm(), "vm-1");
  EXPECT_EQ(containers_.created.spec().pod(), "id-of-shop");
  EXPECT_EQ(Ferryctl({"run", "-d", "--pod", "none", "web"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("no container \"none\""));
}

TEST_F(ContainerCommandsTest, WrongUsageOfRunIs125) {
  EXPECT_EQ(Ferryctl({"run"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"run", "-v", "/a:/b", "web"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("could not move with the container"));
  EXPECT_EQ(Ferryctl({"run", "-e", "NOVALUE", "web"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"run", "--cpus", "many", "web"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"run", "--read-only", "--scratch-size", "1G", "web"}), kExecFailed);
  EXPECT_TRUE(containers_.created.request_id().empty());
}

// stderr as a pipe, so that it can be waited for.
class StderrPipe {
 public:
  StderrPipe() : saved_(::dup(2)) {
    if (::pipe(ends_) != 0) std::abort();
    ::dup2(ends_[1], 2);
  }
  ~StderrPipe() {
    ::dup2(saved_, 2);
    for (const int fd : {saved_, ends_[0], ends_[1]}) ::close(fd);
  }
  void WaitFor(const std::string& text) {
    std::string seen;
    char piece[256];
    while (!absl::StrContains(seen, text)) {
      const ssize_t got = ::read(ends_[0], piece, sizeof(piece));
      if (got <= 0) std::abort();
      seen.append(piece, static_cast<size_t>(got));
    }
  }

 private:
  int saved_;
  int ends_[2];
};

class RunInterruptedTest : public ContainerCommandsTest {
 protected:
  // Runs `run web`, whose container is not made before gate() is set, and calls `then` once it is
  // asked for.
  int Interrupted(std::function<void(StderrPipe*)> then) {
    StderrPipe stderr_pipe;
    containers_.gate().Reset();
    std::thread hand;
    auto wait = [](RunInterruptedTest* self, std::function<void(StderrPipe*)> act, StderrPipe* pipe,
                   std::thread* thread) -> Task<void> {
      co_await self->containers_.asked().Wait();
      *thread = std::thread([act, pipe] { act(pipe); });
    };
    OnServer([&] { Spawn(io_.get_executor(), wait(this, then, &stderr_pipe, &hand)); });
    const std::string host = "unix:" + folder_.path() + "/d.sock";
    const std::vector<const char*> words = {"ferryctl", "--host", host.c_str(), "run", "web"};
    const int code = RunFerryctl(static_cast<int>(words.size()), words.data());
    hand.join();
    return code;
  }
};

TEST_F(RunInterruptedTest, CtrlCTakesBackWhatIsBeingMade) {
  const int code = Interrupted([this](StderrPipe* pipe) {
    ::raise(SIGINT);
    pipe->WaitFor("Calling it off");
    OnServer([this] { containers_.gate().Set(); });
  });
  EXPECT_EQ(code, 128 + SIGINT);
  EXPECT_THAT(containers_.removed, ElementsAre("made-up!"));
  EXPECT_EQ(process_.opens, 0);
}

TEST_F(RunInterruptedTest, TwoLeaveAtOnce) {
  const int code = Interrupted([](StderrPipe* pipe) {
    ::raise(SIGINT);
    pipe->WaitFor("Calling it off");
    ::raise(SIGINT);
    pipe->WaitFor("the daemon takes back what it has made");
  });
  EXPECT_EQ(code, 128 + SIGINT);
  OnServer([this] { containers_.gate().Set(); });
}

TEST_F(ContainerCommandsTest, CreateOnlyMakesIt) {
  EXPECT_EQ(Ferryctl({"container", "create", "--name", "shop", "web"}), kOk);
  EXPECT_EQ(printed_, "id-of-shop\n");
  EXPECT_EQ(containers_.containers["shop"].state(), v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"container", "attach", "shop"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("ferryctl container start -a shop"));
  EXPECT_EQ(Ferryctl({"container", "start", "-a", "shop"}), 3);
  EXPECT_EQ(printed_, "hello\n");
  containers_.create_status = absl::NotFoundError("no image web");
  EXPECT_EQ(Ferryctl({"container", "create", "web"}), kRefused);
}

TEST_F(ContainerCommandsTest, ListsAndInspects) {
  containers_.Add("shop", v1::CONTAINER_STATE_RUNNING);
  containers_.Add("old", v1::CONTAINER_STATE_STOPPED);
  EXPECT_EQ(Ferryctl({"container", "list", "--vm", "one"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("\nshop "));
  EXPECT_EQ(containers_.listed.vm(), "one");
  EXPECT_FALSE(containers_.listed.all());
  EXPECT_EQ(Ferryctl({"--output", "json", "container", "list", "-a"}), kOk);
  EXPECT_TRUE(containers_.listed.all());
  EXPECT_THAT(printed_, HasSubstr("\"name\": \"old\""));
  EXPECT_EQ(Ferryctl({"container", "inspect", "shop"}), kOk);
  EXPECT_THAT(printed_, HasSubstr("State:           running\n"));
  EXPECT_EQ(Ferryctl({"container", "inspect", "shop", "--vm", "other"}), kRefused);
}

TEST_F(ContainerCommandsTest, ChangesOne) {
  containers_.Add("shop", v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(Ferryctl({"container", "pause", "shop"}), kOk);
  EXPECT_EQ(printed_, "shop paused\n");
  EXPECT_EQ(Ferryctl({"container", "update", "shop", "--cpus", "0.5"}), kOk);
  EXPECT_EQ(containers_.updated.limits().cpu_millis(), 500u);
  EXPECT_FALSE(containers_.updated.limits().has_memory_bytes());
  EXPECT_EQ(Ferryctl({"container", "update", "shop"}), kUsage);
  EXPECT_EQ(Ferryctl({"container", "kill", "-s", "HUP", "shop"}), kOk);
  EXPECT_EQ(process_.last_signal, 1u);
  EXPECT_EQ(Ferryctl({"container", "kill", "shop"}), kOk);
  EXPECT_EQ(process_.last_signal, 9u);
  EXPECT_EQ(Ferryctl({"container", "stop", "-t", "3", "shop"}), kOk);
  EXPECT_EQ(printed_, "shop stopped\n");
  EXPECT_EQ(containers_.stopped.timeout_ms(), 3000u);
  EXPECT_EQ(Ferryctl({"container", "stop", "-t", "9999", "shop"}), kUsage);
}

TEST_F(ContainerCommandsTest, RemovesWhatCanBeRemoved) {
  containers_.Add("one", v1::CONTAINER_STATE_STOPPED);
  containers_.Add("two", v1::CONTAINER_STATE_STOPPED);
  EXPECT_EQ(Ferryctl({"container", "rm", "absent", "one"}), kRefused);
  EXPECT_EQ(Ferryctl({"container", "rm", "-f", "two"}), kOk);
  EXPECT_THAT(containers_.removed, ElementsAre("one", "two!"));
}

TEST_F(ContainerCommandsTest, KillOfOneThatDoesNotRunIsRefused) {
  containers_.Add("shop", v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(Ferryctl({"container", "kill", "shop"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("it is created"));
  EXPECT_EQ(process_.last_signal, 0u);
}

TEST_F(ContainerCommandsTest, StatsLooksTwiceForATableAndOnceForJson) {
  containers_.Add("shop", v1::CONTAINER_STATE_RUNNING);
  containers_.Add("old", v1::CONTAINER_STATE_STOPPED);
  EXPECT_EQ(Ferryctl({"container", "stats"}), kOk);
  EXPECT_EQ(containers_.looks, 2u);
  EXPECT_THAT(printed_, HasSubstr("shop   one   50.0%   3.0 MiB "));
  EXPECT_EQ(std::count(printed_.begin(), printed_.end(), '\n'), 2);
  EXPECT_EQ(Ferryctl({"--output", "json", "container", "stats", "--no-stream", "shop"}), kOk);
  EXPECT_EQ(containers_.looks, 3u);
  EXPECT_EQ(std::count(printed_.begin(), printed_.end(), '\n'), 1);
  EXPECT_THAT(printed_, HasSubstr("\"container_id\":\"id-of-shop\""));
  EXPECT_EQ(Ferryctl({"container", "stats", "old"}), kRefused);
}

TEST_F(ContainerCommandsTest, ExecFindsTheVmOfAContainer) {
  containers_.Add("shop", v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(Ferryctl({"exec", "-d", "--container", "shop", "-u", "7", "-e", "A=b", "--", "env",
                      "--", "-x"}),
            kOk);
  EXPECT_EQ(printed_, "7\n");
  EXPECT_EQ(process_.created.vm(), "vm-1");
  EXPECT_EQ(process_.created.spec().container(), "id-of-shop");
  EXPECT_EQ(process_.created.spec().user(), "7");
  EXPECT_EQ(process_.created.spec().environment().at("A"), "b");
  EXPECT_THAT(process_.created.spec().command(), ElementsAre("env", "--", "-x"));
  EXPECT_EQ(Ferryctl({"exec", "--container", "shop", "one", "--", "ls"}), 3);
  EXPECT_THAT(process_.created.spec().command(), ElementsAre("ls"));
  EXPECT_EQ(Ferryctl({"exec", "--container", "shop", "other", "--", "ls"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"exec", "-u", "7", "one", "--", "ls"}), kExecFailed);
  EXPECT_EQ(Ferryctl({"exec", "--container", "shop", "--"}), kExecFailed);
  process_.create_status =
      rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "no", "cannot_run");
  EXPECT_EQ(Ferryctl({"exec", "--container", "shop", "--", "/etc"}), kCannotRun);
  EXPECT_EQ(Ferryctl({"exec", "one", "--", "/etc"}), kExecFailed);
}

TEST(CommandFailureCode, TellsAProgramThatIsNotThereFromOneThatCannotBeRun) {
  for (const auto& [reason, code] :
       std::vector<std::pair<const char*, int>>{{"no_program", kNoProgram},
                                                {"cannot_run", kCannotRun},
                                                {"wrong_state", kExecFailed},
                                                {"", kExecFailed}}) {
    const absl::Status status =
        rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, "text", reason);
    EXPECT_EQ(CommandFailureCode(status), code) << reason;
  }
  // An image, or a folder, may be called anything.
  EXPECT_EQ(CommandFailureCode(absl::NotFoundError("there is no image `executable file`")),
            kExecFailed);
}

TEST_F(ContainerCommandsTest, WhoseInitIsNotKnownSaysHowItIs) {
  containers_.Add("shop", v1::CONTAINER_STATE_STOPPED).set_process_id(0);
  EXPECT_EQ(Ferryctl({"container", "attach", "shop"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("container shop has stopped"));
  EXPECT_EQ(Ferryctl({"container", "kill", "shop"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("it is stopped"));
  containers_.Add("shop", v1::CONTAINER_STATE_RUNNING).set_process_id(0);
  EXPECT_EQ(Ferryctl({"container", "attach", "shop"}), kExecFailed);
  EXPECT_THAT(said_, HasSubstr("container shop is running, but"));
  EXPECT_EQ(Ferryctl({"container", "kill", "shop"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("ferryctl stop --force"));
  EXPECT_EQ(process_.opens, 0);
}

TEST_F(ContainerCommandsTest, LogsPrintsWhatIsKept) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  containers_.printed = "some words\n";
  EXPECT_EQ(Ferryctl({"logs", "web"}), 0);
  EXPECT_EQ(printed_, "some words\n");
  EXPECT_THAT(said_, IsEmpty());
  EXPECT_EQ(Ferryctl({"logs", "--since", "5", "web"}), 0);
  EXPECT_EQ(printed_, "words\n");
  EXPECT_EQ(Ferryctl({"logs", "nobody"}), kRefused);
  EXPECT_THAT(said_, HasSubstr("reading the output of container nobody"));
}

TEST_F(ContainerCommandsTest, LogsSaysWhatIsNotKeptAnyMore) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  containers_.printed = "words\n";
  containers_.kept_from = 1000;
  containers_.stderr_kept_from = 500;
  EXPECT_EQ(Ferryctl({"logs", "web"}), 0);
  EXPECT_EQ(printed_, "words\n");
  EXPECT_THAT(said_, IsEmpty());
  EXPECT_EQ(Ferryctl({"logs", "--since", "900", "web"}), 0);
  EXPECT_EQ(printed_, "words\n");
  EXPECT_THAT(said_, HasSubstr("100 bytes of stdout before byte 1000 are not kept any more"));
}

TEST_F(ContainerCommandsTest, LogsAsJsonSaysWhereEachPieceIs) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  containers_.printed = "hello";
  EXPECT_EQ(Ferryctl({"--output", "json", "logs", "web"}), 0);
  EXPECT_THAT(printed_, HasSubstr("\"offset\":\"4\""));
  EXPECT_THAT(printed_, HasSubstr("\"stream\":\"STDIO_STREAM_STDOUT\""));
}

TEST_F(ContainerCommandsTest, LogsFollowsToTheEndAndTakesNothing) {
  v1::Container& container = containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  container.set_process_id(7);
  EXPECT_EQ(Ferryctl({"logs", "-f", "web"}), 0);
  EXPECT_EQ(printed_, "hello\n");
  EXPECT_FALSE(process_.exit_taken);
}

TEST_F(ContainerCommandsTest, LogsFollowsNothingThatIsOver) {
  containers_.Add("web", v1::CONTAINER_STATE_STOPPED);
  containers_.printed = "last words\n";
  containers_.print_ended = true;
  EXPECT_EQ(Ferryctl({"logs", "-f", "web"}), 0);
  EXPECT_EQ(printed_, "last words\n");
  EXPECT_EQ(process_.opens, 0);
}

TEST_F(ContainerCommandsTest, LogsFollowsFromAByteThatIsNotWrittenYet) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(Ferryctl({"logs", "-f", "--since", "100", "web"}), 0);
  EXPECT_EQ(printed_, "");
  EXPECT_EQ(process_.opens, 1);
}

TEST_F(ContainerCommandsTest, LogsPrintsWhatComesWhileTheVmEnds) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  containers_.printed = "words\n";
  containers_.before_get = [this](v1::Container* container) {
    containers_.printed += "and last ones\n";
    containers_.print_ended = true;
    container->set_state(v1::CONTAINER_STATE_STOPPED);
    container->set_process_id(0);
  };
  EXPECT_EQ(Ferryctl({"logs", "-f", "web"}), 0);
  EXPECT_EQ(printed_, "words\nand last ones\n");
}

TEST_F(ContainerCommandsTest, LogsPrintsWhatIsKeptOfAProcessThatWentWithItsVm) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  containers_.printed = "words\n";
  process_.home = "nowhere";
  containers_.before_get = [this](v1::Container*) {
    containers_.printed += "and last ones\n";
    containers_.print_ended = true;
  };
  EXPECT_EQ(Ferryctl({"logs", "-f", "web"}), 0);
  EXPECT_EQ(printed_, "words\nand last ones\n");
  EXPECT_THAT(said_, IsEmpty());
}

TEST_F(ContainerCommandsTest, LogsSaysThatMoreMayFollowWhereItCannot) {
  containers_.Add("web", v1::CONTAINER_STATE_RUNNING);
  containers_.printed = "words\n";
  process_.home = "nowhere";
  EXPECT_EQ(Ferryctl({"logs", "-f", "web"}), kRefused);
  EXPECT_EQ(printed_, "words\n");
  EXPECT_THAT(said_, HasSubstr("following container web failed"));
}

TEST_F(ContainerCommandsTest, LogsChecksItsWords) {
  EXPECT_EQ(Ferryctl({"logs"}), kUsage);
  EXPECT_EQ(Ferryctl({"logs", "vm", "process"}), kUsage);
  EXPECT_THAT(said_, HasSubstr("is no process id"));
  EXPECT_EQ(Ferryctl({"logs", "--vm", "a", "vm", "7"}), kUsage);
  EXPECT_EQ(Ferryctl({"logs", "--since", "yesterday", "web"}), kUsage);
}

}  // namespace
}  // namespace ferry::ctl
