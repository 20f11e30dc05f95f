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

TEST(GuestSocketTest, ServesAHostAndEndsWhenAsked) {
  signal(SIGPIPE, SIG_IGN);
  char folder[] = "/tmp/ferry-agent-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/bridge";
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  std::string program = FERRY_GUEST_PROGRAM;
  std::string option = "--socket";
  std::string argument = path;
  char* arguments[] = {program.data(), option.data(), argument.data(), nullptr};
  pid_t pid = 0;
  ASSERT_EQ(posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ), 0);
  UniqueFd stream(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(stream.valid());

  asio::io_context io;
  bridge::SerialHostTransport transport(io.get_executor());
  const std::shared_ptr<Guest> guest = Guest::Create(io.get_executor(), transport, GuestOptions());
  ASSERT_TRUE(guest->Listen().ok());
  transport.AttachLink(std::move(stream));
  const auto client = std::make_shared<StdioClient>(io.get_executor(), "client");
  client->SetInput("there and back", /*finish=*/true);
  RunTask(io, RunAndShutDown(guest.get(), client));
  EXPECT_EQ(client->out, "there and back");
  guest->Close(absl::UnavailableError("the test is over"));
  transport.Close();
  RunReady(io);
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace ferry::guest
