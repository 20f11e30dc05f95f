#include "bridge/guest/stdio_stream.h"

#include <string.h>

#include <random>

#include "tests/unit/bridge/guest/guest_server_fixture.h"
#include "tests/unit/bridge/guest/stdio_peers.h"

namespace ferry::bridge {
namespace {

constexpr const char* kDeafScripts[] = {"exec <&-; exec sleep 1000", "exit 0"};

TEST_F(GuestServerTest, PlainStdioEndsInOrder) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.std_out = kOut;
    const uint32_t pid = co_await host->Execute("exec cat", stdio);
    auto in = co_await transport->Accept(kIn);
    auto out = co_await transport->Accept(kOut);
    absl::Status status = co_await in->Write("hello");
    status = co_await in->CloseWrite();
    std::string all;
    char buffer[64];
    while (true) {
      const absl::StatusOr<size_t> got = co_await out->Read(buffer);
      EXPECT_TRUE(got.ok()) << got.status();
      if (!got.ok() || *got == 0) break;
      all.append(buffer, *got);
    }
    EXPECT_EQ(all, "hello");
    out->Close();
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, OutputOfAnExitedProcessWaitsForTheHost) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("echo last words", stdio);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
    transport->Break();
    transport->Restore();
    OutputReader out(transport, kOut);
    co_await ReadOutput(&out);
    EXPECT_EQ(out.data, "last words\n");
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, StdinThatNobodyReadsIsClosedInOrder) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.resumable = true;
    for (const char* script : kDeafScripts) {
      const uint32_t pid = co_await host->Execute(script, stdio);
      InputWriter in(transport, kIn, "", false);
      co_await WriteInput(&in);
      EXPECT_EQ(in.closed_at, 0u);
      EXPECT_TRUE(in.reader_gone);
      SignalProcessRequest request;
      request.process_id = pid;
      co_await host->Call<SimpleResponse>(kSignalProcess, 9, request);
    }
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, FiftyMegabytesThroughCatSurviveRandomCuts) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    std::mt19937_64 random(1);
    std::string data(50 << 20, '\0');
    for (size_t i = 0; i < data.size(); i += 8) {
      const uint64_t value = random();
      memcpy(data.data() + i, &value, 8);
    }
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("exec cat", stdio);
    InputWriter in(transport, kIn, data);
    OutputReader out(transport, kOut);
    out.cut_about_every = 2 << 20;
    TaskScope scope(co_await asio::this_coro::executor);
    scope.Spawn(WriteInput(&in));
    co_await ReadOutput(&out);
    EXPECT_TRUE(out.data == data);
    EXPECT_GT(out.cuts, 5);
    co_await scope.CancelAndJoin();
    transport->Break();
    transport->Restore();
    host = co_await Host::ConnectAndNegotiate(*transport);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ARefusedPortOfAPlainStreamKeepsTheProcessFromStarting) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    transport->Refuse(kOut);
    ExecuteProcessRequest request;
    request.parameters.command_args = Shell("exec sleep 1000");
    request.stdio.std_out = kOut;
    const auto answer = co_await host->Call<ExecuteProcessResponse>(kExecuteProcess, 1, request);
    EXPECT_EQ(HResult(answer.result), kHresultFailed);
    EXPECT_FALSE(answer.error_message.empty());
    const SimpleRequest list;
    const auto all = co_await host->Call<ListProcessesResponse>(kListProcesses, 2, list);
    EXPECT_TRUE(all.processes.empty());
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ARefusedPortOfAResumableStreamIsDialledUntilItIsOpen) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    transport->Refuse(kOut);
    const int before = transport->dials();
    StdioRelaySettings stdio;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const uint32_t pid = co_await host->Execute("echo patience", stdio);
    EXPECT_EQ((co_await host->Wait(pid)).exit_code, 0u);
    // Each of these is a round trip to the agent, which goes on dialling meanwhile.
    while (transport->dials() < before + 3) {
      const SimpleRequest list;
      co_await host->Call<ListProcessesResponse>(kListProcesses, 9, list);
    }
    transport->Allow(kOut);
    OutputReader out(transport, kOut);
    co_await ReadOutput(&out);
    EXPECT_EQ(out.data, "patience\n");
  };
  Run(test(&transport_));
}

}  // namespace
}  // namespace ferry::bridge
