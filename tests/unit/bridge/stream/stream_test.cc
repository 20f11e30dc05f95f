#include <gtest/gtest.h>

#include <random>
#include <string>

#include "bridge/stream/stream_receiver.h"
#include "bridge/stream/stream_sender.h"

namespace ferry::bridge {
namespace {

StreamHello Wanted(uint64_t offset, uint32_t generation = 0) {
  return {.generation = generation, .offset = offset};
}

std::string Bytes(const OutgoingFrame& frame) { return frame.header + std::string(frame.payload); }

TEST(StreamSenderTest, GivesNothingBeforeTheReceiversHello) {
  StreamSender sender(0);
  ASSERT_TRUE(sender.Append("abc").ok());
  EXPECT_FALSE(sender.NextFrame().has_value());
  ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
  EXPECT_EQ(sender.NextFrame()->payload, "abc");
  EXPECT_FALSE(sender.NextFrame().has_value());
}

TEST(StreamSenderTest, KeepsUntilAcknowledgedAndResendsFromTheWantedOffset) {
  StreamSender sender(0);
  ASSERT_TRUE(sender.Append("0123456789").ok());
  ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
  EXPECT_EQ(sender.NextFrame(4)->payload, "0123");
  EXPECT_EQ(sender.NextFrame(4)->payload, "4567");
  ASSERT_TRUE(sender.OnAck(2, false).ok());
  sender.OnDisconnect();
  EXPECT_FALSE(sender.NextFrame().has_value());
  EXPECT_EQ(sender.MakeHello().offset, 2u);
  EXPECT_EQ(sender.MakeHello().end, 10u);
  ASSERT_TRUE(sender.OnPeerHello(Wanted(5)).ok());
  EXPECT_EQ(sender.NextFrame()->payload, "56789");
}

TEST(StreamSenderTest, RefusesOffsetsThatItDoesNotKeep) {
  StreamSender sender(0);
  ASSERT_TRUE(sender.Append("0123456789").ok());
  ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
  sender.NextFrame();
  ASSERT_TRUE(sender.OnAck(4, false).ok());
  EXPECT_EQ(sender.OnPeerHello(Wanted(3)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(sender.OnPeerHello(Wanted(11)).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(sender.OnPeerHello(Wanted(4)).ok());
  EXPECT_TRUE(sender.OnPeerHello(Wanted(10)).ok());
}

TEST(StreamSenderTest, RefusesAnotherGeneration) {
  StreamSender sender(3);
  EXPECT_EQ(sender.OnPeerHello(Wanted(0, 2)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(sender.OnPeerHello(Wanted(0, 3)).ok());
}

TEST(StreamSenderTest, HoldsItsSourceBackAtTheWindow) {
  StreamSender sender(0, 10);
  ASSERT_TRUE(sender.Append("01234567").ok());
  EXPECT_EQ(sender.WritableSpace(), 2u);
  EXPECT_EQ(sender.Append("abc").code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(sender.Append("89").ok());
  EXPECT_EQ(sender.WritableSpace(), 0u);
  ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
  sender.NextFrame();
  ASSERT_TRUE(sender.OnAck(7, false).ok());
  EXPECT_EQ(sender.WritableSpace(), 7u);
}

TEST(StreamSenderTest, RefusesAcknowledgementsOfWhatWasNotSent) {
  StreamSender sender(0);
  ASSERT_TRUE(sender.Append("0123").ok());
  ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
  sender.NextFrame(2);
  EXPECT_EQ(sender.OnAck(3, false).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(sender.OnAck(2, true).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(sender.OnAck(2, false).ok());
  EXPECT_TRUE(sender.OnAck(1, false).ok());
  EXPECT_EQ(sender.base(), 2u);
}

TEST(StreamSenderTest, RepeatsTheEndUntilItIsTaken) {
  StreamSender sender(0);
  ASSERT_TRUE(sender.Append("ab").ok());
  sender.Finish();
  EXPECT_FALSE(sender.Append("c").ok());
  for (int attempt = 0; attempt < 2; ++attempt) {
    ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
    EXPECT_EQ(sender.NextFrame()->payload, "ab");
    EXPECT_EQ(sender.NextFrame()->header, EncodeEof(2));
    EXPECT_FALSE(sender.NextFrame().has_value());
    sender.OnDisconnect();
  }
  EXPECT_TRUE(sender.MakeHello().ended);
  ASSERT_TRUE(sender.OnPeerHello(Wanted(2)).ok());
  ASSERT_TRUE(sender.OnAck(2, false).ok());
  EXPECT_FALSE(sender.fully_taken());
  ASSERT_TRUE(sender.OnAck(2, true).ok());
  EXPECT_TRUE(sender.fully_taken());
}

TEST(StreamSenderTest, AFrameOutlivesItsAcknowledgement) {
  StreamSender sender(0);
  ASSERT_TRUE(sender.Append("abc").ok());
  ASSERT_TRUE(sender.OnPeerHello(Wanted(0)).ok());
  std::optional<OutgoingFrame> frame = sender.NextFrame();
  ASSERT_TRUE(sender.OnAck(3, false).ok());
  ASSERT_TRUE(sender.Append("xyz").ok());
  EXPECT_EQ(frame->payload, "abc");
}

TEST(StreamSenderTest, StartsWhereAnEarlierSenderOfTheStreamEnded) {
  StreamSender sender(0, kStreamWindow, 100);
  sender.SkipTo(120);
  EXPECT_TRUE(sender.OnPeerHello(Wanted(120)).ok());
  ASSERT_TRUE(sender.Append("abc").ok());
  sender.SkipTo(121);
  EXPECT_EQ(sender.NextFrame()->header, EncodeDataHeader(120, 3));
}

TEST(StreamReceiverTest, DropsDuplicatesAndRefusesGaps) {
  StreamReceiver receiver(0);
  ASSERT_TRUE(receiver.OnPeerHello({.offset = 0, .end = 5}).ok());
  EXPECT_EQ(*receiver.OnData(0, "0123"), "0123");
  EXPECT_EQ(*receiver.OnData(0, "0123"), "");
  EXPECT_EQ(*receiver.OnData(2, "2345"), "45");
  EXPECT_EQ(receiver.OnData(7, "7").status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(receiver.received(), 6u);
}

TEST(StreamReceiverTest, BoundsWhatIsNotTaken) {
  StreamReceiver receiver(0, 0, 4);
  EXPECT_TRUE(receiver.OnData(0, "0123").ok());
  EXPECT_EQ(receiver.OnData(4, "4").status().code(), absl::StatusCode::kResourceExhausted);
  receiver.Taken(1);
  EXPECT_TRUE(receiver.OnData(4, "4").ok());
}

TEST(StreamReceiverTest, GathersAcknowledgementsAndRepeatsThemOnANewConnection) {
  StreamReceiver receiver(0);
  ASSERT_TRUE(receiver.OnPeerHello({}).ok());
  EXPECT_EQ(receiver.NextAck()->offset, 0u);
  EXPECT_FALSE(receiver.NextAck().has_value());
  ASSERT_TRUE(receiver.OnData(0, "0123").ok());
  EXPECT_FALSE(receiver.NextAck().has_value());
  receiver.Taken(1);
  receiver.Taken(2);
  EXPECT_EQ(receiver.NextAck()->offset, 3u);
  EXPECT_FALSE(receiver.NextAck().has_value());
  receiver.OnDisconnect();
  receiver.Taken(1);
  EXPECT_FALSE(receiver.NextAck().has_value());
  ASSERT_TRUE(receiver.OnPeerHello({}).ok());
  EXPECT_EQ(receiver.NextAck()->offset, 4u);
}

TEST(StreamReceiverTest, AcknowledgesTheEndAndRepeatsItWhenAsked) {
  StreamReceiver receiver(0);
  ASSERT_TRUE(receiver.OnPeerHello({}).ok());
  ASSERT_TRUE(receiver.OnData(0, "ab").ok());
  EXPECT_FALSE(receiver.OnEof(1).ok());
  ASSERT_TRUE(receiver.OnEof(2).ok());
  receiver.EofTaken();
  EXPECT_FALSE(receiver.eof_taken());
  receiver.Taken(2);
  receiver.EofTaken();
  EXPECT_TRUE(receiver.NextAck()->eof_taken);
  EXPECT_FALSE(receiver.NextAck().has_value());
  ASSERT_TRUE(receiver.OnEof(2).ok());
  EXPECT_TRUE(receiver.NextAck()->eof_taken);
  EXPECT_FALSE(receiver.OnData(2, "c").ok());
}

TEST(StreamReceiverTest, RefusesASenderThatLostWhatIsWanted) {
  StreamReceiver receiver(1, 10);
  EXPECT_EQ(receiver.OnPeerHello({.generation = 1, .offset = 11, .end = 20}).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(receiver.OnPeerHello({.generation = 2, .offset = 0, .end = 20}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(receiver.OnPeerHello({.generation = 1, .offset = 2, .end = 5}).ok());
}

// One direction of a stream over a link that can lose everything in flight at any byte.
class OneWay {
 public:
  explicit OneWay(std::string data, size_t window = 4096)
      : data_(std::move(data)), sender_(0, window), receiver_(0, 0, window) {}

  void Connect() {
    to_receiver_ = EncodeHello(sender_.MakeHello());
    to_sender_ = EncodeHello(receiver_.MakeHello());
    at_receiver_ = StreamDecoder();
    at_sender_ = StreamDecoder();
  }

  // What is in flight is lost, in the middle of a frame or not.
  void Cut() {
    sender_.OnDisconnect();
    receiver_.OnDisconnect();
    to_receiver_.clear();
    to_sender_.clear();
  }

  void Produce(size_t count) {
    count = std::min({count, data_.size() - produced_, sender_.WritableSpace()});
    ASSERT_TRUE(sender_.Append(data_.substr(produced_, count)).ok());
    produced_ += count;
    if (produced_ == data_.size()) sender_.Finish();
  }

  void Send(size_t max_payload) {
    if (auto frame = sender_.NextFrame(max_payload)) to_receiver_ += Bytes(*frame);
    if (auto ack = receiver_.NextAck()) to_sender_ += EncodeAck(ack->offset, ack->eof_taken);
  }

  void DeliverToReceiver(size_t count) {
    at_receiver_.Append(to_receiver_.substr(0, count));
    to_receiver_.erase(0, count);
    while (true) {
      auto frame = at_receiver_.Next();
      ASSERT_TRUE(frame.ok()) << frame.status();
      if (!frame->has_value()) return;
      if ((*frame)->type == StreamFrameType::kHello) {
        ASSERT_TRUE(receiver_.OnPeerHello((*frame)->hello).ok());
      } else if ((*frame)->type == StreamFrameType::kEof) {
        ASSERT_TRUE(receiver_.OnEof((*frame)->offset).ok());
      } else {
        auto fresh = receiver_.OnData((*frame)->offset, (*frame)->payload);
        ASSERT_TRUE(fresh.ok()) << fresh.status();
        pending_ += *fresh;
      }
    }
  }

  void DeliverToSender(size_t count) {
    at_sender_.Append(to_sender_.substr(0, count));
    to_sender_.erase(0, count);
    while (true) {
      auto frame = at_sender_.Next();
      ASSERT_TRUE(frame.ok()) << frame.status();
      if (!frame->has_value()) return;
      const absl::Status status =
          (*frame)->type == StreamFrameType::kHello
              ? sender_.OnPeerHello((*frame)->hello)
              : sender_.OnAck((*frame)->offset, ((*frame)->flags & kFlagEofTaken) != 0);
      ASSERT_TRUE(status.ok()) << status;
    }
  }

  void Consume(size_t count) {
    count = std::min(count, pending_.size());
    consumed_ += pending_.substr(0, count);
    pending_.erase(0, count);
    receiver_.Taken(count);
    if (receiver_.ended() && pending_.empty()) receiver_.EofTaken();
  }

  void RunToEnd() {
    for (int step = 0; step < 1000000 && !sender_.fully_taken(); ++step) {
      Produce(512);
      Send(300);
      DeliverToReceiver(1 << 20);
      Consume(1 << 20);
      DeliverToSender(1 << 20);
    }
  }

  bool over() const { return sender_.fully_taken(); }
  const std::string& consumed() const { return consumed_; }
  size_t in_flight() const { return to_receiver_.size(); }

 private:
  std::string data_;
  size_t produced_ = 0;
  StreamSender sender_;
  StreamReceiver receiver_;
  StreamDecoder at_receiver_;
  StreamDecoder at_sender_;
  std::string to_receiver_;
  std::string to_sender_;
  std::string pending_;
  std::string consumed_;
};

std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

TEST(StreamPairTest, ACutAfterAnyNumberOfDeliveredBytesLosesAndRepeatsNothing) {
  const std::string data = RandomBytes(100, 7);
  // Hello, two frames of 60 and 40 bytes and the end are 32 + 76 + 56 + 16 bytes.
  for (size_t delivered = 0; delivered <= 180; ++delivered) {
    OneWay way(data);
    way.Connect();
    way.Produce(100);
    way.DeliverToSender(1000);
    for (int i = 0; i < 3; ++i) way.Send(60);
    ASSERT_EQ(way.in_flight(), 180u);
    way.DeliverToReceiver(delivered);
    way.Consume(delivered / 3);
    way.Cut();
    way.Connect();
    way.RunToEnd();
    ASSERT_TRUE(way.over()) << delivered;
    ASSERT_EQ(way.consumed(), data) << delivered;
  }
}

TEST(StreamPairTest, RandomCutsInBothDirectionsKeepEveryByte) {
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    std::mt19937 random(seed);
    const std::string there = RandomBytes(20000 + seed, seed);
    const std::string back = RandomBytes(15000 + seed, seed + 1000);
    OneWay ways[] = {OneWay(there, 1024 + seed * 10), OneWay(back)};
    for (OneWay& way : ways) way.Connect();
    int cuts = 0;
    for (int step = 0; step < 200000 && !(ways[0].over() && ways[1].over()); ++step) {
      for (OneWay& way : ways) {
        way.Produce(random() % 700);
        way.Send(1 + random() % 500);
        way.DeliverToReceiver(random() % 600);
        way.Consume(random() % 600);
        way.DeliverToSender(random() % 60);
      }
      if (random() % 12 != 0) continue;
      ++cuts;
      for (OneWay& way : ways) {
        way.Cut();
        way.Connect();
      }
    }
    ASSERT_GT(cuts, 3) << seed;
    ASSERT_TRUE(ways[0].over() && ways[1].over()) << seed;
    ASSERT_EQ(ways[0].consumed(), there) << seed;
    ASSERT_EQ(ways[1].consumed(), back) << seed;
  }
}

}  // namespace
}  // namespace ferry::bridge
