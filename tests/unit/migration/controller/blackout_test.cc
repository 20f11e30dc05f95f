#include "migration/controller/blackout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::Optional;

constexpr char kSaid[] = "12 10 2";

TEST(BlackoutTest, WhatComesAfterTheVoteIsMeasuredByOneClockWhoeverCarriesGo) {
  // GO was on its way for 500 ms, in somebody's hands.
  const auto measured = MeasureBlackout(kSaid, {.one_way = 1, .since_go = 4, .since_vote = 507});
  ASSERT_TRUE(measured.has_value());
  EXPECT_THAT(measured->device, DoubleEq(10));
  EXPECT_THAT(measured->commit, DoubleEq(2));
  EXPECT_THAT(measured->total, DoubleEq(10 - 1 + 507));
  EXPECT_THAT(measured->resume, DoubleEq(measured->total - 12));
}

TEST(BlackoutTest, GosWayIsEstimatedWhereTheConnectionCarriedIt) {
  const auto measured = MeasureBlackout(kSaid, {.one_way = 1, .since_go = 4});
  ASSERT_TRUE(measured.has_value());
  EXPECT_THAT(measured->total, DoubleEq(12 + 1 + 4));
  EXPECT_THAT(measured->resume, DoubleEq(5));
}

TEST(BlackoutTest, ItIsNoShorterThanWhatTheSourceHasSeen) {
  const auto measured = MeasureBlackout(kSaid, {.one_way = 900, .since_go = 4, .since_vote = 5});
  ASSERT_TRUE(measured.has_value());
  EXPECT_THAT(measured->total, DoubleEq(12));
  EXPECT_THAT(measured->resume, DoubleEq(0));
}

TEST(BlackoutTest, TextsOfAPeerThatAreNoTimesSayNothing) {
  for (const char* text : {"", " ", "12", "12 10", "12 10 x", "12 -1 2", "nan 10 2", "inf 10 2",
                           "1e300 10 2", "12  10 2", "12 10 "}) {
    EXPECT_FALSE(MeasureBlackout(text, {}).has_value()) << text;
  }
  EXPECT_THAT(TimesIn("1.5 2 lost", 2), Optional(ElementsAre(1.5, 2)));
  EXPECT_THAT(TimesIn("1.5", 1), Optional(ElementsAre(1.5)));
  EXPECT_FALSE(TimesIn("1.5 lost", 2).has_value());
}

}  // namespace
}  // namespace ferry::migration
