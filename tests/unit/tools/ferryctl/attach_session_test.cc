#include "tools/ferryctl/attach_session.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <random>

#include "bridge/runtime/unique_fd.h"
#include "tools/ferryctl/fake_daemon.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::ctl {
namespace {

using StepKind = FakeProcess::Step::Kind;

std::string RandomBytes(size_t size) {
  std::mt19937_64 random(42);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

class AttachSessionTest : public testing::Test {
 public:
  AttachSessionTest() {
    std::signal(SIGPIPE, SIG_IGN);
    char pattern[] = "/tmp/ferry-attach-XXXXXX";
    folder = ::mkdtemp(pattern);
    a = std::make_unique<FakeDaemon>(io.get_executor(), folder + "/a.sock", &process);
    b = std::make_unique<FakeDaemon>(io.get_executor(), folder + "/b.sock", &process);
    a->SetPeer(b->address());
    b->SetPeer(a->address());
    process.home = a->address();
    output = UniqueFd(::open(Path("out").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    config.address = a->address();
    config.vm = "web";
    config.process_id = 7;
    config.stdout_fd = output.get();
  }
  ~AttachSessionTest() override {
    for (const char* name : {"a.sock", "b.sock", "in", "out"}) ::unlink(Path(name).c_str());
    ::rmdir(folder.c_str());
  }

  std::string Path(const std::string& name) const { return folder + "/" + name; }

  // A regular file as stdin, which epoll would refuse.
  void InputFile(const std::string& bytes) {
    input = UniqueFd(::open(Path("in").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_EQ(::write(input.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    ::lseek(input.get(), 0, SEEK_SET);
    config.stdin_fd = input.get();
  }

  std::string Written() const {
    std::string bytes(1 << 24, '\0');
    const ssize_t got = ::pread(output.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(got < 0 ? 0 : static_cast<size_t>(got));
    return bytes;
  }

  AttachOutcome Run() {
    Spawn(io.get_executor(), RunAndStop(this));
    io.run();
    EXPECT_TRUE(finished);
    return outcome;
  }

  static Task<void> RunAndStop(AttachSessionTest* self) {
    {
      AttachSession session(self->io.get_executor(), self->config);
      self->outcome = co_await session.Run();
      self->connections = session.connections();
    }
    co_await self->a->Shutdown();
    co_await self->b->Shutdown();
    self->finished = true;
  }

  // Runs all of `bytes` through the process under `script` and compares.
  void ExpectExact(const std::string& bytes, std::deque<FakeProcess::Step> script) {
    process.script = std::move(script);
    process.exit_code = 7;
    InputFile(bytes);
    Run();
    ASSERT_TRUE(outcome.exit_status.has_value()) << outcome.error;
    EXPECT_EQ(outcome.exit_status->code(), 7u);
    EXPECT_TRUE(process.script.empty());
    EXPECT_TRUE(process.exit_taken);
    EXPECT_EQ(process.received.size(), bytes.size());
    EXPECT_TRUE(process.received == bytes) << "the process read something else";
    EXPECT_TRUE(Written() == bytes) << "the client wrote something else";
  }

  asio::io_context io;
  std::string folder;
  FakeProcess process;
  std::unique_ptr<FakeDaemon> a, b;
  UniqueFd input, output;
  AttachConfig config;
  AttachOutcome outcome;
  int connections = 0;
  bool finished = false;
};

TEST_F(AttachSessionTest, CarriesBothDirectionsAndTheExitStatus) {
  ExpectExact("hello, process\n", {});
  EXPECT_EQ(connections, 1);
}

TEST_F(AttachSessionTest, EmptyInputEndsTheProcess) { ExpectExact("", {}); }

TEST_F(AttachSessionTest, IsExactOverForcedBreaks) {
  ExpectExact(RandomBytes(4 << 20), {{1000, StepKind::kBreak},
                                     {65536, StepKind::kBreak},
                                     {65537, StepKind::kBreak},
                                     {2000000, StepKind::kBreak},
                                     {3000001, StepKind::kBreak}});
  EXPECT_EQ(connections, 6);
  EXPECT_GT(process.unacknowledged_breaks, 0);
}

TEST_F(AttachSessionTest, FollowsTheProcessThereAndBackManyTimes) {
  std::deque<FakeProcess::Step> script;
  for (uint64_t i = 1; i <= 10; ++i) script.push_back({i * 300001, StepKind::kMove});
  ExpectExact(RandomBytes(4 << 20), script);
  EXPECT_EQ(connections, 11);
  EXPECT_EQ(outcome.address, a->address());
}

TEST_F(AttachSessionTest, ASourceThatDiesAfterAnnouncingTheMoveIsFollowed) {
  ExpectExact(RandomBytes(1 << 20),
              {{400000, StepKind::kSilentMove}, {800000, StepKind::kSilentMove}});
  EXPECT_EQ(connections, 3);
}

TEST_F(AttachSessionTest, ComesBackWhenTheMoveIsCalledOff) {
  ExpectExact(RandomBytes(1 << 20), {{300000, StepKind::kCalledOff}, {600000, StepKind::kMove}});
  EXPECT_EQ(outcome.address, b->address());
}

TEST_F(AttachSessionTest, SendsAgainAfterARewindAndAsksAgainAfterAGap) {
  ExpectExact(RandomBytes(1 << 20),
              {{200000, StepKind::kRewind}, {500000, StepKind::kGap}, {700000, StepKind::kRewind}});
  EXPECT_GT(connections, 1);
}

TEST_F(AttachSessionTest, SurvivesARestartOfTheDaemon) {
  InputFile("first ");
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  config.stdin_fd = read_end.get();
  ASSERT_EQ(::write(write_end.get(), "before ", 7), 7);
  auto restart = [](AttachSessionTest* self, UniqueFd* input_end) -> Task<void> {
    while (self->process.taken < 7) co_await self->a->WaitForChange();
    co_await self->a->Shutdown();
    self->a->Restart();
    (void)!::write(input_end->get(), "after", 5);
    input_end->Reset();
  };
  Spawn(io.get_executor(), restart(this, &write_end));
  Run();
  ASSERT_TRUE(outcome.exit_status.has_value()) << outcome.error;
  EXPECT_EQ(Written(), "before after");
}

TEST_F(AttachSessionTest, TheTimeInWhichItIsStoppedItselfDoesNotCount) {
  config.give_up = milliseconds(400);
  config.open_timeout = milliseconds(100);
  auto stop = [](AttachSessionTest* self) -> Task<void> {
    while (self->process.taken < 400000) co_await self->a->WaitForChange();
    self->a->gate().Reset();
    co_await Delay(milliseconds(50));  // by then it waits for the daemon's answer
    // As by Ctrl-Z: nothing of it runs.
    ::poll(nullptr, 0, static_cast<int>(self->config.give_up.count()) + 100);
    co_await Delay(milliseconds(50));  // by then it has seen that none came
    self->a->gate().Set();
  };
  Spawn(io.get_executor(), stop(this));
  ExpectExact(RandomBytes(1 << 20), {{400000, StepKind::kBreak}});
  EXPECT_EQ(connections, 2);
}

TEST_F(AttachSessionTest, AnUnknownVmFailsAtOnce) {
  process.home = "elsewhere";
  InputFile("");
  Run();
  EXPECT_FALSE(outcome.exit_status.has_value());
  EXPECT_EQ(outcome.error.code(), absl::StatusCode::kNotFound);
}

TEST_F(AttachSessionTest, ASecondAttacherIsRefusedUnlessItSteals) {
  process.attachment_id = "somebody";
  InputFile("");
  Run();
  EXPECT_EQ(outcome.error.code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(AttachSessionTest, StealingTakesOver) {
  process.attachment_id = "somebody";
  config.steal = true;
  ExpectExact("mine", {});
}

TEST_F(AttachSessionTest, AProcessThatIsGoneEverywhereIsReportedWithWhereItLooked) {
  process.script = {{4, StepKind::kMove}};
  b->SetPeer("");
  InputFile("1234");
  // It vanishes on the way: neither host has it.
  a->SetPeer(b->address());
  auto vanish = [](AttachSessionTest* self) -> Task<void> {
    self->b->gate().Reset();
    while (self->process.home != self->b->address()) co_await self->a->WaitForChange();
    self->process.home = "nowhere";
    self->b->gate().Set();
  };
  Spawn(io.get_executor(), vanish(this));
  Run();
  EXPECT_EQ(outcome.error.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(outcome.error.message().find(a->address()), absl::string_view::npos);
  EXPECT_NE(outcome.error.message().find(b->address()), absl::string_view::npos);
}

TEST_F(AttachSessionTest, AReaderThatLeavesEndsTheClientQuietly) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd write_end(ends[1]);
  ::close(ends[0]);
  config.stdout_fd = write_end.get();
  InputFile("nobody reads this");
  Run();
  EXPECT_TRUE(outcome.output_closed);
  EXPECT_FALSE(outcome.exit_status.has_value());
}

TEST_F(AttachSessionTest, CtrlCReachesTheProcessAndASecondDetaches) {
  config.handle_signals = true;
  process.output = "ready";
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  config.stdin_fd = read_end.get();
  auto interrupt = [](AttachSessionTest* self) -> Task<void> {
    // An acknowledgement says that the client has seen the attachment open.
    while (self->process.acked == 0) co_await self->a->WaitForChange();
    ::kill(::getpid(), SIGINT);
    while (self->process.last_signal == 0) co_await self->a->WaitForChange();
    ::kill(::getpid(), SIGINT);
  };
  Spawn(io.get_executor(), interrupt(this));
  Run();
  EXPECT_EQ(process.last_signal, static_cast<uint32_t>(SIGINT));
  EXPECT_EQ(outcome.signal, SIGINT);
}

constexpr char kSaidSaved[] = "VM web is saved; going on when it is started again (Ctrl-C leaves)";

// Once the client was refused so often because its VM is saved; never if it leaves before.
Task<void> WhenRefused(AttachSessionTest* self, int times, std::function<void()> then) {
  while (self->process.refused_saved < times) {
    if (self->finished) co_return;
    co_await Delay(milliseconds(2));
  }
  then();
}

TEST_F(AttachSessionTest, WaitsForASavedVmLongerThanItLooksForALostOne) {
  config.give_up = milliseconds(100);
  config.quiet = milliseconds(40);
  const auto begun = std::chrono::steady_clock::now();
  // The delays grow: the sixth refusal comes 620 ms after the first.
  Spawn(io.get_executor(), WhenRefused(this, 6, [this] { process.saved = false; }));
  testing::internal::CaptureStderr();
  ExpectExact(RandomBytes(1 << 20), {{400000, StepKind::kSave}});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_GT(std::chrono::steady_clock::now() - begun, milliseconds(200));
  EXPECT_EQ(connections, 2);
  const size_t at = said.find(kSaidSaved);
  EXPECT_NE(at, std::string::npos) << said;
  EXPECT_EQ(said.find(kSaidSaved, at + 1), std::string::npos) << "said twice: " << said;
}

TEST_F(AttachSessionTest, SaysItAgainWhenTheVmIsSavedAgain) {
  config.quiet = milliseconds(0);
  Spawn(io.get_executor(), WhenRefused(this, 1, [this] { process.saved = false; }));
  Spawn(io.get_executor(), WhenRefused(this, 2, [this] { process.saved = false; }));
  testing::internal::CaptureStderr();
  ExpectExact(RandomBytes(1 << 20), {{300000, StepKind::kSave}, {600000, StepKind::kSave}});
  const std::string said = testing::internal::GetCapturedStderr();
  const size_t at = said.find(kSaidSaved);
  ASSERT_NE(at, std::string::npos) << said;
  EXPECT_NE(said.find(kSaidSaved, at + 1), std::string::npos) << said;
}

TEST_F(AttachSessionTest, SaysNothingOfASaveInPassing) {
  Spawn(io.get_executor(), WhenRefused(this, 2, [this] { process.saved = false; }));
  testing::internal::CaptureStderr();
  ExpectExact(RandomBytes(1 << 20), {{400000, StepKind::kSave}});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(AttachSessionTest, AVmThatIsSavedAlreadyRefusesTheFirstAttach) {
  process.saved = true;
  InputFile("");
  Run();
  EXPECT_EQ(outcome.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(rpc::ReasonOf(outcome.error), "vm_saved");
  EXPECT_EQ(outcome.error.message(), "VM web is saved");
  EXPECT_EQ(process.refused_saved, 1);
}

TEST_F(AttachSessionTest, ADaemonThatStaysAwayWhileTheVmIsSavedIsGivenUp) {
  config.give_up = milliseconds(100);
  process.script = {{4, StepKind::kSave}};
  InputFile("1234");
  Spawn(io.get_executor(),
        WhenRefused(this, 3, [this] { Spawn(io.get_executor(), a->Shutdown()); }));
  Run();
  EXPECT_EQ(outcome.error.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(rpc::ReasonOf(outcome.error), "vm_saved");
  EXPECT_NE(outcome.error.message().find("lost process 7"), std::string::npos) << outcome.error;
}

TEST_F(AttachSessionTest, CtrlCLeavesASavedVmAtOnce) {
  config.handle_signals = true;
  process.script = {{4, StepKind::kSave}};
  InputFile("1234");
  Spawn(io.get_executor(), WhenRefused(this, 2, [] { ::kill(::getpid(), SIGINT); }));
  Run();
  EXPECT_EQ(outcome.signal, SIGINT);
  EXPECT_EQ(process.last_signal, 0u);
  EXPECT_FALSE(process.stdin_ended);
}

// A terminal with ferryctl at the one end and a person at the other.
class AttachTerminalTest : public AttachSessionTest {
 public:
  AttachTerminalTest() {
    int person_end = -1;
    int our_end = -1;
    EXPECT_EQ(::openpty(&person_end, &our_end, nullptr, nullptr, nullptr), 0);
    person = UniqueFd(person_end);
    input = UniqueFd(our_end);
    config.stdin_fd = input.get();
    config.handle_signals = true;
    process.terminal = true;
    process.output = "ready";
  }

  bool Raw() const {
    termios mode{};
    ::tcgetattr(input.get(), &mode);
    return (mode.c_lflag & (ICANON | ECHO | ISIG)) == 0;
  }

  UniqueFd person;
  bool was_raw = false;
};

Task<void> LookThen(AttachTerminalTest* self, void (*then)(AttachTerminalTest*)) {
  while (self->process.acked == 0) co_await self->a->WaitForChange();
  self->was_raw = self->Raw();
  then(self);
}

TEST_F(AttachTerminalTest, IsRestoredWhenASignalEndsTheClient) {
  Spawn(io.get_executor(),
        LookThen(this, [](AttachTerminalTest*) { ::kill(::getpid(), SIGTERM); }));
  Run();
  EXPECT_TRUE(was_raw);
  EXPECT_FALSE(Raw());
  EXPECT_EQ(outcome.signal, SIGTERM);
}

TEST_F(AttachTerminalTest, IsRestoredWhenTheDaemonStaysAway) {
  config.give_up = milliseconds(50);
  auto leave = [](AttachTerminalTest* self) {
    Spawn(self->io.get_executor(), self->a->Shutdown());
  };
  Spawn(io.get_executor(), LookThen(this, leave));
  Spawn(io.get_executor(), b->Shutdown());
  Run();
  EXPECT_TRUE(was_raw);
  EXPECT_FALSE(Raw());
  EXPECT_FALSE(outcome.error.ok());
}

TEST_F(AttachTerminalTest, IsLeftAloneByAProcessWithoutStdin) {
  process.has_stdin = false;
  Spawn(io.get_executor(),
        LookThen(this, [](AttachTerminalTest*) { ::kill(::getpid(), SIGTERM); }));
  Run();
  EXPECT_FALSE(was_raw);
}

TEST_F(AttachTerminalTest, ItsCtrlCIsTheProcessesUnlessThatIsSaved) {
  config.quiet = milliseconds(0);
  process.script = {{1, StepKind::kSave}};
  auto press = [](AttachTerminalTest* self) { (void)!::write(self->person.get(), "\x03", 1); };
  Spawn(io.get_executor(), LookThen(this, press));
  Spawn(io.get_executor(), WhenRefused(this, 2, [this, press] {
          EXPECT_TRUE(Raw());
          press(this);
        }));
  testing::internal::CaptureStderr();
  Run();
  EXPECT_NE(testing::internal::GetCapturedStderr().find(kSaidSaved), std::string::npos);
  EXPECT_TRUE(was_raw);
  EXPECT_EQ(process.received, "\x03");
  EXPECT_EQ(outcome.signal, SIGINT);
  EXPECT_FALSE(Raw());
}

TEST_F(AttachTerminalTest, ThatHangsUpDetachesAndIsNoEndOfInput) {
  Spawn(io.get_executor(), LookThen(this, [](AttachTerminalTest* self) { self->person.Reset(); }));
  Run();
  EXPECT_EQ(outcome.signal, SIGHUP);
  EXPECT_FALSE(process.stdin_ended);
}

}  // namespace
}  // namespace ferry::ctl
