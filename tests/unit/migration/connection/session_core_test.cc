#include "migration/connection/session_core.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace ferry::migration {
namespace {

using std::chrono::milliseconds;
using Kind = SessionEvent::Kind;

HandshakeParams Params(Role role) {
  HandshakeParams params;
  params.role = role;
  params.session_id = "session-1";
  params.token = std::string(kSessionTokenSize, 't');
  params.journal_id = role == Role::kSource ? "source-journal" : "destination-journal";
  return params;
}

// One end with everything that happened to it.
struct End {
  End(Role r, const SessionLimits& limits, SessionCore::TimePoint now)
      : role(r), core(r, limits, now) {}

  Role role;
  SessionCore core;
  std::string wire;  // written, not yet received by the other end
  std::map<uint16_t, std::string> received;
  std::vector<SessionMessage> messages;
  std::vector<SessionEvent> events;  // without data and messages
  std::vector<FrameType> sent_types;
  bool consume = true;  // takes channel bytes at once
  VersionRange versions;
  absl::Status status;

  const SessionEvent* Find(Kind kind) const {
    for (const auto& event : events) {
      if (event.kind == kind) return &event;
    }
    return nullptr;
  }
};

class SessionCoreTest : public testing::Test {
 public:
  void Connect(SessionLimits limits = {}) {
    source_ = std::make_unique<End>(Role::kSource, limits, now_);
    destination_ = std::make_unique<End>(Role::kDestination, limits, now_);
    source_->core.SendHello(Params(Role::kSource));
    Run();
    ASSERT_TRUE(source_->core.established());
    ASSERT_TRUE(destination_->core.established());
  }

  // Takes at most `limit` frames of output.
  size_t Write(End* end, size_t limit = SIZE_MAX) {
    size_t count = 0;
    while (count < limit) {
      const auto frame = end->core.NextOutput(now_);
      if (!frame) break;
      ++count;
      end->wire.append(frame->header.data(), frame->header.size());
      end->wire.append(frame->payload);
      end->sent_types.push_back(static_cast<FrameType>(frame->header[4]));
      end->core.OutputDone();
    }
    return count;
  }

  // Gives up to `limit` bytes of `from` to `to`.
  void Deliver(End* from, End* to, size_t limit = SIZE_MAX) {
    while (limit > 0 && !from->wire.empty() && to->status.ok()) {
      const std::span<char> space = to->core.decoder().Space();
      const size_t size = std::min({limit, from->wire.size(), space.size()});
      std::memcpy(space.data(), from->wire.data(), size);
      from->wire.erase(0, size);
      limit -= size;
      to->core.Received(size, now_);
      Take(to);
    }
  }

  void Take(End* to) {
    while (true) {
      auto event = to->core.NextEvent(now_);
      if (!event.ok()) {
        to->status = event.status();
        return;
      }
      if (!event->has_value()) return;
      OnEvent(to, std::move(**event));
    }
  }

  void OnEvent(End* to, SessionEvent event) {
    if (event.kind == Kind::kHello) {
      const auto refusal = CheckHello(event.hello, Params(Role::kDestination), to->versions);
      if (refusal) {
        to->core.Refuse(*refusal);
      } else {
        to->core.Accept(event.hello, "destination-journal");
      }
    } else if (event.kind == Kind::kData) {
      to->received[event.channel].append(event.data);
      if (to->consume) to->core.Consumed(event.channel, event.data.size());
      return;
    } else if (event.kind == Kind::kMessage) {
      to->core.MessageTaken(event.message.bytes.size());
      to->messages.push_back(std::move(event.message));
      return;
    }
    event.data = {};
    to->events.push_back(std::move(event));
  }

  void Run() {
    for (bool moved = true; moved;) {
      moved = Write(source_.get()) + Write(destination_.get()) > 0;
      Deliver(source_.get(), destination_.get());
      Deliver(destination_.get(), source_.get());
    }
  }

  uint16_t OpenChannel() {
    const auto channel = source_->core.Open();
    EXPECT_TRUE(channel.ok()) << channel.status();
    Run();
    return *channel;
  }

  SessionCore::TimePoint now_{std::chrono::hours(1)};
  std::unique_ptr<End> source_;
  std::unique_ptr<End> destination_;
};

std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    std::memcpy(&bytes[i], &word, std::min<size_t>(8, size - i));
  }
  return bytes;
}

TEST_F(SessionCoreTest, HandshakeTellsBothSidesTheOthersJournal) {
  Connect();
  EXPECT_EQ(source_->core.peer_journal_id(), "destination-journal");
  EXPECT_EQ(destination_->core.peer_journal_id(), "source-journal");
  EXPECT_EQ(source_->core.version(), kConnectionVersion);
}

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
  source_->core.SendHello(Params(Role::kSource));
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

