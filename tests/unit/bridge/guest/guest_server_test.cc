#include "bridge/guest/guest_server.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/unique_fd.h"
#include "tests/unit/bridge/guest/guest_server_fixture.h"

namespace ferry::bridge {
namespace {

constexpr uint32_t kNotAnswered[] = {kDumpStacks, kDeleteContainerState};
constexpr const char* kNotified[] = {"one", "two", "three"};

TEST_F(GuestServerTest, NegotiatesVersionFourAndNothingElse) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const SimpleRequest early;
    const auto refused = co_await host->Call<SimpleResponse>(kListProcesses, 1, early);
    EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
    NegotiateRequest other;
    other.minimum_version = other.maximum_version = 3;
    other.activity_id = "11111111-0000-0000-0000-000000000000";
    const auto bad = co_await host->Call<SimpleResponse>(kNegotiateProtocol, 0, other);
    EXPECT_EQ(HResult(bad.result), kHresultBadProtocolVersion);
    EXPECT_EQ(bad.activity_id, other.activity_id);
    const NegotiateRequest good;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, good);
    EXPECT_EQ(answer.version, 4u);
    EXPECT_EQ(answer.capabilities.runtime_os_type, "Linux");
    EXPECT_TRUE(answer.capabilities.guest_defined.resumable_stdio_supported);
    EXPECT_TRUE(answer.capabilities.guest_defined.acknowledge_exit_supported);
    EXPECT_TRUE(answer.capabilities.guest_defined.signal_process_supported);
    const auto again = co_await host->Call<SimpleResponse>(kNegotiateProtocol, 2, good);
    EXPECT_EQ(HResult(again.result), kHresultNotImplemented);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, EveryConnectionStartsUnnegotiated) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    transport->Break();
    transport->Restore();
    host = co_await Host::Connect(*transport);
    const SimpleRequest early;
    const auto refused = co_await host->Call<SimpleResponse>(kListProcesses, 1, early);
    EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
    const NegotiateRequest good;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, good);
    EXPECT_EQ(answer.version, 4u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, UnknownMessagesAndBadJsonAreAnswered) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    SimpleRequest request;
    request.activity_id = "22222222-0000-0000-0000-000000000000";
    const auto unknown = co_await host->Call<SimpleResponse>(kDumpStacks, 3, request);
    EXPECT_EQ(HResult(unknown.result), kHresultNotImplemented);
    EXPECT_EQ(unknown.activity_id, request.activity_id);
    CreateRequest create;
    create.container_id = std::string(64, 'a');
    create.container_config = "{}";
    const auto container = co_await host->Call<SimpleResponse>(kCreate, 4, create);
    EXPECT_EQ(HResult(container.result), kHresultNotImplemented);
    const std::string bad = *EncodeFrame(kWaitForProcess, 5, "{nonsense");
    const absl::Status ignored = co_await host->connection().Write(bad);
    const Frame frame = co_await host->Receive();
    EXPECT_EQ(frame.id, 5);
    EXPECT_EQ(HResult(Decode<SimpleResponse>(frame.payload)->result), kHresultBadJson);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AnImpossibleHeaderCostsTheConnectionOnly) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    std::string frame = *EncodeFrame(kListProcesses, 1, "{}");
    frame[4] = 3;  // a size below the header's own
    frame[5] = 0;
    const absl::Status ignored = co_await host->connection().Write(frame);
    EXPECT_EQ((co_await host->Receive()).type, 0u);
    host = co_await Host::ConnectAndNegotiate(*transport);
    const SimpleRequest list;
    const auto answer = co_await host->Call<ListProcessesResponse>(kListProcesses, 1, list);
    EXPECT_EQ(HResult(answer.result), kHresultOk);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, AWaitOutlivesItsConnectionAndAnswersAfterTheNegotiation) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = pid;
    co_await host->Send(kWaitForProcess, 50, wait);
    const SimpleRequest list;
    co_await host->Call<ListProcessesResponse>(kListProcesses, 51, list);
    transport->Break();
    kill(static_cast<pid_t>(pid), SIGTERM);
    transport->Restore();
    // Negotiating expects its own answer first, so an early one would fail it.
    host = co_await Host::ConnectAndNegotiate(*transport);
    const Frame frame = co_await host->Receive();
    EXPECT_EQ(frame.type, ResponseType(kWaitForProcess));
    EXPECT_EQ(frame.id, 50);
    EXPECT_EQ(Decode<WaitForProcessResponse>(frame.payload)->exit_signal, 15u);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, NotificationsWaitForTheNegotiation) {
  auto test = [](FakeGuestTransport* transport, GuestServer* server) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    transport->Break();
    ContainerNotification notification;
    notification.container_id = "one";
    notification.type = "UnexpectedExit";
    server->NotifyContainerExit(notification);
    notification.container_id = "two";
    server->NotifyContainerExit(notification);
    transport->Restore();
    host = co_await Host::ConnectAndNegotiate(*transport);
    notification.container_id = "three";
    server->NotifyContainerExit(notification);
    for (const char* id : kNotified) {
      const Frame frame = co_await host->Receive();
      EXPECT_EQ(frame.type, kContainerNotification);
      EXPECT_EQ(Decode<ContainerNotification>(frame.payload)->container_id, id);
    }
  };
  Run(test(&transport_, server_.get()));
}

