#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

TEST_F(GuestTest, ConnectNegotiatesFirstUnderIdZero) {
  auto ready = Start(guest_->WaitReady());
  EXPECT_FALSE(ready->has_value());
  Ready();
  ASSERT_TRUE(ready->has_value());
  EXPECT_TRUE((*ready)->ok());
  ASSERT_EQ(agent_->received.size(), 1u);
  EXPECT_EQ(agent_->received[0].type, bridge::kNegotiateProtocol);
  EXPECT_EQ(agent_->received[0].id, 0);
}

TEST_F(GuestTest, ReconnectRenegotiates) {
  Ready();
  transport_->Break();
  Settle();
  EXPECT_FALSE(guest_->ready());
  agent_->Connect();
  Settle();
  EXPECT_TRUE(guest_->ready());
  EXPECT_EQ(agent_->CountReceived(bridge::kNegotiateProtocol), 2);
}

TEST_F(GuestTest, WhoeverHangsUpAtOnceIsForgotten) {
  auto dialled = transport_->Dial(bridge::kBridgePort);
  ASSERT_TRUE(dialled.ok());
  (*dialled)->Close();
  Settle();
  EXPECT_FALSE(guest_->ready());
  Ready();
  EXPECT_TRUE(guest_->ready());
}

TEST_F(GuestTest, OtherVersionIsRefused) {
  agent_->version = 3;
  agent_->Connect();
  Settle();
  EXPECT_FALSE(guest_->ready());
}

TEST_F(GuestTest, CallsWithoutAgentAreUnavailable) {
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*answer)->status()));
}

TEST_F(GuestTest, CallRoundTrip) {
  Ready();
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(answer->has_value() && (*answer)->ok());
  EXPECT_EQ(***answer, R"({"echo":true})");
  auto shutdown = Start(guest_->Shutdown(false));
  EXPECT_TRUE((*shutdown)->ok());
}

TEST_F(GuestTest, ExpiredCallTakesTheConnectionDown) {
  rpc_timeout_ = milliseconds(10);
  guest_->Close(absl::UnavailableError("made anew"));
  Settle();
  guest_ = Make(*transport_);
  Ready();
  agent_->silent = true;
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(RunUntil([&] { return answer->has_value(); }));
  EXPECT_TRUE(absl::IsDeadlineExceeded((*answer)->status()));
  EXPECT_FALSE(guest_->ready());
  agent_->Connect();
  EXPECT_TRUE(RunUntil([&] { return guest_->ready(); }));
}

TEST_F(GuestTest, CancelledCallerLeavesAndTheConnectionStays) {
  Ready();
  agent_->silent = true;
  asio::cancellation_signal cancel;
  bool ended = false;
  asio::co_spawn(
      io_, guest_->GetProperties("{}"),
      asio::bind_cancellation_slot(
          cancel.slot(), [&](std::exception_ptr, absl::StatusOr<std::string>) { ended = true; }));
  Settle();
  EXPECT_FALSE(ended);
  cancel.emit(asio::cancellation_type::terminal);
  Settle();
  EXPECT_TRUE(ended);
  agent_->silent = false;
  auto answer = Start(guest_->GetProperties("{}"));
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE((*answer)->ok());
}

TEST_F(GuestTest, LostLinkFailsShortCallsAndKeepsWaits) {
  Ready();
  auto process = Exec();
  auto wait = Start(process->Wait());
  agent_->silent = true;
  auto answer = Start(guest_->GetProperties("{}"));
  EXPECT_FALSE(answer->has_value());
  transport_->Break();
  Settle();
  ASSERT_TRUE(answer->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*answer)->status()));
  EXPECT_FALSE(wait->has_value());
  agent_->silent = false;
  agent_->Connect();
  Settle();
  agent_->Exit(process->pid(), 3);
  Settle();
  ASSERT_TRUE(wait->has_value() && (*wait)->ok());
  EXPECT_EQ(***wait, (ExitStatus{ExitStatus::Kind::kCode, 3}));
}

TEST_F(GuestTest, ASizeToldWhileTheAgentIsAwayArrivesWhenItIsBack) {
  Ready();
  auto process = Exec(false, true, /*terminal=*/true);
  transport_->Break();
  Settle();
  auto first = Start(process->ResizeConsole(30, 100));
  auto newest = Start(process->ResizeConsole(40, 120));
  EXPECT_FALSE(newest->has_value());
  agent_->Connect();
  Settle();
  ASSERT_TRUE(first->has_value() && newest->has_value());
  EXPECT_TRUE((*first)->ok() && (*newest)->ok());
  EXPECT_EQ(agent_->sizes, (std::vector<std::pair<uint32_t, uint32_t>>{{40, 120}}));
}

TEST_F(GuestTest, ASizeWhoseAnswerIsLostIsToldAgain) {
  Ready();
  auto process = Exec(false, true, /*terminal=*/true);
  agent_->silent = true;
  auto resized = Start(process->ResizeConsole(30, 100));
  EXPECT_FALSE(resized->has_value());
  agent_->silent = false;
  transport_->Break();
  agent_->Connect();
  Settle();
  ASSERT_TRUE(resized->has_value());
  EXPECT_TRUE((*resized)->ok());
  EXPECT_EQ(agent_->sizes, (std::vector<std::pair<uint32_t, uint32_t>>{{30, 100}}));
}

TEST_F(GuestTest, ASignalSentWhileTheAgentIsAwayIsDeliveredOnceWhenItIsBack) {
  Ready();
  auto process = Exec();
  transport_->Break();
  Settle();
  auto delivered = Start(process->Signal(15));
  EXPECT_FALSE(delivered->has_value());
  agent_->Connect();
  Settle();
  ASSERT_TRUE(delivered->has_value());
  EXPECT_TRUE(***delivered);
  EXPECT_EQ(agent_->signals, std::vector<uint32_t>{15});
}

TEST_F(GuestTest, CloseEndsWaitsWithItsReason) {
  Ready();
  auto process = Exec();
  auto wait = Start(process->Wait());
  auto container = Start([](std::shared_ptr<Container> c) -> Task<bool> {
    co_await c->Wait();
    co_return true;
  }(guest_->OpenContainer("")));
  guest_->Close(absl::UnavailableError("qemu died"));
  Settle();
  ASSERT_TRUE(wait->has_value());
  EXPECT_EQ((*wait)->status().message(), "qemu died");
  EXPECT_TRUE(container->has_value());
  auto later = Start(guest_->GetProperties("{}"));
  EXPECT_EQ((*later)->status().message(), "qemu died");
}

TEST_F(GuestTest, ContainerExitNotificationEndsItsWait) {
  Ready();
  auto container = guest_->OpenContainer("c1");
  bridge::ContainerNotification notification;
  notification.container_id = "c1";
  notification.type = "UnexpectedExit";
  agent_->Send(bridge::kContainerNotification, 0, Encode(notification));
  notification.container_id = "never-opened";
  agent_->Send(bridge::kContainerNotification, 0, Encode(notification));
  Settle();
  EXPECT_EQ(container->exit_type(), "UnexpectedExit");
  EXPECT_TRUE(guest_->ready());
}

TEST_F(GuestTest, GarbageOnTheBridgeResetsIt) {
  Ready();
  agent_->SendRaw(std::string(16, '\xff'));
  Settle();
  EXPECT_FALSE(guest_->ready());
  agent_->Connect();
  Settle();
  EXPECT_TRUE(guest_->ready());
}

}  // namespace
}  // namespace ferry::guest
