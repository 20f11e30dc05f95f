#include "vmmanager/qemu/rest_watch.h"

#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

using Verdict = RestWatch::Verdict;

constexpr uint64_t kMuch = 10 * RestWatch::kLittleLeft;
constexpr milliseconds kMoment{1};

class RestWatchTest : public testing::Test {
 protected:
  RestWatch::Clock::time_point now_{};
  RestWatch watch_;
};

TEST_F(RestWatchTest, WhatBecomesLessGoesOn) {
  for (uint64_t rest = kMuch; rest > RestWatch::kLittleLeft; rest -= RestWatch::kLittleLeft / 4) {
    EXPECT_EQ(watch_.Look(rest, now_), Verdict::kGoesOn);
    now_ += RestWatch::kHopelessFor - kMoment;
  }
}

TEST_F(RestWatchTest, WhatDoesNotBecomeLessIsHopeless) {
  EXPECT_EQ(watch_.Look(kMuch, now_), Verdict::kGoesOn);
  now_ += RestWatch::kHopelessFor - kMoment;
  EXPECT_EQ(watch_.Look(kMuch, now_), Verdict::kGoesOn);
  EXPECT_EQ(watch_.Look(kMuch + 1, now_ + kMoment), Verdict::kHopeless);
}

TEST_F(RestWatchTest, LittleHasToStayLittle) {
  EXPECT_EQ(watch_.Look(RestWatch::kLittleLeft, now_), Verdict::kGoesOn);
  now_ += RestWatch::kLittleFor - kMoment;
  EXPECT_EQ(watch_.Look(RestWatch::kLittleLeft + 1, now_), Verdict::kGoesOn);
  EXPECT_EQ(watch_.Look(RestWatch::kLittleLeft, now_ + kMoment), Verdict::kGoesOn);
  EXPECT_EQ(watch_.Look(0, now_ + kMoment + RestWatch::kLittleFor), Verdict::kLittle);
}

}  // namespace
}  // namespace ferry::vm
