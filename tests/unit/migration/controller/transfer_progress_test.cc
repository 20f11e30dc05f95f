#include "migration/controller/transfer_progress.h"

#include <gtest/gtest.h>

namespace ferry::migration {
namespace {

vm::TransferProgress FirstPass() {
  vm::TransferProgress progress;
  progress.pass = 1;
  progress.remaining_bytes = 200'000'000;
  progress.total_bytes = 256'000'000;
  return progress;
}

TEST(ToProgress, KnowsNoRatesAndGivesNoVerdictAtFirst) {
  const v1::Progress progress = ToProgress(FirstPass(), {});
  EXPECT_EQ(progress.remaining_bytes(), 200'000'000u);
  EXPECT_FALSE(progress.has_bytes_per_second());
  EXPECT_FALSE(progress.has_dirty_bytes_per_second());
  EXPECT_FALSE(progress.has_converging());
  EXPECT_FALSE(progress.has_eta_ms());
}

TEST(ToProgress, GivesNoVerdictBeforeTheFirstPassHasShownWhatIsDirtied) {
  vm::TransferProgress now = FirstPass();
  now.bytes_per_second = 100'000'000;
  const v1::Progress progress = ToProgress(now, {});
  EXPECT_EQ(progress.bytes_per_second(), 100'000'000u);
  EXPECT_FALSE(progress.has_dirty_bytes_per_second());
  EXPECT_FALSE(progress.has_converging());
}

TEST(ToProgress, TellsWhenItWillEndOnceBothRatesAreKnown) {
  vm::TransferProgress now = FirstPass();
  now.pass = 2;
  now.bytes_per_second = 100'000'000;
  now.dirty_bytes_per_second = 20'000'000;
  v1::Progress progress = ToProgress(now, {});
  EXPECT_TRUE(progress.converging());
  EXPECT_EQ(progress.eta_ms(), 2500u);

  now.dirty_bytes_per_second = 100'000'000;
  progress = ToProgress(now, {});
  EXPECT_TRUE(progress.has_converging());
  EXPECT_FALSE(progress.converging());
  EXPECT_FALSE(progress.has_eta_ms());
}

TEST(ToProgress, CallsAGuestThatWritesNothingConverging) {
  vm::TransferProgress now = FirstPass();
  now.pass = 2;
  now.bytes_per_second = 100'000'000;
  const v1::Progress progress = ToProgress(now, {});
  EXPECT_EQ(progress.dirty_bytes_per_second(), 0u);
  EXPECT_TRUE(progress.converging());
}

TEST(ToProgress, ReportsATransferThatCameToAHalt) {
  vm::TransferProgress now = FirstPass();
  now.pass = 2;
  now.bytes_per_second = 100'000'000;
  const v1::Progress before = ToProgress(now, {});
  now.bytes_per_second = 0;
  const v1::Progress halted = ToProgress(now, before);
  EXPECT_TRUE(halted.has_bytes_per_second());
  EXPECT_TRUE(halted.has_converging());
  EXPECT_FALSE(halted.converging());
}

TEST(ToProgress, ExpectsTheBlackoutByWhatIsLeftAndItsSpeed) {
  vm::TransferProgress now = FirstPass();
  EXPECT_FALSE(ToProgress(now, {}).has_expected_blackout_ms());
  now.bytes_per_second = 100'000'000;
  now.throttle_percent = 30;
  EXPECT_EQ(ToProgress(now, {}).expected_blackout_ms(), 2000u);
  EXPECT_EQ(ToProgress(now, {}).throttle_percent(), 30u);
  now.remaining_bytes = ~uint64_t{0};
  now.bytes_per_second = 1;
  EXPECT_GT(ToProgress(now, {}).expected_blackout_ms(), 1'000'000u);
}

TEST(ToProgress, KnowsOfDisksWhatWasToldLast) {
  v1::Progress before;
  before.set_disk_done_bytes(50'000'000);
  before.set_disk_total_bytes(50'000'000);
  before.set_disk_write_limit(4'000'000);
  vm::TransferProgress now = FirstPass();
  EXPECT_EQ(ToProgress(now, before).disk_done_bytes(), 50'000'000u);
  EXPECT_EQ(ToProgress(now, before).disk_total_bytes(), 50'000'000u);
  EXPECT_EQ(ToProgress(now, before).disk_write_limit(), 4'000'000u);
  now.disk_done_bytes = 55'000'000;
  now.disk_total_bytes = 60'000'000;
  now.disk_write_limit = 2'000'000;
  EXPECT_EQ(ToProgress(now, before).disk_done_bytes(), 55'000'000u);
  EXPECT_EQ(ToProgress(now, before).disk_total_bytes(), 60'000'000u);
  EXPECT_EQ(ToProgress(now, before).disk_write_limit(), 2'000'000u);
}

}  // namespace
}  // namespace ferry::migration
