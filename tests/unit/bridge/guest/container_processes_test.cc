#include "tests/unit/bridge/guest/container_fixture.h"
#include "tests/unit/bridge/guest/stdio_peers.h"

// Containers' processes: their bytes, signals, exits, and who collects them.
namespace ferry::bridge {
namespace {

constexpr uint32_t kStopped[] = {SIGSTOP, SIGTERM, SIGCONT};

TEST_F(ContainerRequestsTest, BytesGoBothWaysThroughTheInitAndThroughExecs) {
  runtime_.init_script = "exec cat";
  runtime_.exec_script = "echo out; echo err >&2; exit 7";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const auto init = co_await client->Execute(kOne, "", stdio);
    StdioRelaySettings exec_stdio;
    exec_stdio.std_out = kErr;
    exec_stdio.resumable = true;
    const auto exec = co_await client->Execute(kOne, kProcess, exec_stdio);
    OutputReader exec_out(transport, kErr);
    co_await ReadOutput(&exec_out);
    EXPECT_EQ(exec_out.data, "out\n");
    const auto exited = co_await client->host().Wait(exec.process_id);
    EXPECT_EQ(exited.exit_code, 7u);
    InputWriter in(transport, kIn, "through the init", true);
    OutputReader out(transport, kOut);
    TaskScope scope(co_await asio::this_coro::executor);
    scope.Spawn(WriteInput(&in));
    co_await ReadOutput(&out);
    EXPECT_EQ(out.data, "through the init");
    EXPECT_EQ((co_await client->Notification()).type, "UnexpectedExit");
    EXPECT_EQ((co_await client->host().Wait(init.process_id)).exit_code, 0u);
    co_await scope.CancelAndJoin();
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, OutputThatNobodyWantsDoesNotBlockTheProcess) {
  runtime_.init_script = "head -c 1000000 /dev/zero; exit 3";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto init = co_await client->Execute(kOne, "");
    EXPECT_EQ((co_await client->Notification()).container_id, kOne);
    EXPECT_EQ((co_await client->host().Wait(init.process_id)).exit_code, 3u);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, AContainersProcessIsCollectedAtOnceAndItsExitIsKept) {
  runtime_.exec_script = "exit 4";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    co_await client->Execute(kOne, "");
    const auto exec = co_await client->Execute(kOne, kProcess);
    EXPECT_EQ((co_await client->host().Wait(exec.process_id)).exit_code, 4u);
    // No zombie, which would keep the init of its pid namespace from ending.
    EXPECT_NE(kill(static_cast<pid_t>(exec.process_id), 0), 0);
    EXPECT_EQ((co_await client->host().Wait(exec.process_id)).exit_code, 4u);
    AcknowledgeExitRequest acknowledge;
    acknowledge.process_id = exec.process_id;
    co_await client->host().Call<SimpleResponse>(kAcknowledgeExit, 7, acknowledge);
    const auto gone = co_await client->host().Wait(exec.process_id);
    EXPECT_EQ(HResult(gone.result), kHresultProcessNotFound);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, TheReaperTakesNothingWhileTheRuntimeRuns) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 GuestServer* server) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_FALSE(server->Owns(4'000'000));
    runtime->go().Reset();
    CreateRequest create;
    create.container_id = kOne;
    ContainerConfig config;
    config.oci_bundle_path = "/run/gcs/c/1";
    config.oci_specification =
        R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"/r"}})";
    create.container_config = Encode(config);
    co_await client->host().Send(kCreate, 11, create);
    const SimpleRequest list;
    while (!server->Owns(4'000'000)) {
      co_await client->host().Call<ListProcessesResponse>(kListProcesses, 12, list);
    }
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"created"})");
    EXPECT_EQ(co_await client->Simple(kDeleteContainerState, kOne), kHresultInvalidState);
    runtime->go().Set();
    EXPECT_EQ((co_await client->host().Receive()).id, 11);
    EXPECT_FALSE(server->Owns(4'000'000));
    for (const pid_t child : ListChildren()) {
      EXPECT_TRUE(server->Owns(static_cast<uint32_t>(child)));
    }
  };
  Run(test(&transport_, &runtime_, server_.get()));
}

