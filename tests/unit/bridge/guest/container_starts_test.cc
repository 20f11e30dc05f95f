#include <algorithm>

#include "tests/unit/bridge/guest/container_fixture.h"

// A start that comes again, because its request or its answer may have been lost.
namespace ferry::bridge {
namespace {

constexpr int64_t kCall = 50;
constexpr int64_t kOtherCall = 51;

class ContainerStartsTest : public ContainerRequestsTest {
 protected:
  int64_t Starts() const {
    return std::count(runtime_.calls.begin(), runtime_.calls.end(), kStart1);
  }
  static inline const std::string kStart1 = "start 1";
};

TEST_F(ContainerStartsTest, AnnouncesThatItAnswersThemAgain) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest request;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, request);
    EXPECT_TRUE(answer.capabilities.guest_defined.repeated_start_supported);
  };
  Run(test(&transport_));
}

TEST_F(ContainerStartsTest, TheSameCallIsAnsweredAgain) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto first = co_await client->Start(kOne, kCall);
    EXPECT_EQ(HResult(first.result), kHresultOk) << first.error_message;
    EXPECT_NE(first.process_id, 0u);
    // Also to another host.
    client->host().connection().Close();
    auto moved = co_await ContainerClient::Connect(transport);
    const auto again = co_await moved->Start(kOne, kCall);
    EXPECT_EQ(HResult(again.result), kHresultOk) << again.error_message;
    EXPECT_EQ(again.process_id, first.process_id);
    // Also when the init has exited.
    EXPECT_EQ(co_await moved->Signal(first.process_id, SIGKILL), kHresultOk);
    EXPECT_EQ((co_await moved->Notification()).container_id, kOne);
    const auto late = co_await moved->Start(kOne, kCall);
    EXPECT_EQ(late.process_id, first.process_id);
    EXPECT_EQ((co_await moved->host().Wait(first.process_id)).exit_signal, 9u);
  };
  Run(test(&transport_));
  EXPECT_EQ(Starts(), 1);
}

TEST_F(ContainerStartsTest, AnotherCallIsRefused) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto first = co_await client->Start(kOne, kCall);
    EXPECT_EQ(HResult(first.result), kHresultOk) << first.error_message;
    EXPECT_EQ(HResult((co_await client->Start(kOne, kOtherCall)).result), kHresultInvalidState);
    // An id that was given again, by a host that does not know of its first use.
    EXPECT_EQ(HResult((co_await client->Start(kOne, kCall, kErr)).result), kHresultInvalidState);
    EXPECT_EQ((co_await client->Start(kOne, kCall)).process_id, first.process_id);
    EXPECT_EQ(HResult((co_await client->Start(kTwo, kCall)).result), kHresultContainerNotFound);
  };
  Run(test(&transport_));
  EXPECT_EQ(Starts(), 1);
}

TEST_F(ContainerStartsTest, AFailureIsToldAgain) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    runtime->failures["start"] =
        WithRunFailure(absl::InternalError("crun: no such command"), RunFailure::kCannotRun);
    for (int time = 0; time < 2; ++time) {
      const auto refused = co_await client->Start(kOne, kCall);
      EXPECT_EQ(HResult(refused.result), kHresultCannotRun);
      EXPECT_EQ(refused.error_message, "crun: no such command");
    }
    // The container is as it was, and somebody else may try.
    const auto other = co_await client->Start(kOne, kOtherCall);
    EXPECT_EQ(HResult(other.result), kHresultOk) << other.error_message;
  };
  Run(test(&transport_, &runtime_));
  EXPECT_EQ(Starts(), 2);
}

TEST_F(ContainerStartsTest, OneThatIsUnderWayIsAnsweredOnce) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    runtime->go().Reset();
    const ExecuteProcessRequest request = ContainerClient::StartRequest(kOne, kOut);
    co_await client->host().Send(kExecuteProcess, kCall, request);
    client->host().connection().Close();
    auto moved = co_await ContainerClient::Connect(transport);
    co_await moved->host().Send(kExecuteProcess, kCall, request);
    // Another one meanwhile is refused at once, and is not the one whose answer is remembered.
    EXPECT_EQ(HResult((co_await moved->Start(kOne, kOtherCall)).result), kHresultInvalidState);
    runtime->go().Set();
    const Frame answer = co_await moved->host().Receive();
    EXPECT_EQ(answer.id, kCall);
    const auto started = Decode<ExecuteProcessResponse>(answer.payload);
    EXPECT_TRUE(started.ok() && started->process_id != 0) << answer.payload;
    // What comes next is the answer to the next question.
    EXPECT_EQ(co_await moved->Properties(kOne, "State"), R"({"State":"running"})");
    EXPECT_EQ((co_await moved->Start(kOne, kCall)).process_id, started->process_id);
  };
  Run(test(&transport_, &runtime_));
  EXPECT_EQ(Starts(), 1);
}

}  // namespace
}  // namespace ferry::bridge
