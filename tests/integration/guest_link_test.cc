#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/integration/guest_link_fixture.h"

namespace ferry::guest {
namespace {

constexpr int kSwaps = 20;
constexpr size_t kBytesPerSwap = 300'000;
// More than windows and pipes can hold, so that input is left to be sent at the last swap too.
constexpr size_t kRest = 4 << 20;

ExitStatus Code(uint32_t value) { return {ExitStatus::Kind::kCode, value}; }

// A named pipe: what a process waits for that the test alone decides.
class Signpost {
 public:
  Signpost() {
    char name[] = "/tmp/ferry-link-XXXXXX";
    folder_ = mkdtemp(name);
    EXPECT_EQ(mkfifo(path().c_str(), 0600), 0);
    fd_.Reset(open(path().c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  }
  ~Signpost() { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/go"; }
  void Go() { EXPECT_EQ(write(fd_.get(), "go\n", 3), 3); }

 private:
  std::string folder_;
  UniqueFd fd_;
};

// Returns when `pid` has exited, without taking its status from the agent.
void AwaitZombie(uint32_t pid) {
  siginfo_t info = {};
  EXPECT_EQ(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
}

Task<void> Start(Guest* guest, ProcessSpec spec, std::optional<absl::Status>* status) {
  *status = (co_await guest->CreateProcess(spec)).status();
}

TEST_F(GuestLinkTest, EveryByteOnceBothWaysOverTwentySwaps) {
  ProcessSpec spec;
  spec.command = {"/bin/cat"};
  spec.has_stdin = true;
  const uint32_t pid = Exec(spec)->pid();
  const auto client = MakeClient();
  const std::string data = RandomBytes(kSwaps * kBytesPerSwap + kRest);
  client->SetInput(data, /*finish=*/true);
  client->AttachTo(*guest().Find(pid));
  for (int swap = 1; swap <= kSwaps; ++swap) {
    // Under way in both directions: what the process has not taken, what the client has not.
    ASSERT_TRUE(RunUntil([&] {
      return client->out.size() >= swap * kBytesPerSwap && client->unacknowledged_input() > 0 &&
             client->unacknowledged_output() > 0;
    })) << "at swap "
        << swap << ", " << client->out.size() << " bytes";
    const GuestState state = Migrate();
    ASSERT_EQ(state.processes.size(), 1u);
    EXPECT_GT(state.processes[0].std_in.in_flight, 0u);
    EXPECT_GT(state.processes[0].std_out.in_flight, 0u);
    client->AttachTo(*guest().Find(pid));
  }
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); })) << client->out.size();
  EXPECT_TRUE(client->out == data);
  EXPECT_TRUE(client->end_taken);
  EXPECT_EQ(*client->exited, Code(0));
}

TEST_F(GuestLinkTest, AnExitDuringTheSwapIsToldOnceAfterTheLastByte) {
  Signpost post;
  const auto process =
      ExecShell("read x < " + post.path() + "; echo last words; exit 5", /*has_stdin=*/false);
  const uint32_t pid = process->pid();
  const auto client = MakeClient();
  client->AttachTo(*process);
  const GuestState state = Migrate([&] {
    post.Go();
    AwaitZombie(pid);
  });
  EXPECT_FALSE(state.processes[0].exit_status.has_value());
  client->AttachTo(*guest().Find(pid));
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_EQ(client->out, "last words\n");
  EXPECT_EQ(*client->exited, Code(5));
  // Taken by the client, so that nobody keeps it any more, in the guest neither.
  EXPECT_TRUE(RunUntil([&] { return bridge::ListChildren().empty(); }));
  EXPECT_EQ(guest().Find(pid), nullptr);
}

TEST_F(GuestLinkTest, AThousandExitsDuringSwapsAreEachToldOnceAfterTheLastByte) {
  constexpr uint32_t kRounds = 25;
  constexpr uint32_t kEach = 40;
  struct One {
    Signpost post;
    uint32_t pid = 0;
    std::shared_ptr<StdioClient> client;
  };
  for (uint32_t round = 0; round < kRounds; ++round) {
    std::vector<One> all(kEach);
    for (uint32_t i = 0; i < kEach; ++i) {
      const std::string script =
          absl::StrCat("read x < ", all[i].post.path(), "; echo last words ", i, "; exit ", i + 1);
      const auto process = ExecShell(script, /*has_stdin=*/false);
      all[i].pid = process->pid();
      all[i].client = MakeClient(absl::StrCat("client ", i));
      all[i].client->AttachTo(*process);
    }
    Migrate([&] {
      for (One& one : all) one.post.Go();
      for (const One& one : all) AwaitZombie(one.pid);
    });
    for (const One& one : all) one.client->AttachTo(*guest().Find(one.pid));
    for (uint32_t i = 0; i < kEach; ++i) {
      ASSERT_TRUE(RunUntil([&] { return all[i].client->exited.has_value(); })) << round;
      EXPECT_EQ(all[i].client->out, absl::StrCat("last words ", i, "\n")) << round;
      EXPECT_EQ(*all[i].client->exited, Code(i + 1)) << round;
    }
    ASSERT_TRUE(RunUntil([&] { return bridge::ListChildren().empty(); })) << round;
    ASSERT_TRUE(guest().processes().empty()) << round;
  }
}

TEST_F(GuestLinkTest, AWaitGoesOnAtTheDestination) {
  const uint32_t pid = ExecShell("exec sleep 1000")->pid();
  for (int swap = 0; swap < 3; ++swap) Migrate();
  ASSERT_TRUE(RunUntil([&] { return guest().ready(); }));
  EXPECT_TRUE(*Await(guest().Find(pid)->Signal(SIGTERM)));
  const absl::StatusOr<ExitStatus> status = Await(guest().Find(pid)->Wait());
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(*status, (ExitStatus{ExitStatus::Kind::kSignal, SIGTERM}));
  EXPECT_FALSE(*Await(guest().Find(pid)->Signal(SIGTERM)));
}

TEST_F(GuestLinkTest, StdinClosedJustBeforeTheSwapIsClosedAfterIt) {
  ProcessSpec spec;
  spec.command = {"/bin/cat"};
  spec.has_stdin = true;
  const uint32_t pid = Exec(spec)->pid();
  const auto client = MakeClient();
  client->AttachTo(*guest().Find(pid));
  client->SetInput("all there is", /*finish=*/true);
  // Sent, and not a byte of it has left the host.
  client->Pump();
  Migrate();
  client->AttachTo(*guest().Find(pid));
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_EQ(client->out, "all there is");
  EXPECT_EQ(*client->exited, Code(0));
}

TEST_F(GuestLinkTest, ADetachedProcesssSpoolMovesWithIt) {
  Signpost post;
  ProcessSpec spec;
  spec.command = {"/bin/sh", "-c", "echo before; read x < " + post.path() + "; echo after"};
  spec.detached = true;
  const uint32_t pid = Exec(spec)->pid();
  ASSERT_TRUE(RunUntil(
      [&] { return guest().Save()->processes[0].std_out.taken.offset == strlen("before\n"); }));
  const GuestState state = Migrate();
  EXPECT_EQ(state.processes[0].std_out.spool, "before\n");
  post.Go();
  const auto client = MakeClient();
  client->AttachTo(*guest().Find(pid));
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_EQ(client->out, "before\nafter\n");
}

TEST_F(GuestLinkTest, AProcessThatExitedUnreadIsReadAtTheDestination) {
  const uint32_t pid = ExecShell("echo out; echo err >&2; exit 9")->pid();
  ASSERT_TRUE(RunUntil([&] { return guest().Find(pid)->exit_status().has_value(); }));
  Migrate();
  const auto client = MakeClient();
  client->AttachTo(*guest().Find(pid));
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_EQ(client->out, "out\n");
  EXPECT_EQ(client->err, "err\n");
  EXPECT_EQ(*client->exited, Code(9));
}

TEST_F(GuestLinkTest, ATerminalKeepsItsSizeAndTakesANewOneAfterTheSwap) {
  ProcessSpec spec;
  spec.command = {"/bin/sh", "-c", "stty -echo; echo up; read x; stty size; read x; stty size"};
  spec.has_stdin = true;
  spec.terminal = true;
  spec.rows = 24;
  spec.columns = 80;
  const uint32_t pid = Exec(spec)->pid();
  const auto client = MakeClient();
  client->AttachTo(*guest().Find(pid));
  ASSERT_TRUE(RunUntil([&] { return client->out == "up\r\n"; })) << client->out;
  Migrate();
  client->AttachTo(*guest().Find(pid));
  client->SetInput("one\n", /*finish=*/false);
  ASSERT_TRUE(RunUntil([&] { return client->out == "up\r\n24 80\r\n"; })) << client->out;
  ASSERT_TRUE(Await(guest().Find(pid)->ResizeConsole(50, 132)).ok());
  client->SetInput("one\ntwo\n", /*finish=*/false);
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_EQ(client->out, "up\r\n24 80\r\n50 132\r\n");
}

TEST_F(GuestLinkTest, ASlowReaderHoldsItsProcessBackAndNothingElse) {
  constexpr size_t kAll = 8 << 20;
  const auto slow = ExecShell("head -c " + std::to_string(kAll) + " /dev/zero");
  const uint32_t pid = slow->pid();
  const auto client = MakeClient();
  client->SetOpen(false);
  client->AttachTo(*slow);
  // What the multiplexer grants one connection is under way before its reader takes any.
  const uint64_t window = 256 * 1024;
  ASSERT_TRUE(RunUntil([&] { return line_->to_host() >= window; }));
  for (int i = 0; i < 20; ++i) {
    const auto other = MakeClient("other");
    other->AttachTo(*ExecShell("echo through"));
    ASSERT_TRUE(RunUntil([&] { return other->exited.has_value(); }));
    EXPECT_EQ(other->out, "through\n");
  }
  EXPECT_LT(line_->to_host(), window + 256 * 1024);
  EXPECT_TRUE(client->out.empty());
  for (int swap = 0; swap < 3; ++swap) {
    const uint64_t before = line_->to_host();
    Migrate();
    client->AttachTo(*guest().Find(pid));
    ASSERT_TRUE(RunUntil([&] { return line_->to_host() - before >= window; }));
  }
  EXPECT_TRUE(client->out.empty());
  client->SetOpen(true);
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_TRUE(client->out == std::string(kAll, '\0'));
}

TEST_F(GuestLinkTest, ARollbackIsAPauseAndNothingElse) {
  ProcessSpec spec;
  spec.command = {"/bin/cat"};
  spec.has_stdin = true;
  const auto process = Exec(spec);
  const auto client = MakeClient();
  const std::string data = RandomBytes(4 << 20);
  client->SetInput(data, /*finish=*/true);
  client->AttachTo(*process);
  for (size_t at = 500'000; at < data.size(); at += 500'000) {
    ASSERT_TRUE(RunUntil([&] { return client->out.size() >= at; }));
    guest().Freeze();
    ASSERT_TRUE(guest().Save().ok());
    const size_t taken = client->out.size();
    RunReady(io_);
    EXPECT_EQ(client->out.size(), taken) << "bytes moved after the state was saved";
    guest().Unfreeze();
  }
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_TRUE(client->out == data);
  EXPECT_EQ(client->rewinds, 0);
  EXPECT_FALSE(client->detached.has_value());
}

TEST_F(GuestLinkTest, ACutLinkOfTheSameHostLosesNothing) {
  ProcessSpec spec;
  spec.command = {"/bin/cat"};
  spec.has_stdin = true;
  const auto process = Exec(spec);
  const auto client = MakeClient();
  const std::string data = RandomBytes(4 << 20);
  client->SetInput(data, /*finish=*/true);
  client->AttachTo(*process);
  for (size_t at = 500'000; at < data.size(); at += 500'000) {
    ASSERT_TRUE(RunUntil([&] { return client->out.size() >= at; }));
    Replug();
  }
  ASSERT_TRUE(RunUntil([&] { return client->exited.has_value(); }));
  EXPECT_TRUE(client->out == data);
  EXPECT_EQ(*client->exited, Code(0));
}

TEST_F(GuestLinkTest, AProcessWhoseStartWasLostWithTheLinkIsEnded) {
  const auto process = ExecShell("exec sleep 1000");
  line_->Hold(true);
  ProcessSpec spec;
  spec.command = {"/bin/sleep", "1000"};
  std::optional<absl::Status> status;
  Spawn(io_.get_executor(), Start(&guest(), spec, &status));
  ASSERT_TRUE(RunUntil([] { return bridge::ListChildren().size() == 2; }));
  EXPECT_FALSE(status.has_value());
  Replug();
  line_->Hold(false);
  ASSERT_TRUE(RunUntil([&] { return status.has_value(); }));
  EXPECT_TRUE(absl::IsUnavailable(*status)) << *status;
  ASSERT_TRUE(RunUntil([] { return bridge::ListChildren().size() == 1; }));
  EXPECT_EQ(bridge::ListChildren().front(), static_cast<pid_t>(process->pid()));
  EXPECT_EQ(guest().processes().size(), 1u);
}

TEST_F(GuestLinkTest, AProcessThatTheSourceWasStartingIsEndedAtTheDestination) {
  const uint32_t pid = ExecShell("exec sleep 1000")->pid();
  line_->Hold(true);
  ProcessSpec spec;
  spec.command = {"/bin/sleep", "1000"};
  std::optional<absl::Status> status;
  Spawn(io_.get_executor(), Start(&guest(), spec, &status));
  ASSERT_TRUE(RunUntil([] { return bridge::ListChildren().size() == 2; }));
  Migrate();
  line_->Hold(false);
  ASSERT_TRUE(RunUntil([&] { return status.has_value(); }));
  EXPECT_FALSE(status->ok());
  ASSERT_TRUE(RunUntil([] { return bridge::ListChildren().size() == 1; }));
  EXPECT_EQ(bridge::ListChildren().front(), static_cast<pid_t>(pid));
}

TEST_F(GuestLinkTest, AProcessWhoseCallerLeftIsEnded) {
  const auto process = ExecShell("exec sleep 1000");
  line_->Hold(true);
  ProcessSpec spec;
  spec.command = {"/bin/sleep", "1000"};
  std::optional<absl::Status> status;
  TaskScope caller(io_.get_executor());
  caller.Spawn(Start(&guest(), spec, &status));
  ASSERT_TRUE(RunUntil([] { return bridge::ListChildren().size() == 2; }));
  RunTask(io_, caller.CancelAndJoin());
  line_->Hold(false);
  ASSERT_TRUE(RunUntil([] { return bridge::ListChildren().size() == 1; }));
  EXPECT_EQ(bridge::ListChildren().front(), static_cast<pid_t>(process->pid()));
  // The link was never lost, and others may start what they like.
  EXPECT_NE(ExecShell("exec sleep 1000"), nullptr);
  EXPECT_EQ(guest().processes().size(), 2u);
}

}  // namespace
}  // namespace ferry::guest
