#include "migration/controller/convergence_watch.h"

#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

vm::TransferProgress At(uint64_t pass, uint64_t remaining, uint32_t throttle) {
  vm::TransferProgress progress;
  progress.pass = pass;
  progress.remaining_bytes = remaining;
  progress.throttle_percent = throttle;
  return progress;
}

TEST(ConvergenceWatchTest, GivesUpAfterSomePassesInVainUnderFullThrottle) {
  ConvergenceWatch watch;
  uint64_t pass = 1;
  EXPECT_FALSE(watch.Hopeless(At(pass, 100, 99)));
  for (int i = 1; i < ConvergenceWatch::kPassesInVain; ++i) {
    EXPECT_FALSE(watch.Hopeless(At(++pass, 100, 99)));
    EXPECT_FALSE(watch.Hopeless(At(pass, 100, 99)));  // of the same pass
  }
  EXPECT_TRUE(watch.Hopeless(At(++pass, 100, 99)));
}

TEST(ConvergenceWatchTest, HopesWhileTheGuestCanBeSlowedDownFurther) {
  ConvergenceWatch watch;
  for (uint64_t pass = 1; pass < 100; ++pass) EXPECT_FALSE(watch.Hopeless(At(pass, 100, 98)));
}

TEST(ConvergenceWatchTest, AMaximumOfPassesIsAnEndOfItsOwn) {
  ConvergenceWatch watch(true);
  for (uint64_t pass = 1; pass < 100; ++pass) EXPECT_FALSE(watch.Hopeless(At(pass, 100, 99)));
}

TEST(ConvergenceWatchTest, HopesWhileLessIsLeft) {
  ConvergenceWatch watch;
  for (uint64_t pass = 1; pass < 100; ++pass) {
    EXPECT_FALSE(watch.Hopeless(At(pass, 1000 - pass / 4, 99)));
  }
}

TEST(ConvergenceWatchTest, AForcedSwitchoverComesAnyhow) {
  ConvergenceWatch watch;
  for (uint64_t pass = 1; pass < 100; ++pass) {
    vm::TransferProgress progress = At(pass, 100, 99);
    progress.forced = true;
    EXPECT_FALSE(watch.Hopeless(progress));
  }
}

}  // namespace
}  // namespace ferry::migration
