#include "migration/connection/session_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/migration/connection/session_core_fixture.h"

namespace ferry::migration {
namespace {

using std::chrono::milliseconds;

TEST_F(SessionCoreTest, BulkGoesBothWaysByteExactUnderRandomChunking) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    SessionLimits limits;
    limits.window = 96 * 1024;
    Connect(limits);
    const uint16_t channel = OpenChannel();
    const std::string there = RandomBytes(700'000, seed);
    const std::string back = RandomBytes(300'000, seed + 100);
    std::mt19937 random(seed);
    size_t there_at = 0;
    size_t back_at = 0;
    const auto feed = [&](End* end, const std::string& bytes, size_t* at) {
      if (*at == bytes.size() || end->core.queued_buffers(channel) >= 2) return;
      const size_t size = std::min<size_t>(1 + random() % 300'000, bytes.size() - *at);
      end->core.QueueData(channel, std::string_view(bytes).substr(*at, size));
      *at += size;
      if (*at == bytes.size()) end->core.CloseHalf(channel);
    };
    for (int step = 0;
         step < 200'000 && (source_->core.IsOpen(channel) || destination_->core.IsOpen(channel));
         ++step) {
      feed(source_.get(), there, &there_at);
      feed(destination_.get(), back, &back_at);
      Write(source_.get(), random() % 3);
      Write(destination_.get(), random() % 3);
      Deliver(source_.get(), destination_.get(), random() % 50'000);
      Deliver(destination_.get(), source_.get(), random() % 50'000);
      ASSERT_TRUE(source_->status.ok()) << source_->status;
      ASSERT_TRUE(destination_->status.ok()) << destination_->status;
    }
    EXPECT_TRUE(destination_->received[channel] == there) << "seed " << seed;
    EXPECT_TRUE(source_->received[channel] == back) << "seed " << seed;
    EXPECT_EQ(source_->core.SentDigest(channel), destination_->core.ReceivedDigest(channel));
    EXPECT_EQ(destination_->core.SentDigest(channel), source_->core.ReceivedDigest(channel));
    EXPECT_EQ(source_->core.SentDigest(channel)->bytes, there.size());
    EXPECT_EQ(source_->core.statistics().bulk_bytes_sent, there.size());
    EXPECT_EQ(destination_->core.statistics().bytes_received,
              source_->core.statistics().bytes_sent);
  }
}

TEST_F(SessionCoreTest, ControlMessageOvertakesQueuedBulkButForOneFrame) {
  Connect();
  const uint16_t channel = OpenChannel();
  const std::string bulk(3 * kMaxBulkPayload, 'b');
  source_->core.QueueData(channel, bulk);
  source_->sent_types.clear();
  ASSERT_EQ(Write(source_.get(), 1), 1u);  // bulk is under way
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kProof, "yes"}).ok());
  Write(source_.get());
  const std::vector<FrameType> expected = {FrameType::kData, FrameType::kMessage, FrameType::kData,
                                           FrameType::kData};
  EXPECT_EQ(source_->sent_types, expected);
}

TEST_F(SessionCoreTest, LongMessageAndBulkTakeTurns) {
  Connect();
  const uint16_t channel = OpenChannel();
  const std::string bulk(3 * kMaxBulkPayload, 'b');
  const std::string cut = RandomBytes(3 * kMaxFragment + 5, 9);
  source_->core.QueueData(channel, bulk);
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kCut, cut}).ok());
  source_->sent_types.clear();
  Run();
  const auto m = FrameType::kMessage;
  const auto d = FrameType::kData;
  const std::vector<FrameType> expected = {m, d, m, d, m, d, m};
  EXPECT_EQ(source_->sent_types, expected);
  ASSERT_EQ(destination_->messages.size(), 1u);
  EXPECT_TRUE(destination_->messages[0].bytes == cut);
  EXPECT_EQ(destination_->messages[0].kind, MessageKind::kCut);
  EXPECT_EQ(destination_->received[channel].size(), bulk.size());
}

TEST_F(SessionCoreTest, MessagesArriveInOrderAlsoEmptyOnes) {
  Connect();
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kProof, ""}).ok());
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kProof, "two"}).ok());
  Run();
  ASSERT_EQ(destination_->messages.size(), 2u);
  EXPECT_EQ(destination_->messages[0].bytes, "");
  EXPECT_EQ(destination_->messages[1].bytes, "two");
  EXPECT_EQ(source_->core.statistics().messages_sent, 2u);
  EXPECT_EQ(destination_->core.statistics().messages_received, 2u);
}

