#include "bridge/guest/wall_clock.h"

#include <limits>

#include "tests/unit/bridge/guest/guest_server_fixture.h"

namespace ferry::bridge {
namespace {

struct FakeClock : WallClock {
  int64_t Now() const override { return now; }
  absl::Status Adjust(int64_t offset_ns) override {
    const absl::StatusOr<int64_t> then = Adjusted(now, offset_ns);
    if (then.ok()) now = *then;
    return then.status();
  }
  int64_t now = 5'000'000'000;
};

TEST(WallClockTest, OffsetsThatNoClockTakesAreRefused) {
  EXPECT_EQ(*Adjusted(7, -7), 0);
  EXPECT_EQ(*Adjusted(7, 5), 12);
  EXPECT_TRUE(absl::IsInvalidArgument(Adjusted(7, -8).status()));
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(*Adjusted(0, most), most);
  EXPECT_TRUE(absl::IsInvalidArgument(Adjusted(1, most).status()));
}

TEST(WallClockTest, TheKernelsClockIsRead) {
  const KernelWallClock clock;
  constexpr int64_t kIn2020 = 1'577'836'800'000'000'000;
  EXPECT_GT(clock.Now(), kIn2020);
}

class ClockRequestsTest : public GuestServerTest {
 protected:
  void UseClock() {
    GuestServer::Options options;
    options.clock = &clock_;
    server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  }

  FakeClock clock_;
};

TEST_F(ClockRequestsTest, TheClockIsToldAndSet) {
  UseClock();
  auto test = [](FakeGuestTransport* transport, FakeClock* clock) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest negotiate;
    const auto terms = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, negotiate);
    EXPECT_TRUE(terms.capabilities.guest_defined.clock_supported);
    const SimpleRequest get;
    const auto told = co_await host->Call<GetClockResponse>(kGetClock, 1, get);
    EXPECT_EQ(told.unix_ns, 5'000'000'000u);
    AdjustClockRequest adjust;
    adjust.offset_ns = -3'000'000'000;
    const auto set = co_await host->Call<SimpleResponse>(kAdjustClock, 2, adjust);
    EXPECT_EQ(HResult(set.result), kHresultOk);
    EXPECT_EQ(clock->now, 2'000'000'000);
    const auto refused = co_await host->Call<SimpleResponse>(kAdjustClock, 3, adjust);
    EXPECT_EQ(HResult(refused.result), kHresultInvalidArgument);
    EXPECT_EQ(clock->now, 2'000'000'000);
  };
  Run(test(&transport_, &clock_));
}

TEST_F(ClockRequestsTest, AnAgentWithoutAClockOfItsOwnSaysSo) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest negotiate;
    const auto terms = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, negotiate);
    EXPECT_FALSE(terms.capabilities.guest_defined.clock_supported);
    AdjustClockRequest adjust;
    adjust.offset_ns = 1;
    const auto refused = co_await host->Call<SimpleResponse>(kAdjustClock, 1, adjust);
    EXPECT_EQ(HResult(refused.result), kHresultNotImplemented);
  };
  Run(test(&transport_));
}

}  // namespace
}  // namespace ferry::bridge