TEST_F(SessionCoreTest, HandshakeRefusalsCarryTheirReason) {
  struct Case {
    HandshakeParams params;
    absl::StatusCode code;
  };
  Case wrong_token{Params(Role::kSource), absl::StatusCode::kPermissionDenied};
  wrong_token.params.token[31] ^= 1;
  Case wrong_session{Params(Role::kSource), absl::StatusCode::kNotFound};
  wrong_session.params.session_id = "session-2";
  Case short_token{Params(Role::kSource), absl::StatusCode::kPermissionDenied};
  short_token.params.token = "t";
  Case wrong_role{Params(Role::kSource), absl::StatusCode::kFailedPrecondition};
  wrong_role.params.role = Role::kDestination;
  for (const Case& c : {wrong_token, wrong_session, short_token, wrong_role}) {
    source_ = std::make_unique<End>(Role::kSource, SessionLimits{}, now_);
    destination_ = std::make_unique<End>(Role::kDestination, SessionLimits{}, now_);
    source_->core.SendHello(c.params);
    Run();
    EXPECT_EQ(source_->status.code(), c.code) << source_->status;
    EXPECT_FALSE(source_->core.established());
    EXPECT_FALSE(destination_->core.established());
  }
}

TEST_F(SessionCoreTest, VersionsNegotiateToTheHighestCommonOne) {
  Hello hello;
  hello.session_id = "session-1";
  hello.token = std::string(kSessionTokenSize, 't');
  hello.max_version = kConnectionVersion + 5;
  EXPECT_EQ(NegotiateVersion(hello), kConnectionVersion);
  EXPECT_FALSE(CheckHello(hello, Params(Role::kDestination)).has_value());
  hello.min_version = kConnectionVersion + 1;
  const auto refusal = CheckHello(hello, Params(Role::kDestination));
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, RefusalReason::kVersion);
  EXPECT_EQ(RefusalToStatus(*refusal).code(), absl::StatusCode::kFailedPrecondition);
}

// A host of release N speaks versions N-1 and N.
TEST_F(SessionCoreTest, HostsOneReleaseApartUseTheOlderOnesVersion) {
  const auto release = [](uint16_t n) {
    SessionLimits limits;
    limits.versions = {static_cast<uint16_t>(n - 1), n};
    return limits;
  };
  struct Case {
    uint16_t source, destination, version;  // 0: refused
  };
  for (const Case& c :
       {Case{3, 3, 3}, Case{3, 2, 2}, Case{2, 3, 2}, Case{4, 2, 0}, Case{2, 4, 0}}) {
    source_ = std::make_unique<End>(Role::kSource, release(c.source), now_);
    destination_ = std::make_unique<End>(Role::kDestination, release(c.destination), now_);
    destination_->versions = release(c.destination).versions;
    source_->core.SendHello(Params(Role::kSource));
    Run();
    ASSERT_EQ(source_->core.established(), c.version != 0) << c.source << " and " << c.destination;
    ASSERT_EQ(destination_->core.established(), c.version != 0);
    if (c.version != 0) {
      EXPECT_EQ(source_->core.version(), c.version);
      EXPECT_EQ(destination_->core.version(), c.version);
      ASSERT_TRUE(source_->core.SendMessage({MessageKind::kCut, "cut"}).ok());
      Run();
      EXPECT_EQ(destination_->messages.size(), 1u);
    } else {
      EXPECT_EQ(source_->status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_NE(source_->status.message().find("neighbouring releases"), std::string::npos);
    }
  }
}

TEST_F(SessionCoreTest, AVersionThatWasNotOfferedIsRefused) {
  source_ = std::make_unique<End>(Role::kSource, SessionLimits{}, now_);
  SessionLimits newer;
  newer.versions = {kConnectionVersion + 1, kConnectionVersion + 1};
  destination_ = std::make_unique<End>(Role::kDestination, newer, now_);
  source_->core.SendHello(Params(Role::kSource));
  Run();
  EXPECT_FALSE(source_->core.established());
  EXPECT_EQ(source_->status.code(), absl::StatusCode::kFailedPrecondition) << source_->status;
}

TEST_F(SessionCoreTest, HelloCutAnywhereIsRefused) {
  Hello hello;
  hello.session_id = "session-1";
  hello.token = "token";
  hello.journal_id = "journal";
  const std::string payload = EncodeHello(hello);
  for (size_t size = 0; size < payload.size(); ++size) {
    EXPECT_FALSE(DecodeHello(std::string_view(payload).substr(0, size)).ok()) << size;
  }
  const auto extended = DecodeHello(payload + "what a later version adds");
  ASSERT_TRUE(extended.ok());
  EXPECT_EQ(extended->session_id, "session-1");
  EXPECT_EQ(extended->journal_id, "journal");
}

TEST_F(SessionCoreTest, NothingButTheHandshakeIsTakenBeforeIt) {
  for (const FrameType type : {FrameType::kOpen, FrameType::kPing, FrameType::kMessage,
                               FrameType::kData, FrameType::kHelloAck}) {
    End end(Role::kDestination, SessionLimits{}, now_);
    End peer(Role::kSource, SessionLimits{}, now_);
    FrameHeader header;
    header.type = type;
    const auto raw = EncodeHeader(header);
    peer.wire.assign(raw.data(), raw.size());
    Deliver(&peer, &end);
    EXPECT_EQ(end.status.code(), absl::StatusCode::kInvalidArgument) << static_cast<int>(type);
  }
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
