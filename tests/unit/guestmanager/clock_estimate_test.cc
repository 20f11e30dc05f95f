#include "guestmanager/clock_estimate.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

namespace ferry::guest {
namespace {

constexpr int64_t kMs = ClockEstimate::kMillisecond;
constexpr int64_t kNow = 1'700'000'000'000 * kMs;

// A guest whose clock is ahead by `offset` and looks at it after `there` of the round trip.
ClockReading Reading(int64_t offset, int64_t there, int64_t round_trip) {
  return {.asked = kNow, .round_trip = round_trip, .guest = kNow + there + offset};
}

TEST(ClockEstimateTest, TheQuickestAnswerCounts) {
  ClockEstimate estimate;
  EXPECT_FALSE(estimate.done());
  EXPECT_EQ(estimate.correction(), 0);
  estimate.Add(Reading(-3000 * kMs, 90 * kMs, 100 * kMs));
  EXPECT_EQ(estimate.offset(), -3000 * kMs + 40 * kMs);
  EXPECT_EQ(estimate.uncertainty(), 50 * kMs);
  estimate.Add(Reading(-3000 * kMs, 5 * kMs, 10 * kMs));
  estimate.Add(Reading(-3000 * kMs, 0, 60 * kMs));
  EXPECT_EQ(estimate.offset(), -3000 * kMs);
  EXPECT_EQ(estimate.uncertainty(), 5 * kMs);
  EXPECT_EQ(estimate.correction(), 3000 * kMs);
}

TEST(ClockEstimateTest, TheErrorIsHalfTheRoundTripAtMost) {
  for (const int64_t there : {int64_t{0}, 3 * kMs, 20 * kMs}) {
    ClockEstimate estimate;
    estimate.Add(Reading(70 * kMs, there, 20 * kMs));
    EXPECT_LE(std::abs(estimate.offset() - 70 * kMs), estimate.uncertainty()) << there;
  }
}

TEST(ClockEstimateTest, OneQuickAnswerIsEnoughAndAFewSlowOnesAre) {
  ClockEstimate quick;
  quick.Add(Reading(0, 0, ClockEstimate::kQuick));
  EXPECT_TRUE(quick.done());
  ClockEstimate slow;
  for (int i = 0; i < ClockEstimate::kFewReadings; ++i) {
    EXPECT_FALSE(slow.done()) << i;
    slow.Add(Reading(0, 0, ClockEstimate::kQuick + 1));
  }
  EXPECT_TRUE(slow.done());
}

TEST(ClockEstimateTest, WhileAllAnswersAreSlowItIsAskedOnForAWhile) {
  constexpr int64_t kSlow = 40 * kMs;
  ClockEstimate lucky;
  for (int i = 0; i < 20; ++i) {
    lucky.Add(Reading(0, 0, kSlow));
    EXPECT_FALSE(lucky.done()) << i;
    EXPECT_FALSE(lucky.good()) << i;
  }
  lucky.Add(Reading(0, 0, 2 * ClockEstimate::kWanted));
  EXPECT_TRUE(lucky.done());
  EXPECT_TRUE(lucky.good());
  ClockEstimate unlucky;
  int64_t spent = 0;
  for (; spent < ClockEstimate::kPatience; spent += kSlow) {
    EXPECT_FALSE(unlucky.done()) << spent;
    unlucky.Add(Reading(0, 0, kSlow));
  }
  EXPECT_TRUE(unlucky.done());
  EXPECT_FALSE(unlucky.good());
}

TEST(ClockEstimateTest, AClockThatIsCloseIsLeftAlone) {
  for (const int64_t sign : {-1, 1}) {
    ClockEstimate close;
    close.Add(Reading(sign * ClockEstimate::kTolerance, 0, 0));
    EXPECT_EQ(close.correction(), 0);
    ClockEstimate off;
    off.Add(Reading(sign * (ClockEstimate::kTolerance + 1), 0, 0));
    EXPECT_EQ(off.correction(), -sign * (ClockEstimate::kTolerance + 1));
  }
}

TEST(ClockEstimateTest, WhateverAGuestSaysFits) {
  ClockEstimate estimate;
  estimate.Add({.asked = kNow, .round_trip = kMs, .guest = std::numeric_limits<int64_t>::max()});
  EXPECT_LT(estimate.correction(), 0);
  ClockEstimate oldest;
  oldest.Add({.asked = kNow, .round_trip = kMs, .guest = 0});
  EXPECT_EQ(oldest.correction(), kNow + kMs / 2);
}

}  // namespace
}  // namespace ferry::guest
