#include "bridge/container/mount_attempt.h"

#include <gtest/gtest.h>

namespace ferry::bridge {
namespace {

absl::Status Fine() { return absl::OkStatus(); }

TEST(MountAttemptTest, OneThatCameInTimeStays) {
  MountAttempt attempt;
  int undone = 0;
  const auto undo = [&undone] { return ++undone, absl::OkStatus(); };
  EXPECT_FALSE(attempt.over());
  EXPECT_TRUE(attempt.Run(Fine, undo).ok());
  EXPECT_TRUE(attempt.over());
  EXPECT_FALSE(attempt.GiveUp()) << "whoever removes it has to unmount";
  EXPECT_EQ(undone, 0);
}

TEST(MountAttemptTest, OneThatWasGivenUpIsUndone) {
  MountAttempt attempt;
  bool over_while_undone = true;
  const auto late = [&attempt] {
    EXPECT_TRUE(attempt.GiveUp());
    EXPECT_TRUE(attempt.GiveUp()) << "again";
    return absl::OkStatus();
  };
  const auto undo = [&] {
    over_while_undone = attempt.over();
    return absl::OkStatus();
  };
  EXPECT_TRUE(attempt.Run(late, undo).ok());
  EXPECT_FALSE(over_while_undone);
  EXPECT_TRUE(attempt.over());
}

TEST(MountAttemptTest, OneThatFailedIsNotUndone) {
  MountAttempt attempt;
  const auto late = [&attempt] {
    attempt.GiveUp();
    return absl::InternalError("no");
  };
  const auto undo = [] {
    ADD_FAILURE();
    return absl::OkStatus();
  };
  EXPECT_FALSE(attempt.Run(late, undo).ok());
  EXPECT_TRUE(attempt.over());
}

}  // namespace
}  // namespace ferry::bridge
