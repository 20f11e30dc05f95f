#include "vmmanager/qemu/bandwidth_share.h"

#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

constexpr uint64_t kShared = 8'000'000;
constexpr std::chrono::milliseconds kInstant{1};

class BandwidthShareTest : public testing::Test {
 protected:
  BandwidthShareTest() { EXPECT_EQ(share_.Look(1'000, now_), std::nullopt); }

  BandwidthShare::Clock::time_point now_{};
  BandwidthShare share_{kShared};
};

TEST_F(BandwidthShareTest, DisksThatNobodyWritesToLeaveAll) {
  for (int i = 1; i < 5; ++i) {
    EXPECT_EQ(share_.Look(1'000, now_ + i * BandwidthShare::kPeriod), std::nullopt);
  }
}

TEST_F(BandwidthShareTest, WhatIsWrittenIsTakenFromTheMemoryAndGivenBack) {
  now_ += BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(3'001'000, now_), 5'000'000u);
  now_ += 2 * BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(9'001'000, now_), std::nullopt);
  now_ += BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(9'001'000, now_), kShared);
}

TEST_F(BandwidthShareTest, AMomentIsTooShortForARate) {
  EXPECT_EQ(share_.Look(3'001'000, now_ + BandwidthShare::kPeriod - kInstant), std::nullopt);
  EXPECT_EQ(share_.Look(3'001'000, now_ + BandwidthShare::kPeriod), 5'000'000u);
}

TEST_F(BandwidthShareTest, MemoryAlwaysHasAPart) {
  now_ += BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(100'000'000, now_), kShared / BandwidthShare::kLeastPart);
}

TEST_F(BandwidthShareTest, WhatOtherDisksHadCopiedBeforeIsNoRate) {
  now_ += BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(3'001'000, now_), 5'000'000u);
  share_.Restart();
  EXPECT_EQ(share_.given(), 5'000'000u);
  now_ += BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(900'000'000, now_), std::nullopt);
  now_ += BandwidthShare::kPeriod;
  EXPECT_EQ(share_.Look(901'000'000, now_), 7'000'000u);
}

TEST_F(BandwidthShareTest, AJobThatIsGoneHasWrittenNothing) {
  EXPECT_EQ(share_.Look(0, now_ + BandwidthShare::kPeriod), std::nullopt);
}

TEST(BandwidthShare, OfNearlyNothingIsNotNothing) {
  BandwidthShare share(1);
  EXPECT_EQ(share.Look(0, {}), std::nullopt);
  EXPECT_EQ(share.Look(5, BandwidthShare::Clock::time_point{} + BandwidthShare::kPeriod),
            std::nullopt);
}

}  // namespace
}  // namespace ferry::vm
