#include "guestmanager/bridge_client_core.h"

#include <gtest/gtest.h>

namespace ferry::guest {
namespace {

using Kind = BridgeClientCore::Kind;

struct CoreTest : ::testing::Test {
  std::string Answer(uint32_t request, int64_t id, const std::string& payload) {
    return *bridge::EncodeFrame(bridge::ResponseType(request), id, payload);
  }

  void Negotiate() {
    core.Connected();
    bridge::NegotiateResponse response;
    response.version = 4;
    ASSERT_TRUE(core.Receive(Answer(bridge::kNegotiateProtocol, 0, Encode(response))).ok());
    core.TakeFrame();
  }

  BridgeClientCore::Completion Into(std::vector<absl::StatusOr<std::string>>* out) {
    return [out](absl::StatusOr<std::string> answer) { out->push_back(std::move(answer)); };
  }

  BridgeClientCore core;
  std::vector<absl::StatusOr<std::string>> answers;
};

TEST_F(CoreTest, NothingBeforeNegotiation) {
  core.Connected();
  EXPECT_TRUE(absl::IsUnavailable(
      core.Call(bridge::kGetProperties, "", Kind::kShort, Into(&answers)).status()));
}

TEST_F(CoreTest, IdsCountUpAndAnswersFindTheirCall) {
  Negotiate();
  EXPECT_EQ(*core.Call(bridge::kGetProperties, "a", Kind::kShort, Into(&answers)), 1);
  EXPECT_EQ(*core.Call(bridge::kGetProperties, "b", Kind::kShort, Into(&answers)), 2);
  ASSERT_TRUE(core.Receive(Answer(bridge::kGetProperties, 2, "second")).ok());
  ASSERT_TRUE(core.Receive(Answer(bridge::kGetProperties, 1, "first")).ok());
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(*answers[0], "second");
  EXPECT_EQ(*answers[1], "first");
}

TEST_F(CoreTest, SeedingOnlyRaises) {
  core.SeedNextId(50);
  core.SeedNextId(0);
  core.SeedNextId(7);
  EXPECT_EQ(core.next_id(), 50);
}

TEST_F(CoreTest, PreregisteredWaitReusesTheOutstandingCall) {
  Negotiate();
  const int64_t id = *core.Call(bridge::kWaitForProcess, "", Kind::kWait, Into(&answers));
  core.PreregisterWait(id, Into(&answers));
  core.PreregisterWait(900, Into(&answers));
  EXPECT_EQ(core.pending(), 2u);
  ASSERT_TRUE(core.Receive(Answer(bridge::kWaitForProcess, id, "x")).ok());
  EXPECT_EQ(answers.size(), 2u);
  ASSERT_TRUE(core.Receive(Answer(bridge::kWaitForProcess, 900, "y")).ok());
  EXPECT_EQ(answers.size(), 3u);
}

TEST_F(CoreTest, ARepeatedRequestHasItsIdAndOneAnswer) {
  Negotiate();
  const int64_t id = *core.Call(bridge::kExecuteProcess, "", Kind::kWait, Into(&answers));
  const std::string sent = *core.TakeFrame();
  core.Disconnected(absl::UnavailableError("lost"));
  EXPECT_FALSE(core.Repeat(id, ""));
  Negotiate();
  EXPECT_FALSE(core.Repeat(id + 1, ""));
  ASSERT_TRUE(core.Repeat(id, ""));
  EXPECT_EQ(core.TakeFrame(), sent);
  for (int time = 0; time < 2; ++time) {
    ASSERT_TRUE(core.Receive(Answer(bridge::kExecuteProcess, id, "x")).ok());
  }
  EXPECT_EQ(answers.size(), 1u);
  EXPECT_EQ(core.dropped_responses(), 1u);
  EXPECT_FALSE(core.Repeat(id, ""));
}

TEST_F(CoreTest, LossFailsShortCallsOnly) {
  Negotiate();
  std::vector<absl::StatusOr<std::string>> waits;
  const int64_t id = *core.Call(bridge::kWaitForProcess, "", Kind::kWait, Into(&waits));
  ASSERT_TRUE(core.Call(bridge::kGetProperties, "", Kind::kShort, Into(&answers)).ok());
  core.Disconnected(absl::UnavailableError("lost"));
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].status().message(), "lost");
  EXPECT_FALSE(core.TakeFrame());
  Negotiate();
  ASSERT_TRUE(core.Receive(Answer(bridge::kWaitForProcess, id, "exit")).ok());
  ASSERT_EQ(waits.size(), 1u);
  EXPECT_EQ(*waits[0], "exit");
}

TEST_F(CoreTest, CloseFailsEverythingNowAndLater) {
  Negotiate();
  ASSERT_TRUE(core.Call(bridge::kWaitForProcess, "", Kind::kWait, Into(&answers)).ok());
  core.Close(absl::UnavailableError("closed: qemu died"));
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].status().message(), "closed: qemu died");
  EXPECT_EQ(core.Call(bridge::kGetProperties, "", Kind::kShort, Into(&answers)).status().message(),
            "closed: qemu died");
}

TEST_F(CoreTest, UnknownResponseIdIsDropped) {
  Negotiate();
  EXPECT_TRUE(core.Receive(Answer(bridge::kWaitForProcess, 77, "{}")).ok());
  EXPECT_EQ(core.dropped_responses(), 1u);
}

TEST_F(CoreTest, UnknownNotificationAndWrongAnswerAreErrors) {
  Negotiate();
  EXPECT_FALSE(core.Receive(*bridge::EncodeFrame(0x30200101, 0, "{}")).ok());
  Negotiate();
  ASSERT_TRUE(core.Call(bridge::kGetProperties, "", Kind::kShort, Into(&answers)).ok());
  EXPECT_FALSE(core.Receive(Answer(bridge::kWaitForProcess, core.next_id() - 1, "{}")).ok());
}

TEST_F(CoreTest, NotificationArrivesIntactAndBadOneIsAnError) {
  Negotiate();
  std::string seen;
  core.set_on_notification(
      [&](const bridge::ContainerNotification& n) { seen = n.container_id + n.type; });
  ASSERT_TRUE(core.Receive(*bridge::EncodeFrame(bridge::kContainerNotification, 0,
                                                R"({"ContainerId":"c","Type":"ForcedExit"})"))
                  .ok());
  EXPECT_EQ(seen, "cForcedExit");
  EXPECT_FALSE(core.Receive(*bridge::EncodeFrame(bridge::kContainerNotification, 0, "{}")).ok());
}

}  // namespace
}  // namespace ferry::guest
