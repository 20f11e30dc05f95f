#include "guestmanager/guest_filesystems.h"

#include <gmock/gmock.h>

#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

using ::testing::HasSubstr;

constexpr milliseconds kLong{60'000};

class GuestFilesystemsTest : public GuestTest {
 protected:
  absl::StatusOr<size_t> Freeze() {
    const auto frozen = Start(guest_->filesystems().Freeze(kLong));
    EXPECT_TRUE(frozen->has_value());
    return frozen->value_or(absl::UnknownError("it hangs"));
  }
  absl::Status Thaw() {
    const auto thawed = Start(guest_->filesystems().Thaw(kLong));
    EXPECT_TRUE(thawed->has_value());
    return thawed->value_or(absl::UnknownError("it hangs"));
  }
};

TEST_F(GuestFilesystemsTest, TheyAreFrozenAndThawed) {
  Ready();
  const auto frozen = Freeze();
  ASSERT_TRUE(frozen.ok()) << frozen.status();
  EXPECT_EQ(*frozen, 2u);
  EXPECT_TRUE(agent_->frozen);
  EXPECT_EQ(
      bridge::Decode<bridge::FreezeFilesystemsRequest>(agent_->received.back().payload)->timeout_ms,
      60'000u);
  EXPECT_TRUE(Thaw().ok());
  EXPECT_FALSE(agent_->frozen);
}

TEST_F(GuestFilesystemsTest, AnAgentThatCannotIsNotAsked) {
  agent_->freezes = false;
  EXPECT_TRUE(absl::IsUnavailable(Freeze().status()));
  Ready();
  EXPECT_TRUE(absl::IsUnimplemented(Freeze().status()));
  EXPECT_EQ(agent_->CountReceived(bridge::kFreezeFilesystems), 0);
}

TEST_F(GuestFilesystemsTest, ARefusalIsToldInTheAgentsWords) {
  Ready();
  agent_->refusals[bridge::kFreezeFilesystems] = bridge::kHresultInvalidState;
  const absl::Status refused = Freeze().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("freeze its filesystems"));
}

TEST_F(GuestFilesystemsTest, ThoseThatThawedBeforeDidNotStayFrozen) {
  agent_->thaws_early = true;
  Ready();
  ASSERT_TRUE(Freeze().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Thaw()));
}

TEST_F(GuestFilesystemsTest, TheyAreThawedWhateverTheClockIs) {
  Ready();
  ASSERT_TRUE(Freeze().ok());
  // The clock is not set before it runs again.
  guest_->StandsStill();
  EXPECT_TRUE(Thaw().ok());
  EXPECT_FALSE(agent_->frozen);
}

TEST_F(GuestFilesystemsTest, ALinkThatBreaksMeanwhileIsAFailure) {
  Ready();
  agent_->ignored = {bridge::kFreezeFilesystems};
  const auto freezing = Start(guest_->filesystems().Freeze(kLong));
  EXPECT_FALSE(freezing->has_value());
  agent_->Connect();
  Settle();
  ASSERT_TRUE(freezing->has_value());
  EXPECT_TRUE(absl::IsUnavailable((*freezing)->status()));
  // Nor is it asked for again.
  EXPECT_EQ(agent_->CountReceived(bridge::kFreezeFilesystems), 1);
}

}  // namespace
}  // namespace ferry::guest
