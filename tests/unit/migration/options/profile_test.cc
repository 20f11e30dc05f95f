#include "migration/options/profile.h"

#include <gtest/gtest.h>

#include "migration/options/initialize_options.h"

namespace ferry::migration {
namespace {

v1::MemoryTransferThrottleParams Expanded(v1::MigrationProfile profile,
                                          v1::MemoryTransferThrottleParams params = {}) {
  v1::InitializeOptions options;
  options.set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  *options.mutable_memory_transfer_throttle_params() = std::move(params);
  EXPECT_TRUE(ExpandProfile(profile, options).ok());
  EXPECT_TRUE(InitializeOptionsFromProto(options).ok());
  return options.memory_transfer_throttle_params();
}

TEST(Profile, GentleNeverSlowsTheGuestAndForcesNothing) {
  const auto params = Expanded(v1::MIGRATION_PROFILE_GENTLE);
  EXPECT_TRUE(params.skip_throttling());
  EXPECT_FALSE(params.has_maximum_number_of_brownout_transfer_passes());
  EXPECT_EQ(DefaultTimeLimitMs(v1::MIGRATION_PROFILE_GENTLE), 600'000u);
}

TEST(Profile, BalancedThrottlesAndForcesNothing) {
  const auto params = Expanded(v1::MIGRATION_PROFILE_BALANCED);
  EXPECT_TRUE(params.has_skip_throttling());
  EXPECT_FALSE(params.skip_throttling());
  EXPECT_EQ(params.starting_brownout_pass_number_for_throttling(), 3u);
  EXPECT_EQ(params.target_blackout_transfer_time(), 10u);
  EXPECT_FALSE(params.has_maximum_number_of_brownout_transfer_passes());
  EXPECT_EQ(Expanded(v1::MIGRATION_PROFILE_UNSPECIFIED).SerializeAsString(),
            params.SerializeAsString());
  EXPECT_EQ(DefaultTimeLimitMs(v1::MIGRATION_PROFILE_BALANCED), 0u);
}

TEST(Profile, MustFinishForcesTheSwitchover) {
  const auto params = Expanded(v1::MIGRATION_PROFILE_MUST_FINISH);
  EXPECT_FALSE(params.skip_throttling());
  EXPECT_EQ(params.maximum_number_of_brownout_transfer_passes(), 12u);
}

TEST(Profile, WhatIsSetWins) {
  v1::MemoryTransferThrottleParams params;
  params.set_minimum_throttle_percentage(0);
  params.set_target_blackout_transfer_time(500);
  params.set_target_number_of_brownout_transfer_passes(20);
  const auto expanded = Expanded(v1::MIGRATION_PROFILE_MUST_FINISH, params);
  EXPECT_EQ(expanded.minimum_throttle_percentage(), 0u);
  EXPECT_EQ(expanded.target_blackout_transfer_time(), 500u);
  EXPECT_EQ(expanded.maximum_number_of_brownout_transfer_passes(), 20u);  // not below the target
  params.set_skip_throttling(true);
  EXPECT_FALSE(Expanded(v1::MIGRATION_PROFILE_MUST_FINISH, params).has_throttling_scale());
  params = {};
  params.set_skip_throttling(false);
  EXPECT_FALSE(Expanded(v1::MIGRATION_PROFILE_GENTLE, params).skip_throttling());
}

TEST(Profile, TheTransportNeedNotBeNamed) {
  v1::InitializeOptions options;
  ASSERT_TRUE(ExpandProfile(v1::MIGRATION_PROFILE_BALANCED, options).ok());
  EXPECT_EQ(options.memory_transport(), v1::MEMORY_TRANSPORT_TCP);
}

TEST(Profile, AnUnknownOneIsRefused) {
  v1::InitializeOptions options;
  EXPECT_EQ(ExpandProfile(static_cast<v1::MigrationProfile>(9), options).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ferry::migration
