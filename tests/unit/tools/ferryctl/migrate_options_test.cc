#include "tools/ferryctl/migrate_options.h"

#include <gtest/gtest.h>

#include <string>

namespace ferry::ctl {
namespace {

v1::MigrateRequest Parsed(const std::string& line) {
  CLI::App app;
  MigrateOptions options;
  options.AddTo(&app);
  app.parse(line);
  v1::MigrateRequest request;
  options.Fill(&request);
  return request;
}

TEST(MigrateOptions, WhatIsNotGivenStaysUnset) {
  const v1::MigrateRequest request = Parsed("");
  v1::MigrateRequest expected;
  expected.mutable_options()->mutable_memory_transfer_throttle_params();
  EXPECT_EQ(request.SerializeAsString(), expected.SerializeAsString());
}

TEST(MigrateOptions, EveryOptionHasItsFlag) {
  const v1::MigrateRequest request = Parsed(
      "--profile must-finish --timeout 2m --on-timeout pause --downtime-limit 15ms "
      "--max-blackout 1s --max-bandwidth 100M --no-throttle --throttle-min 0 --throttle-step 12.5 "
      "--throttle-from-pass 4 --target-passes 2 --max-passes 9 --compress-workers 3 --checksum "
      "--trace --patient --copy-storage all");
  v1::MigrateRequest expected;
  expected.set_profile(v1::MIGRATION_PROFILE_MUST_FINISH);
  expected.set_timeout_ms(120'000);
  expected.set_on_timeout(v1::TIMEOUT_ACTION_PAUSE);
  auto* options = expected.mutable_options();
  auto* throttle = options->mutable_memory_transfer_throttle_params();
  throttle->set_target_blackout_transfer_time(15);
  throttle->set_blackout_time_threshold_for_cancelling_migration(1000);
  throttle->set_skip_throttling(true);
  throttle->set_minimum_throttle_percentage(0);
  throttle->set_throttling_scale(12.5);
  throttle->set_starting_brownout_pass_number_for_throttling(4);
  throttle->set_target_number_of_brownout_transfer_passes(2);
  throttle->set_maximum_number_of_brownout_transfer_passes(9);
  options->set_cancel_if_blackout_threshold_exceeds(true);
  options->set_max_bandwidth(100u << 20);
  options->mutable_compression_settings()->set_throttle_worker_count(3);
  options->set_checksum_verification(true);
  options->set_perf_tracing_enabled(true);
  options->set_prepare_memory_transfer_mode(true);
  options->set_copy_storage(v1::COPY_STORAGE_ALL);
  EXPECT_EQ(request.ShortDebugString(), expected.ShortDebugString());
  // Nothing of what the contract has is without a flag; the transport is the daemon's affair.
  const auto* fields = v1::InitializeOptions::descriptor();
  for (int i = 0; i < fields->field_count(); ++i) {
    if (fields->field(i)->name() == "memory_transport") continue;
    EXPECT_TRUE(options->GetReflection()->HasField(*options, fields->field(i)))
        << fields->field(i)->name();
  }
  const auto* params = v1::MemoryTransferThrottleParams::descriptor();
  for (int i = 0; i < params->field_count(); ++i) {
    EXPECT_TRUE(throttle->GetReflection()->HasField(*throttle, params->field(i)))
        << params->field(i)->name();
  }
}

TEST(MigrateOptions, ThrottleCanBeAskedForExpressly) {
  const auto params = Parsed("--throttle").options().memory_transfer_throttle_params();
  EXPECT_TRUE(params.has_skip_throttling());
  EXPECT_FALSE(params.skip_throttling());
}

TEST(MigrateOptions, WhatCannotBeReadIsRefused) {
  for (const char* line : {"--profile rude", "--copy-storage some", "--on-timeout panic",
                           "--timeout 5", "--max-blackout soon", "--max-bandwidth fast",
                           "--max-passes -1", "--throttle-min much", "--compress-workers 1.5"}) {
    EXPECT_THROW(Parsed(line), CLI::ParseError) << line;
  }
}

}  // namespace
}  // namespace ferry::ctl
