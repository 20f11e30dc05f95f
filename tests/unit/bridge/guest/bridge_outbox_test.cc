#include "bridge/guest/bridge_outbox.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <string>

namespace ferry::bridge {
namespace {

class BridgeOutboxTest : public testing::Test {
 protected:
  asio::io_context io_;
  BridgeOutbox outbox_{io_.get_executor()};
};

TEST_F(BridgeOutboxTest, HoldsEverythingButDirectAnswersUntilNegotiated) {
  outbox_.OnConnect();
  outbox_.Post("later");
  EXPECT_EQ(outbox_.Take(), std::nullopt);
  outbox_.PostDirect("negotiated");
  outbox_.OnNegotiated();
  EXPECT_EQ(outbox_.Take(), "negotiated");
  EXPECT_EQ(outbox_.Take(), "later");
  outbox_.Written();
  EXPECT_EQ(outbox_.Take(), std::nullopt);
}

TEST_F(BridgeOutboxTest, ALostFrameComesFirstOnTheNextConnectionAndADirectOneNever) {
  outbox_.OnConnect();
  outbox_.OnNegotiated();
  outbox_.Post("one");
  outbox_.Post("two");
  std::string taken = *outbox_.Take();
  outbox_.PutBack(taken);
  outbox_.PostDirect("direct");
  taken = *outbox_.Take();
  EXPECT_EQ(taken, "direct");
  outbox_.PutBack(taken);
  outbox_.OnDisconnect();
  outbox_.OnConnect();
  EXPECT_EQ(outbox_.Take(), std::nullopt);
  outbox_.OnNegotiated();
  EXPECT_EQ(outbox_.Take(), "one");
  outbox_.Written();
  EXPECT_EQ(outbox_.Take(), "two");
}

TEST_F(BridgeOutboxTest, DropsTheOldestBeyondTheNumberOfMessages) {
  for (size_t i = 0; i < BridgeOutbox::kMaxMessages + 10; ++i) outbox_.Post(std::to_string(i));
  EXPECT_EQ(outbox_.waiting(), BridgeOutbox::kMaxMessages);
  outbox_.OnNegotiated();
  EXPECT_EQ(outbox_.Take(), "10");
}

TEST_F(BridgeOutboxTest, DropsTheOldestBeyondTheNumberOfBytes) {
  constexpr size_t kSize = BridgeOutbox::kMaxBytes / 8;
  for (char name = 'a'; name < 'k'; ++name) outbox_.Post(std::string(kSize, name));
  EXPECT_EQ(outbox_.waiting(), 8u);
  outbox_.OnNegotiated();
  EXPECT_EQ(outbox_.Take(), std::string(kSize, 'c'));
  outbox_.Written();
  // What was taken makes room.
  outbox_.Post(std::string(kSize, 'k'));
  EXPECT_EQ(outbox_.Take(), std::string(kSize, 'd'));
}

}  // namespace
}  // namespace ferry::bridge
