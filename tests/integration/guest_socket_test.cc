#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <string>

#include "bridge/mux/serial_host_transport.h"
#include "guestmanager/guest.h"
#include "tests/integration/stdio_client.h"
#include "tests/unit/bridge/run_task.h"

// The agent's program itself, at the other end of a Unix socket instead of in a VM.
namespace ferry::guest {
namespace {

Task<void> RunAndShutDown(Guest* guest, std::shared_ptr<StdioClient> client) {
  absl::Status status = co_await guest->WaitReady();
  EXPECT_TRUE(status.ok()) << status;
  ProcessSpec spec;
  spec.command.assign(1, "cat");
  spec.has_stdin = true;
  const absl::StatusOr<std::shared_ptr<Process>> process = co_await guest->CreateProcess(spec);
  EXPECT_TRUE(process.ok()) << process.status();
  if (process.ok()) {
    client->AttachTo(**process);
    const absl::StatusOr<ExitStatus> exit = co_await (*process)->Wait();
    EXPECT_TRUE(exit.ok()) << exit.status();
  }
  status = co_await guest->Shutdown(/*force=*/false);
  EXPECT_TRUE(status.ok()) << status;
}

class GuestSocketTest : public testing::Test {
 protected:
  GuestSocketTest() {
    signal(SIGPIPE, SIG_IGN);
    char name[] = "/tmp/ferry-agent-XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~GuestSocketTest() override { std::filesystem::remove_all(folder_); }

  // The agent runs, and has called us; what it says goes to `errors`, if that is given.
  void StartAgent(int errors = -1) {
    const std::string path = folder_ + "/bridge";
    UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)),
              0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    std::string program = FERRY_GUEST_PROGRAM;
    std::string option = "--socket";
    std::string argument = path;
    char* arguments[] = {program.data(), option.data(), argument.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (errors >= 0) posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    ASSERT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    stream_.Reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(stream_.valid());
  }
  int AwaitEnd() {
    int status = -1;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    return status;
  }

  std::string folder_;
  pid_t pid_ = 0;
  UniqueFd stream_;
};

TEST_F(GuestSocketTest, ServesAHostAndEndsWhenAsked) {
  StartAgent();
  ASSERT_TRUE(stream_.valid());
  asio::io_context io;
  bridge::SerialHostTransport transport(io.get_executor());
  const std::shared_ptr<Guest> guest = Guest::Create(io.get_executor(), transport, GuestOptions());
  ASSERT_TRUE(guest->Listen().ok());
  transport.AttachLink(std::move(stream_));
  const auto client = std::make_shared<StdioClient>(io.get_executor(), "client");
  client->SetInput("there and back", /*finish=*/true);
  RunTask(io, RunAndShutDown(guest.get(), client));
  EXPECT_EQ(client->out, "there and back");
  guest->Close(absl::UnavailableError("the test is over"));
  transport.Close();
  RunReady(io);
  const int status = AwaitEnd();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(GuestSocketTest, SaysWhereItWasWhenItCrashes) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd said(ends[0]);
  UniqueFd saying(ends[1]);
  StartAgent(saying.get());
  ASSERT_TRUE(stream_.valid());
  saying.Reset();
  ASSERT_EQ(kill(pid_, SIGSEGV), 0);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(said.get(), buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(got));
  }
  const int status = AwaitEnd();
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSEGV);
  EXPECT_THAT(text, testing::HasSubstr("ferry-guest: it crashes: signal 0xb at 0x"));
  EXPECT_THAT(text, testing::ContainsRegex("crash: rip=[0-9a-f]+ -> [0-9a-f]+ "));
  EXPECT_THAT(text, testing::ContainsRegex("crash: stack [0-9a-f]+ "));
}

}  // namespace
}  // namespace ferry::guest
