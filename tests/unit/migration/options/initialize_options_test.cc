#include "migration/options/initialize_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace ferry::migration {
namespace {

using ::testing::HasSubstr;

v1::InitializeOptions Tcp() {
  v1::InitializeOptions options;
  options.set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  return options;
}

TEST(InitializeOptionsFromProto, RefusesEveryTransportButTcp) {
  v1::InitializeOptions options;
  EXPECT_EQ(InitializeOptionsFromProto(options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.set_memory_transport(static_cast<v1::MemoryTransport>(7));
  auto result = InitializeOptionsFromProto(options);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("memory_transport is 7"));
}

TEST(InitializeOptionsFromProto, AbsentOptionsAreTheDefaults) {
  auto result = InitializeOptionsFromProto(std::nullopt);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, *InitializeOptionsFromProto(Tcp()));
}

TEST(InitializeOptionsFromProto, AbsentSubMessagesStayAbsent) {
  auto result = InitializeOptionsFromProto(Tcp());
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->memory_transfer_throttle_params.has_value());
  EXPECT_FALSE(result->compression_settings.has_value());
  EXPECT_FALSE(result->max_bandwidth.has_value());
  EXPECT_FALSE(result->origin.has_value());
  EXPECT_FALSE(result->compatibility_data.has_value());
}

TEST(InitializeOptionsFromProto, UnsetAndZeroDiffer) {
  v1::InitializeOptions options = Tcp();
  options.mutable_memory_transfer_throttle_params();
  auto unset = InitializeOptionsFromProto(options);
  ASSERT_TRUE(unset.ok());
  EXPECT_FALSE(unset->memory_transfer_throttle_params->minimum_throttle_percentage.has_value());
  EXPECT_FALSE(unset->memory_transfer_throttle_params->skip_throttling.has_value());

  auto* throttle = options.mutable_memory_transfer_throttle_params();
  throttle->set_minimum_throttle_percentage(0);
  throttle->set_skip_throttling(false);
  throttle->set_target_number_of_brownout_transfer_passes(0);
  options.set_max_bandwidth(0);
  auto zero = InitializeOptionsFromProto(options);
  ASSERT_TRUE(zero.ok());
  EXPECT_EQ(zero->memory_transfer_throttle_params->minimum_throttle_percentage, 0);
  EXPECT_EQ(zero->memory_transfer_throttle_params->skip_throttling, false);
  EXPECT_EQ(zero->memory_transfer_throttle_params->target_number_of_brownout_transfer_passes, 0u);
  EXPECT_EQ(zero->max_bandwidth, 0u);
}

TEST(InitializeOptionsFromProto, CopiesEverything) {
  v1::InitializeOptions options = Tcp();
  auto* throttle = options.mutable_memory_transfer_throttle_params();
  throttle->set_skip_throttling(true);
  throttle->set_throttling_scale(12.5);
  throttle->set_minimum_throttle_percentage(20);
  throttle->set_target_number_of_brownout_transfer_passes(3);
  throttle->set_starting_brownout_pass_number_for_throttling(2);
  throttle->set_maximum_number_of_brownout_transfer_passes(9);
  throttle->set_target_blackout_transfer_time(15);
  throttle->set_blackout_time_threshold_for_cancelling_migration(500);
  options.mutable_compression_settings()->set_throttle_worker_count(4);
  options.set_checksum_verification(true);
  options.set_perf_tracing_enabled(true);
  options.set_cancel_if_blackout_threshold_exceeds(true);
  options.set_prepare_memory_transfer_mode(true);
  options.set_max_bandwidth(1'000'000'000'000);

  schema::MemoryTransferThrottleParams expected_throttle;
  expected_throttle.skip_throttling = true;
  expected_throttle.throttling_scale = 12.5;
  expected_throttle.minimum_throttle_percentage = 20;
  expected_throttle.target_number_of_brownout_transfer_passes = 3;
  expected_throttle.starting_brownout_pass_number_for_throttling = 2;
  expected_throttle.maximum_number_of_brownout_transfer_passes = 9;
  expected_throttle.target_blackout_transfer_time = 15;
  expected_throttle.blackout_time_threshold_for_cancelling_migration = 500;
  schema::MigrationInitializeOptions expected;
  expected.memory_transport = schema::MigrationMemoryTransport::kTcp;
  expected.memory_transfer_throttle_params = expected_throttle;
  expected.compression_settings.emplace().throttle_worker_count = 4;
  expected.checksum_verification = true;
  expected.perf_tracing_enabled = true;
  expected.cancel_if_blackout_threshold_exceeds = true;
  expected.prepare_memory_transfer_mode = true;
  expected.max_bandwidth = 1'000'000'000'000;

  auto result = InitializeOptionsFromProto(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, expected);
}