TEST_F(GuestServerTest, ShutdownEndsProcessesAnswersAndEndsTheServer) {
  auto test = [](FakeGuestTransport* transport, AsyncEvent* ended) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    SimpleRequest elsewhere;
    elsewhere.container_id = std::string(64, 'b');
    const auto refused = co_await host->Call<SimpleResponse>(kShutdownGraceful, 1, elsewhere);
    EXPECT_EQ(HResult(refused.result), kHresultContainerNotFound);
    const SimpleRequest request;
    const auto answer = co_await host->Call<SimpleResponse>(kShutdownGraceful, 2, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk);
    EXPECT_EQ((co_await host->Receive()).type, 0u);
    // The answer would be lost if the VM ended before it was read.
    EXPECT_FALSE(ended->is_set());
    host.reset();
    co_await ended->Wait();
    EXPECT_NE(kill(static_cast<pid_t>(pid), 0), 0);
  };
  Run(test(&transport_, &ended_));
  EXPECT_EQ(end_, GuestServer::End::kShutdownGraceful);
}

TEST_F(GuestServerTest, ClaimsNothingThatItDoesNotAnswer) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest request;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, request);
    const GuestDefinedCapabilities& defined = answer.capabilities.guest_defined;
    EXPECT_FALSE(defined.namespace_add_request_supported);
    EXPECT_FALSE(defined.dump_stacks_supported);
    EXPECT_FALSE(defined.delete_container_state_supported);
    const SimpleRequest simple;
    for (const uint32_t type : kNotAnswered) {
      const auto refused = co_await host->Call<SimpleResponse>(type, 1, simple);
      EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
    }
  };
  Run(test(&transport_));
}

// The answer to a query about the VM, or its HRESULT in words.
Task<std::string> Ask(Host* host, std::string query) {
  GetPropertiesRequest request;
  request.query = std::move(query);
  const auto answer = co_await host->Call<GetPropertiesResponse>(kGetProperties, 9, request);
  if (answer.result != 0) co_return absl::StrCat("0x", absl::Hex(HResult(answer.result)));
  co_return answer.properties;
}

TEST_F(GuestServerTest, GetPropertiesAnswersWhatTheQueryAsksFor) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":["ProcessList"]})"),
              R"({"ProcessList":[]})");
    const uint32_t pid = co_await host->Execute("exec sleep 1000");
    const std::string all = absl::StrCat(R"({"ProcessList":[{"ProcessId":)", pid, R"(,"Exited":)");
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":["ProcessList"]})"), all + "false}]}");
    // One that this agent does not have is left out.
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":["Statistics","ProcessList"]})"),
              all + "false}]}");
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":["Statistics"]})"), "{}");
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":[]})"), "{}");
    EXPECT_EQ(co_await Ask(host.get(), "{}"), "{}");
    EXPECT_EQ(co_await Ask(host.get(), ""), "{}");
    kill(static_cast<pid_t>(pid), SIGKILL);
    co_await host->Wait(pid);
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":["ProcessList"]})"), all + "true}]}");
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, GetPropertiesRefusesWhatIsNoQueryOrNotAboutTheVm) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    EXPECT_EQ(co_await Ask(host.get(), "{nonsense"), "0xc037010d");
    EXPECT_EQ(co_await Ask(host.get(), "[]"), "0xc037010d");
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":"ProcessList"})"), "0xc037010d");
    EXPECT_EQ(co_await Ask(host.get(), R"({"PropertyTypes":[1]})"), "0xc037010d");
    GetPropertiesRequest elsewhere;
    elsewhere.container_id = std::string(64, 'b');
    elsewhere.activity_id = "22222222-0000-0000-0000-000000000000";
    const auto refused = co_await host->Call<SimpleResponse>(kGetProperties, 1, elsewhere);
    EXPECT_EQ(HResult(refused.result), kHresultContainerNotFound);
    EXPECT_EQ(refused.activity_id, elsewhere.activity_id);
  };
  Run(test(&transport_));
}

TEST_F(GuestServerTest, ForcedShutdownKillsWhatIgnoresSignals) {
  auto test = [](FakeGuestTransport* transport, AsyncEvent* ended) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    StdioRelaySettings stdio;
    stdio.std_out = kOut;
    const uint32_t pid = co_await host->Execute(
        "trap '' TERM; echo deaf; while :; do read x < /dev/zero; done", stdio);
    // Deaf before the request comes, so that only force can end it.
    auto out = co_await transport->Accept(kOut);
    char buffer[16];
    EXPECT_EQ((co_await out->Read(buffer)).value_or(0), 5u);
    const SimpleRequest request;
    const auto answer = co_await host->Call<SimpleResponse>(kShutdownForced, 2, request);
    EXPECT_EQ(HResult(answer.result), kHresultOk);
    EXPECT_EQ((co_await host->Receive()).type, 0u);
    co_await ended->Wait();
    EXPECT_NE(kill(static_cast<pid_t>(pid), 0), 0);
  };
  Run(test(&transport_, &ended_));
  EXPECT_EQ(end_, GuestServer::End::kShutdownForced);
}

TEST_F(GuestServerTest, ACancelledServerEndsItsProcessesAlthoughTheHostWaitsForThem) {
  uint32_t pid = 0;
  auto test = [](FakeGuestTransport* transport, uint32_t* pid) -> Task<void> {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    *pid = co_await host->Execute("exec sleep 1000");
    WaitForProcessRequest wait;
    wait.process_id = *pid;
    co_await host->Send(kWaitForProcess, 50, wait);
    const SimpleRequest list;
    co_await host->Call<ListProcessesResponse>(kListProcesses, 51, list);
  };
  Run(test(&transport_, &pid));
  const UniqueFd sleeping(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  ASSERT_TRUE(sleeping.valid());
  server_.reset();
  io_.restart();
  io_.poll();
  // Whoever sees first that it was killed takes its status, so only its end can be asked for.
  struct pollfd ended = {sleeping.get(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 60'000), 1);
}

}  // namespace
}  // namespace ferry::bridge
