#include "vmmanager/qemu/write_limit.h"

#include <gtest/gtest.h>

namespace ferry::vm {
namespace {

constexpr uint64_t kAllBytes = uint64_t{1} << 40;
constexpr uint64_t kMega = 1'000'000;
constexpr uint64_t kSeconds = WriteLimit::kPeriod.count() / 1000;

class WriteLimitTest : public testing::Test {
 protected:
  WriteLimitTest() { EXPECT_EQ(limit_.Look(done_, total_, now_), std::nullopt); }

  // A period in which so much was copied and so much written, in bytes per second.
  std::optional<uint64_t> Period(uint64_t copied, uint64_t written) {
    done_ += copied * kSeconds;
    total_ += written * kSeconds;
    now_ += WriteLimit::kPeriod;
    return limit_.Look(done_, total_, now_);
  }

  WriteLimit::Clock::time_point now_{};
  uint64_t done_ = kMega;
  uint64_t total_ = kAllBytes;
  WriteLimit limit_;
};

TEST_F(WriteLimitTest, AGuestThatCanBeFollowedWritesAsItWill) {
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Period(80 * kMega, 60 * kMega), std::nullopt);
  EXPECT_EQ(limit_.given(), 0u);
}

TEST_F(WriteLimitTest, OneThatCannotMayWriteHalfOfWhatIsCopied) {
  EXPECT_EQ(Period(80 * kMega, 61 * kMega), 40 * kMega);
  EXPECT_EQ(limit_.given(), 40 * kMega);
  EXPECT_EQ(Period(80 * kMega, 40 * kMega), std::nullopt);
  EXPECT_EQ(limit_.given(), 40 * kMega);
}

TEST_F(WriteLimitTest, ItBecomesLessUntilItSuffices) {
  EXPECT_EQ(Period(80 * kMega, 200 * kMega), 40 * kMega);
  EXPECT_EQ(Period(200 * kMega, 200 * kMega), 20 * kMega);
  EXPECT_EQ(Period(30 * kMega, 25 * kMega), 10 * kMega);
  EXPECT_EQ(Period(kMega, kMega), WriteLimit::kLeast);
  EXPECT_EQ(Period(0, kMega), std::nullopt);
  EXPECT_EQ(limit_.given(), WriteLimit::kLeast);
}

TEST_F(WriteLimitTest, ABurstIsNothing) {
  done_ += kMega;
  total_ += 900 * kMega;
  EXPECT_EQ(limit_.Look(done_, total_, now_ + WriteLimit::kPeriod - milliseconds(1)), std::nullopt);
  done_ += 2000 * kMega;
  EXPECT_EQ(limit_.Look(done_, total_, now_ + WriteLimit::kPeriod), std::nullopt);
}

TEST_F(WriteLimitTest, WhereLittleIsLeftNothingIsMeasured) {
  EXPECT_EQ(limit_.Look(kAllBytes - RestWatch::kLittleLeft, kAllBytes, now_), std::nullopt);
  done_ = kAllBytes;
  total_ = kAllBytes + 900 * kMega;
  now_ += WriteLimit::kPeriod;
  EXPECT_EQ(limit_.Look(done_, total_, now_), std::nullopt);
  EXPECT_EQ(Period(kMega, 2 * kMega), WriteLimit::kLeast);
}

TEST_F(WriteLimitTest, WhatWasBeforeARestartDoesNotCount) {
  limit_.Restart();
  EXPECT_EQ(Period(kMega, 900 * kMega), std::nullopt);
}

}  // namespace
}  // namespace ferry::vm