struct Refusal {
  const char* name;
  void (*set)(v1::InitializeOptions&);
  const char* text;
};

class RefusedOption : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedOption, NamesFieldAndRange) {
  v1::InitializeOptions options = Tcp();
  GetParam().set(options);
  auto result = InitializeOptionsFromProto(options);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedOption,
    ::testing::Values(
        Refusal{"ScaleLow",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()->set_throttling_scale(0.5);
                },
                "throttling_scale is 0.5, but must be from 1 to 100"},
        Refusal{"ScaleHigh",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()->set_throttling_scale(100.1);
                },
                "throttling_scale"},
        Refusal{"ScaleNan",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()->set_throttling_scale(
                      std::numeric_limits<double>::quiet_NaN());
                },
                "throttling_scale"},
        Refusal{"MinimumWouldWrap",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()->set_minimum_throttle_percentage(300);
                },
                "minimum_throttle_percentage is 300, but must be from 0 to 99"},
        Refusal{"StartingPassZero",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()
                      ->set_starting_brownout_pass_number_for_throttling(0);
                },
                "starting_brownout_pass_number_for_throttling"},
        Refusal{"MaximumPassesZero",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()
                      ->set_maximum_number_of_brownout_transfer_passes(0);
                },
                "maximum_number_of_brownout_transfer_passes"},
        Refusal{"TargetBlackout",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()->set_target_blackout_transfer_time(
                      2'000'001);
                },
                "target_blackout_transfer_time is 2000001, but must be from 1 to 2000000"},
        Refusal{"ThresholdZero",
                [](v1::InitializeOptions& o) {
                  o.mutable_memory_transfer_throttle_params()
                      ->set_blackout_time_threshold_for_cancelling_migration(0);
                },
                "blackout_time_threshold_for_cancelling_migration"},
        Refusal{"TargetAboveMaximum",
                [](v1::InitializeOptions& o) {
                  auto* throttle = o.mutable_memory_transfer_throttle_params();
                  throttle->set_target_number_of_brownout_transfer_passes(5);
                  throttle->set_maximum_number_of_brownout_transfer_passes(4);
                },
                "target_number_of_brownout_transfer_passes is 5, but must be from 0 to 4"},
        Refusal{"NoWorkers",
                [](v1::InitializeOptions& o) {
                  o.mutable_compression_settings()->set_throttle_worker_count(0);
                },
                "throttle_worker_count is 0"},
        Refusal{"MoreWorkersThanTheConnectionCarries",
                [](v1::InitializeOptions& o) {
                  o.mutable_compression_settings()->set_throttle_worker_count(64);
                },
                "throttle_worker_count is 64, but must be from 1 to 63"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(CheckOptionsAgree, NamesWhatContradicts) {
  schema::MigrationInitializeOptions source;
  schema::MigrationInitializeOptions destination;
  destination.max_bandwidth = 5;  // each side's own affair
  EXPECT_TRUE(CheckOptionsAgree(source, destination).ok());

  source.compression_settings.emplace().throttle_worker_count = 2;
  destination.compression_settings.emplace().throttle_worker_count = 3;
  source.checksum_verification = true;
  absl::Status status = CheckOptionsAgree(source, destination);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("compression_settings, checksum_verification"));
}

}  // namespace
}  // namespace ferry::migration