TEST_F(SessionCoreTest, StuckChannelHoldsUpNeitherMessagesNorOtherChannels) {
  SessionLimits limits;
  limits.window = 64 * 1024;
  Connect(limits);
  const uint16_t stuck = OpenChannel();
  const uint16_t lively = OpenChannel();
  destination_->consume = false;
  const std::string bulk(1024 * 1024, 's');
  source_->core.QueueData(stuck, bulk);
  Run();
  EXPECT_EQ(destination_->received[stuck].size(), limits.window) << "credit bounds what is sent";
  destination_->consume = true;
  source_->core.QueueData(lively, bulk);
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kProof, "go"}).ok());
  Run();
  EXPECT_EQ(destination_->received[lively].size(), bulk.size());
  EXPECT_EQ(destination_->messages.size(), 1u);
  EXPECT_EQ(destination_->received[stuck].size(), limits.window);
  // What is consumed later lets the rest follow.
  destination_->core.Consumed(stuck, limits.window);
  Run();
  EXPECT_EQ(destination_->received[stuck].size(), bulk.size());
}

TEST_F(SessionCoreTest, MoreDataThanGrantedIsAViolation) {
  SessionLimits small;
  small.window = 1000;
  Connect(small);
  const uint16_t channel = OpenChannel();
  destination_->consume = false;
  FrameHeader header;
  header.type = FrameType::kData;
  header.length = 1001;
  header.channel = channel;
  header.sequence = source_->core.statistics().frames_sent;
  const auto raw = EncodeHeader(header);
  source_->wire = std::string(raw.data(), raw.size()) + std::string(1001, 'x');
  Deliver(source_.get(), destination_.get());
  EXPECT_EQ(destination_->status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionCoreTest, FlippedBulkByteIsDataLossOnBothSides) {
  Connect();
  const uint16_t channel = OpenChannel();
  const std::string bulk(5000, 'b');
  source_->core.QueueData(channel, bulk);
  source_->core.CloseHalf(channel);
  Write(source_.get());
  source_->wire[kFrameHeaderSize + 2500] ^= 1;
  Deliver(source_.get(), destination_.get());
  EXPECT_EQ(destination_->status.code(), absl::StatusCode::kDataLoss) << destination_->status;
  Write(destination_.get());
  Deliver(destination_.get(), source_.get());
  const SessionEvent* goodbye = source_->Find(Kind::kGoodbye);
  ASSERT_NE(goodbye, nullptr);
  EXPECT_EQ(goodbye->status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(SessionCoreTest, LostFrameIsDataLoss) {
  Connect();
  source_->core.SendPing();
  Write(source_.get());
  source_->wire.clear();
  source_->core.SendPing();
  Run();
  EXPECT_EQ(destination_->status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(SessionCoreTest, ResetEndsTheChannelAndSaysWhy) {
  Connect();
  const uint16_t channel = OpenChannel();
  const std::string bulk(1000, 'b');
  destination_->core.Reset(channel, "the VMM closed its socket");
  source_->core.QueueData(channel, bulk);  // crosses the reset
  Run();
  const SessionEvent* reset = source_->Find(Kind::kReset);
  ASSERT_NE(reset, nullptr);
  EXPECT_EQ(reset->channel, channel);
  EXPECT_EQ(reset->text, "the VMM closed its socket");
  EXPECT_FALSE(source_->core.IsOpen(channel));
  EXPECT_TRUE(destination_->status.ok()) << destination_->status;
  EXPECT_TRUE(destination_->received[channel].empty());
}

TEST_F(SessionCoreTest, ChannelsBeyondTheLimitAreNotOpened) {
  SessionLimits limits;
  limits.max_channels = 3;
  Connect(limits);
  std::set<uint16_t> ids;
  for (int i = 0; i < 3; ++i) ids.insert(OpenChannel());
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_EQ(source_->core.Open().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SessionCoreTest, PingMeasuresTheRoundTrip) {
  Connect();
  const uint64_t id = source_->core.SendPing();
  now_ += milliseconds(5);
  Write(source_.get());  // time counts from the writing
  now_ += milliseconds(30);
  Deliver(source_.get(), destination_.get());
  Write(destination_.get());
  now_ += milliseconds(12);
  Deliver(destination_.get(), source_.get());
  const SessionEvent* pong = source_->Find(Kind::kPong);
  ASSERT_NE(pong, nullptr);
  EXPECT_EQ(pong->id, id);
  EXPECT_EQ(pong->rtt, milliseconds(42));
}

TEST_F(SessionCoreTest, SilentPeerIsLostAfterTheLimitAndNotBefore) {
  Connect();
  source_->sent_types.clear();
  for (int i = 0; i < 19; ++i) {
    now_ += milliseconds(250);
    ASSERT_TRUE(source_->core.Tick(now_).ok()) << i;
    Write(source_.get());
  }
  EXPECT_EQ(std::count(source_->sent_types.begin(), source_->sent_types.end(), FrameType::kPing),
            4);
  now_ += milliseconds(250);
  EXPECT_EQ(source_->core.Tick(now_).code(), absl::StatusCode::kUnavailable);
}

TEST_F(SessionCoreTest, AnsweringPeerIsNeverLost) {
  Connect();
  for (int i = 0; i < 200; ++i) {
    now_ += milliseconds(250);
    ASSERT_TRUE(source_->core.Tick(now_).ok()) << i;
    Run();
  }
}

TEST_F(SessionCoreTest, OwnStandstillIsNotBlamedOnThePeer) {
  Connect();
  now_ += std::chrono::seconds(60);
  EXPECT_TRUE(source_->core.Tick(now_).ok());
  now_ += milliseconds(250);
  EXPECT_TRUE(source_->core.Tick(now_).ok());
  for (int i = 0; i < 4; ++i) now_ += milliseconds(250), source_->core.Tick(now_).IgnoreError();
  EXPECT_FALSE(source_->core.Tick(now_).ok());
}

TEST_F(SessionCoreTest, RateLimitHoldsBulkBackButNotMessages) {
  Connect();
  const uint16_t channel = OpenChannel();
  const std::string bulk(8 * kMaxBulkPayload, 'b');
  source_->core.SetRateLimit(kMaxBulkPayload, now_);  // one frame per second
  source_->core.QueueData(channel, bulk);
  Run();
  EXPECT_EQ(destination_->received[channel].size(), kMaxBulkPayload) << "the first frame goes";
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kProof, "go"}).ok());
  Run();
  EXPECT_EQ(destination_->messages.size(), 1u);
  EXPECT_EQ(destination_->received[channel].size(), kMaxBulkPayload);
  const auto next = source_->core.NextBulkTime();
  ASSERT_TRUE(next.has_value());
  EXPECT_GT(*next, now_ + milliseconds(950));
  EXPECT_LT(*next, now_ + milliseconds(1010));
  now_ = *next;
  Run();
  EXPECT_EQ(destination_->received[channel].size(), 2 * kMaxBulkPayload);
  source_->core.SetRateLimit(0, now_);
  Run();
  EXPECT_EQ(destination_->received[channel].size(), bulk.size());
}

TEST_F(SessionCoreTest, RateLimitHoldsOnAverage) {
  Connect();
  const uint16_t channel = OpenChannel();
  const std::string bulk(64 * 1024 * 1024, 'b');
  constexpr uint64_t kRate = 10 * 1024 * 1024;
  source_->core.SetRateLimit(kRate, now_);
  source_->core.QueueData(channel, bulk);
  const auto start = now_;
  while (now_ < start + std::chrono::seconds(3)) {
    Run();
    const auto next = source_->core.NextBulkTime();
    ASSERT_TRUE(next.has_value());
    ASSERT_GT(*next, now_) << "no spinning";
    now_ = *next;
  }
  const double sent = static_cast<double>(destination_->received[channel].size());
  EXPECT_NEAR(sent, 3.0 * kRate, 0.2 * kRate);
}

TEST_F(SessionCoreTest, GoodbyeFollowsQueuedMessages) {
  Connect();
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kProof, "last words"}).ok());
  source_->core.SayGoodbye(absl::OkStatus());
  Run();
  EXPECT_TRUE(source_->core.goodbye_written());
  ASSERT_EQ(destination_->messages.size(), 1u);
  const SessionEvent* goodbye = destination_->Find(Kind::kGoodbye);
  ASSERT_NE(goodbye, nullptr);
  EXPECT_TRUE(goodbye->status.ok());
  EXPECT_EQ(source_->core.SendMessage({MessageKind::kProof, "late"}).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(SessionCoreTest, TooLargeMessageIsRefusedLocallyAndFromThePeer) {
  SessionLimits limits;
  Connect(limits);
  limits.max_message = 100;
  destination_ = std::make_unique<End>(Role::kDestination, limits, now_);
  source_ = std::make_unique<End>(Role::kSource, SessionLimits{}, now_);
  source_->core.SendHello(TestParams(Role::kSource));
  Run();
  EXPECT_EQ(destination_->core.SendMessage({MessageKind::kCut, std::string(101, 'c')}).code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kCut, std::string(101, 'c')}).ok());
  Run();
  EXPECT_EQ(destination_->status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SessionCoreTest, UnreadMessagesAreBounded) {
  SessionLimits limits;
  limits.max_unread_messages = 1000;
  SessionCore reader(Role::kDestination, limits, now_);
  Connect(limits);
  // A message larger than what may wait is refused even though it is below the message limit.
  ASSERT_TRUE(source_->core.SendMessage({MessageKind::kCut, std::string(1001, 'c')}).ok());
  Run();
  EXPECT_EQ(destination_->status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SessionCoreTest, RandomBytesNeverCrashAndAlwaysEnd) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    Connect();
    OpenChannel();
    std::mt19937 random(seed);
    // Valid headers with random fields reach deeper than noise.
    for (int i = 0; i < 50 && destination_->status.ok(); ++i) {
      FrameHeader header;
      header.type = static_cast<FrameType>(random() % 14);
      header.flags = static_cast<uint8_t>(random());
      header.channel = static_cast<uint16_t>(random() % 6);
      header.length = random() % 40;
      header.sequence = source_->core.statistics().frames_sent + i;
      const auto raw = EncodeHeader(header);
      source_->wire.append(raw.data(), raw.size());
      source_->wire.append(RandomBytes(header.length, seed + i));
      Deliver(source_.get(), destination_.get(), 1 + random() % 64);
    }
    Write(destination_.get());
  }
}

}  // namespace
}  // namespace ferry::migration
