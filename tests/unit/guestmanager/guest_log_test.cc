#include "guestmanager/guest_log.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "bridge/transport/fake_host_transport.h"
#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class GuestLogTest : public GuestTest {
 protected:
  void SetUp() override {
    GuestTest::SetUp();
    log_ = Open(*transport_);
  }
  void TearDown() override {
    log_->Close();
    GuestTest::TearDown();
  }

  std::shared_ptr<GuestLog> Open(FakeHostTransport& transport) {
    gate_ = std::make_shared<LinkGate>(io_.get_executor(), transport);
    auto log = std::make_shared<GuestLog>(
        gate_, [this](bridge::LogLevel, const std::string& text) { lines_.push_back(text); });
    EXPECT_TRUE(log->Listen().ok());
    return log;
  }

  std::unique_ptr<bridge::Connection> Dial() {
    auto dialled = transport_->Dial(bridge::kGuestLogPort);
    EXPECT_TRUE(dialled.ok()) << dialled.status();
    Settle();
    return *std::move(dialled);
  }

  void Send(bridge::Connection& agent, std::string text) {
    auto written = Start(agent.Write(text));
    EXPECT_TRUE(written->has_value() && (*written)->ok());
  }

  static std::string Record(uint64_t sequence, const std::string& text) {
    return Encode(bridge::LogRecord{.sequence = sequence, .message = text});
  }

  std::string Received(bridge::Connection& agent) {
    std::array<char, 256> buffer;
    auto got = Start(agent.Read(buffer));
    if (!got->has_value() || !(*got)->ok()) return "";
    return std::string(buffer.data(), ***got);
  }

  std::shared_ptr<LinkGate> gate_;
  std::shared_ptr<GuestLog> log_;
  std::vector<std::string> lines_;
};

TEST_F(GuestLogTest, RecordsArePassedOnAndAcknowledged) {
  const auto agent = Dial();
  Send(*agent, Record(3, "a") + Record(4, "b"));
  EXPECT_THAT(lines_, ElementsAre("a", "b"));
  EXPECT_EQ(Received(*agent), "4\n");
}

TEST_F(GuestLogTest, WhatComesAgainIsAcknowledgedAgainAndPassedOnOnce) {
  auto agent = Dial();
  Send(*agent, Record(3, "a"));
  agent = Dial();
  Send(*agent, Record(3, "a") + Record(5, "c"));
  EXPECT_THAT(lines_, ElementsAre("a", "c"));
  EXPECT_EQ(Received(*agent), "5\n");
}

TEST_F(GuestLogTest, LastWordsWithoutANumberArePassedOnToo) {
  const auto agent = Dial();
  Send(*agent, "panic: it is over\n");
  EXPECT_THAT(lines_, ElementsAre("panic: it is over"));
}

TEST_F(GuestLogTest, AFrozenGuestIsReadLater) {
  const auto agent = Dial();
  gate_->open.Reset();
  Send(*agent, Record(3, "a"));
  EXPECT_THAT(lines_, IsEmpty());
  gate_->open.Set();
  Settle();
  EXPECT_THAT(lines_, ElementsAre("a"));
}

TEST_F(GuestLogTest, AGuestThatLogsTooMuchIsReadLater) {
  const auto agent = Dial();
  std::string records;
  for (int i = 1; i <= 3 * LogAllowance::kLines; ++i) records += Record(i, "spam");
  Send(*agent, records);
  EXPECT_THAT(lines_, SizeIs(LogAllowance::kLines));
  // Somebody who waits for room is woken.
  log_->Close();
  Settle();
  EXPECT_EQ(log_.use_count(), 1);
}

TEST_F(GuestLogTest, AllGuestsTogetherLogNoMoreThanTheDaemonMay) {
  const int all = LogAllowance::kLines + 7;
  const auto shared = std::make_shared<LogAllowance>(all);
  std::string records;
  for (int i = 1; i <= 3 * LogAllowance::kLines; ++i) records += Record(i, "spam");
  std::vector<std::shared_ptr<GuestLog>> logs;
  std::vector<std::unique_ptr<FakeHostTransport>> transports;
  std::vector<std::unique_ptr<bridge::Connection>> agents;
  for (int guest = 0; guest < 3; ++guest) {
    auto& transport =
        transports.emplace_back(std::make_unique<FakeHostTransport>(io_.get_executor()));
    auto& log = logs.emplace_back(std::make_shared<GuestLog>(
        std::make_shared<LinkGate>(io_.get_executor(), *transport),
        [this](bridge::LogLevel, const std::string& text) { lines_.push_back(text); }, shared));
    ASSERT_TRUE(log->Listen().ok());
    auto dialled = transport->Dial(bridge::kGuestLogPort);
    ASSERT_TRUE(dialled.ok()) << dialled.status();
    agents.push_back(*std::move(dialled));
    Settle();
    Send(*agents.back(), records);
  }
  EXPECT_THAT(lines_, SizeIs(all));
  for (const auto& log : logs) log->Close();
  Settle();
}

TEST_F(GuestLogTest, EmptyLinesCountToo) {
  const auto agent = Dial();
  Send(*agent, std::string(60'000, '\n'));
  EXPECT_THAT(lines_, SizeIs(LogAllowance::kLines));
}

TEST(LogAllowanceTest, IsRenewed) {
  LogAllowance allowance;
  const std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  for (int i = 0; i < LogAllowance::kLines; ++i) {
    EXPECT_EQ(allowance.Wait(begin).count(), 0);
    allowance.Take();
  }
  EXPECT_EQ(allowance.Wait(begin), LogAllowance::kPeriod);
  EXPECT_EQ(allowance.Wait(begin + LogAllowance::kPeriod / 2), LogAllowance::kPeriod / 2);
  EXPECT_EQ(allowance.Wait(begin + LogAllowance::kPeriod).count(), 0);
}

}  // namespace
}  // namespace ferry::guest
