#include "bridge/guest/guest_process.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/bridge/guest/guest_server_fixture.h"
#include "tests/unit/bridge/guest/stdio_peers.h"

namespace ferry::bridge {
namespace {

constexpr const char* kMissing[] = {"no-such-command", "/no/such/command"};

TEST_F(GuestServerTest, RequestsRunConcurrently) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = pid;
    co_await host->Send(kWaitForProcess, 20, wait);
    SignalProcessRequest kill;
    kill.process_id = pid;
    const auto killed = co_await host->Call<SimpleResponse>(kSignalProcess, 21, kill);
    EXPECT_EQ(HResult(killed.result), kHresultOk);
    const Frame frame = co_await host->Receive();
    EXPECT_EQ(frame.id, 20);
    const auto exited = Decode<WaitForProcessResponse>(frame.payload);
    EXPECT_EQ(exited->exit_code, 137u);
    EXPECT_EQ(exited->exit_signal, 9u);
    const auto late = co_await host->Call<SimpleResponse>(kSignalProcess, 22, kill);
    EXPECT_EQ(HResult(late.result), kHresultProcessNotFound);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AMissingCommandIsAnErrorWithItsName) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    for (const char* command : kMissing) {
      ExecuteProcessRequest request;
      request.parameters.command_args.assign(1, command);
      const auto answer = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
      EXPECT_EQ(HResult(answer.result), kHresultFailed);
      EXPECT_NE(answer.error_message.find(command), std::string::npos);
      EXPECT_NE(answer.error_message.find("not found"), std::string::npos) << answer.error_message;
    }
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AnExitStatusIsKeptUntilAcknowledged) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exit 9");
    for (int64_t id = 30; id < 33; ++id) {
      const auto exited = co_await host->Wait(pid, id);
      EXPECT_EQ(exited.exit_code, 9u);
      EXPECT_FALSE(exited.exit_signal.has_value());
    }
    const SimpleRequest list;
    auto all = co_await host->Call<ListProcessesResponse>(kListProcesses, 33, list);
    EXPECT_EQ(all.processes.size(), 1u);
    EXPECT_TRUE(!all.processes.empty() && all.processes[0].exited);
    EXPECT_EQ(kill(static_cast<pid_t>(pid), 0), 0) << "the pid must not be free";
    AcknowledgeExitRequest acknowledge;
    acknowledge.process_id = pid;
    const auto done = co_await host->Call<SimpleResponse>(kAcknowledgeExit, 34, acknowledge);
    EXPECT_EQ(HResult(done.result), kHresultOk);
    EXPECT_NE(kill(static_cast<pid_t>(pid), 0), 0);
    const auto gone = co_await host->Wait(pid, 35);
    EXPECT_EQ(HResult(gone.result), kHresultProcessNotFound);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AWaitMayTimeOutAndARunningProcessIsNotForgotten) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = pid;
    wait.timeout_ms = 1;
    const auto late = co_await host->Call<SimpleResponse>(kWaitForProcess, 40, wait);
    EXPECT_EQ(HResult(late.result), kHresultWaitTimeout);
    AcknowledgeExitRequest acknowledge;
    acknowledge.process_id = pid;
    const auto refused = co_await host->Call<SimpleResponse>(kAcknowledgeExit, 41, acknowledge);
    EXPECT_EQ(HResult(refused.result), kHresultInvalidState);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, EnvironmentDirectoryAndBothOutputsAreTheProcesssOwn) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    ExecuteProcessRequest request;
    request.parameters.command_args = Shell("echo $WORD; pwd >&2");
    request.parameters.environment["WORD"] = "yes";
    request.parameters.working_directory = "/usr";
    request.stdio.std_out = kOut;
    request.stdio.std_err = kErr;
    request.stdio.resumable = true;
    const auto started = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
    OutputReader out(transport, kOut);
    OutputReader err(transport, kErr);
    co_await ReadOutput(&out);
    co_await ReadOutput(&err);
    EXPECT_EQ(out.data, "yes\n");
    EXPECT_EQ(err.data, "/usr\n");
    EXPECT_EQ(transport->dials(), 3);  // the bridge, and each output once
    EXPECT_EQ((co_await host->Wait(started.process_id)).exit_code, 0u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ABackgroundChildWithThePipeDoesNotHoldTheExitBack) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("sleep 1000 & exit 3", stdio);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 3u);
    kill(-static_cast<pid_t>(pid), SIGKILL);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ATerminalHasItsSize) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    ExecuteProcessRequest request;
    request.parameters.command_args = Shell("stty size; read line; stty size");
    request.parameters.emulate_console = true;
    request.parameters.console_rows = 24;
    request.parameters.console_columns = 80;
    request.stdio.std_in = kIn;
    request.stdio.std_out = kOut;
    request.stdio.resumable = true;
    const auto started = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
    ResizeConsoleRequest resize;
    resize.process_id = started.process_id;
    resize.height = 50;
    resize.width = 132;
    // The first size may or may not be seen; the second is there before the line is.
    const auto resized = co_await host->Call<SimpleResponse>(kResizeConsole, 2, resize);
    EXPECT_EQ(HResult(resized.result), kHresultOk);
    InputWriter in(transport, kIn, "go\n", false);
    OutputReader out(transport, kOut);
    TaskScope scope(co_await asio::this_coro::executor);
    scope.Spawn(WriteInput(&in));
    co_await ReadOutput(&out);
    EXPECT_NE(out.data.find("50 132"), std::string::npos) << out.data;
    EXPECT_EQ((co_await host->Wait(started.process_id)).exit_code, 0u);
    co_await scope.CancelAndJoin();
  };
  Run(test(&transport_));
}

// A process that is no leader of its group does not get the SIGKILL, and so runs on, as one does
// that hangs in the kernel.
TEST_F(GuestServerTest, AnAgentThatEndsDoesNotWaitForAProcessThatHangs) {
  const pid_t pid = fork();
  if (pid == 0) {
    while (true) pause();
  }
  SpawnedProcess spawned;
  spawned.pid = pid;
  spawned.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  ASSERT_TRUE(spawned.pidfd.valid());
  auto process =
      GuestProcess::Adopt(io_.get_executor(), std::move(spawned), GuestProcess::Kind::kVm);
  process->Abandon();
  io_.poll();
  EXPECT_TRUE(process->collected());
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, WNOHANG), 0) << "it runs on";
  kill(pid, SIGKILL);
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
}

}  // namespace
}  // namespace ferry::bridge