TEST_F(ContainerRequestsTest, ATerminalIsDecidedWhenTheContainerIsCreated) {
  runtime_.init_script = "stty size; exec sleep 1000";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne, "", /*terminal=*/true), kHresultOk);
    // hcsshim's hosts leave EmulateConsole away.
    ExecuteProcessRequest request;
    request.container_id = kOne;
    request.stdio.std_out = kOut;
    const auto init =
        co_await client->host().Call<ExecuteProcessResponse>(kExecuteProcess, 2, request);
    EXPECT_EQ(HResult(init.result), kHresultOk) << init.error_message;
    auto out = co_await transport->Accept(kOut);
    char buffer[16];
    const absl::StatusOr<size_t> got = co_await out->Read(buffer);
    EXPECT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(std::string(buffer, got.value_or(0)), "0 0\r\n");
    ResizeConsoleRequest resize;
    resize.process_id = init.process_id;
    resize.height = 50;
    resize.width = 132;
    const auto resized = co_await client->host().Call<SimpleResponse>(kResizeConsole, 8, resize);
    EXPECT_EQ(HResult(resized.result), kHresultOk) << resized.error_message;
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, WhoWaitsForTheInitIsToldBeforeTheExitIsNotified) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto init = co_await client->Execute(kOne, "");
    WaitForProcessRequest wait;
    wait.process_id = init.process_id;
    co_await client->host().Send(kWaitForProcess, 20, wait);
    const SimpleRequest list;
    co_await client->host().Call<ListProcessesResponse>(kListProcesses, 21, list);
    kill(static_cast<pid_t>(init.process_id), SIGKILL);
    EXPECT_EQ((co_await client->host().Receive()).id, 20);
    EXPECT_EQ((co_await client->Notification()).type, "UnexpectedExit");
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, OnlyASignalThatEndsItDecidesHowTheExitIsCalled) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto init = co_await client->Execute(kOne, "");
    // Stopped, it takes the SIGTERM only when it goes on.
    for (const uint32_t signal : kStopped) {
      EXPECT_EQ(co_await client->Signal(init.process_id, signal), kHresultOk);
    }
    EXPECT_EQ((co_await client->Notification()).type, "GracefulExit");
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, WhatEndsBeforeItIsKnownIsKeptAndOrphansGoWhenTheGateOpens) {
  runtime_.exec_script = "exit 4";
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 std::function<void()> reap) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    co_await client->Execute(kOne, "");
    runtime->made().Reset();
    ExecuteProcessRequest request;
    request.container_id = kOne;
    request.parameters.oci_process = kProcess;
    co_await client->host().Send(kExecuteProcess, 30, request);
    const SimpleRequest list;
    while (runtime->calls.back().substr(0, 4) != "exec") {
      co_await client->host().Call<ListProcessesResponse>(kListProcesses, 31, list);
    }
    AwaitZombie();
    const pid_t orphan = fork();
    if (orphan == 0) _exit(0);
    siginfo_t info = {};
    waitid(P_PID, static_cast<id_t>(orphan), &info, WEXITED | WNOWAIT);
    reap();
    EXPECT_TRUE(IsZombie(orphan));
    runtime->made().Set();
    const Frame answer = co_await client->host().Receive();
    EXPECT_EQ(answer.id, 30);
    const auto exec = Decode<ExecuteProcessResponse>(answer.payload);
    EXPECT_EQ((co_await client->host().Wait(exec->process_id)).exit_code, 4u);
    // No signal comes for it any more.
    EXPECT_FALSE(IsZombie(orphan));
  };
  Run(test(&transport_, &runtime_, [this] { Reap(); }));
}

TEST_F(ContainerRequestsTest, ProcessesThatHaveEndedHoldNoDescriptors) {
  runtime_.exec_script = "exit 4";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    co_await client->Execute(kOne, "");
    const size_t before = OpenFiles();
    for (int i = 0; i < 5; ++i) {
      const auto exec = co_await client->Execute(kOne, kProcess);
      EXPECT_EQ((co_await client->host().Wait(exec.process_id)).exit_code, 4u);
    }
    // The end of their output may be seen a moment later.
    while (OpenFiles() > before) co_await client->Properties(kOne, "State");
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, AShutdownOfAContainerEndsItsInitAlone) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Simple(kShutdownForced, kOne), kHresultContainerNotFound);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Create(kTwo), kHresultOk);
    co_await client->Execute(kOne, "");
    co_await client->Execute(kTwo, "");
    EXPECT_EQ(co_await client->Simple(kShutdownForced, kOne), kHresultOk);
    const auto notification = co_await client->Notification();
    EXPECT_EQ(notification.container_id, kOne);
    EXPECT_EQ(notification.type, "ForcedExit");
    EXPECT_EQ(co_await client->Simple(kShutdownGraceful, kOne), kHresultAlreadyStopped);
    EXPECT_EQ(co_await client->Properties(kTwo, "State"), R"({"State":"running"})");
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, AForcedShutdownAsksTheRuntimeForNothing) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 AsyncEvent* ended) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto init = co_await client->Execute(kOne, "");
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kOne), kHresultOk);
    // It would never answer.
    runtime->go().Reset();
    SimpleRequest request;
    co_await client->host().Send(kShutdownForced, 9, request);
    co_await ended->Wait();
    EXPECT_EQ(runtime->calls.back(), "pause 1");
    EXPECT_NE(kill(static_cast<pid_t>(init.process_id), 0), 0);
  };
  Run(test(&transport_, &runtime_, &ended_));
  EXPECT_EQ(end_, GuestServer::End::kShutdownForced);
}

TEST_F(ContainerRequestsTest, TheVmsShutdownEndsContainersInEveryState) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 AsyncEvent* ended) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Create(kTwo), kHresultOk);
    const auto init = co_await client->Execute(kTwo, "");
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kTwo), kHresultOk);
    SimpleRequest request;
    co_await client->host().Send(kShutdownGraceful, 9, request);
    co_await ended->Wait();
    EXPECT_EQ(runtime->calls.back(), "resume 2");
    EXPECT_NE(kill(static_cast<pid_t>(init.process_id), 0), 0);
  };
  Run(test(&transport_, &runtime_, &ended_));
  EXPECT_EQ(end_, GuestServer::End::kShutdownGraceful);
}

}  // namespace
}  // namespace ferry::bridge
