#include "vmmanager/qemu/qemu_migration_settings.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace ferry::vm {
namespace {

namespace json = boost::json;

QemuCapabilities AllCapabilities() {
  QemuCapabilities qemu;
  qemu.migration = {
      "events",        "return-path", "pause-before-switchover", "late-block-activate",
      "validate-uuid", "multifd",     "auto-converge",           "background-snapshot"};
  qemu.multifd_zstd = true;
  return qemu;
}

bool IsOn(const json::object& arguments, const char* name) {
  for (const json::value& item : arguments.at("capabilities").as_array()) {
    if (item.at("capability").as_string() == name) return item.at("state").as_bool();
  }
  ADD_FAILURE() << name << " is not named";
  return false;
}

TEST(MigrationSettingsTest, AlwaysConfirmsAndPausesBeforeTheSwitchover) {
  const json::object set = CapabilitiesFor({}, AllCapabilities());
  for (const char* name : {"events", "return-path", "pause-before-switchover",
                           "late-block-activate", "validate-uuid"}) {
    EXPECT_TRUE(IsOn(set, name)) << name;
  }
  for (const char* name : {"multifd", "auto-converge", "background-snapshot"}) {
    EXPECT_FALSE(IsOn(set, name)) << name;
  }
}

TEST(MigrationSettingsTest, NamesNothingThatQemuLacks) {
  QemuCapabilities qemu;
  qemu.migration = {"events"};
  EXPECT_EQ(CapabilitiesFor({}, qemu).at("capabilities").as_array().size(), 1u);
}

TEST(MigrationSettingsTest, JobsWithoutPeerUseEventsOnly) {
  const json::object set = PlainCapabilities(AllCapabilities());
  EXPECT_TRUE(IsOn(set, "events"));
  EXPECT_FALSE(IsOn(set, "return-path"));
}

TEST(MigrationSettingsTest, WhatNoJobWantsIsTurnedOff) {
  QemuCapabilities qemu;
  qemu.migration = {"events", "postcopy-ram", "compress"};
  for (const json::object& set : {CapabilitiesFor({}, qemu), PlainCapabilities(qemu)}) {
    EXPECT_TRUE(IsOn(set, "events"));
    EXPECT_FALSE(IsOn(set, "postcopy-ram"));
    EXPECT_FALSE(IsOn(set, "compress"));
  }
}

TEST(MigrationSettingsTest, WorkersTurnOnMultifd) {
  schema::MigrationInitializeOptions options;
  options.compression_settings = schema::MigrationCompressionSettings{3};
  EXPECT_TRUE(IsOn(CapabilitiesFor(options, AllCapabilities()), "multifd"));
  const json::object parameters = ParametersFor(options);
  EXPECT_EQ(parameters.at("multifd-channels").to_number<int>(), 3);
  EXPECT_EQ(parameters.at("multifd-compression").as_string(), "zstd");
  options.compression_settings->throttle_worker_count.reset();
  EXPECT_TRUE(IsOn(CapabilitiesFor(options, AllCapabilities()), "multifd"));
  EXPECT_EQ(ParametersFor(options).at("multifd-channels").to_number<int>(), 2);
}

TEST(MigrationSettingsTest, WhatReceivesAnnouncesNothingByItself) {
  json::object parameters = IncomingParametersFor({});
  EXPECT_EQ(parameters.size(), 1u);
  EXPECT_EQ(parameters.at("announce-rounds").to_number<int>(), 0);
  schema::MigrationInitializeOptions options;
  options.compression_settings = schema::MigrationCompressionSettings{3};
  parameters = IncomingParametersFor(options);
  EXPECT_EQ(parameters.at("announce-rounds").to_number<int>(), 0);
  EXPECT_EQ(parameters.at("multifd-channels").to_number<int>(), 3);
}

TEST(MigrationSettingsTest, NoJobInheritsAnotherOnesParameters) {
  schema::MigrationInitializeOptions options;
  options.compression_settings = schema::MigrationCompressionSettings{7};
  options.max_bandwidth = 5;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.minimum_throttle_percentage = 60;
  params.throttling_scale = 30;
  params.starting_brownout_pass_number_for_throttling = 9;
  params.target_blackout_transfer_time = 5;
  params.target_number_of_brownout_transfer_passes = 0;
  const json::object plain = ParametersFor({});
  for (const auto& [name, value] : ParametersFor(options)) {
    ASSERT_TRUE(plain.contains(name)) << name;
    EXPECT_NE(plain.at(name), value) << name;
  }
  EXPECT_EQ(plain.at("multifd-compression").as_string(), "none");
  EXPECT_EQ(plain.at("max-cpu-throttle").to_number<int>(), 99);
}

TEST(MigrationSettingsTest, WhatQemuCannotDoIsRefusedByName) {
  QemuCapabilities qemu = AllCapabilities();
  schema::MigrationInitializeOptions options;
  EXPECT_TRUE(CheckSupported(options, {}).ok());
  options.compression_settings.emplace();
  EXPECT_TRUE(CheckSupported(options, qemu).ok());
  qemu.multifd_zstd = false;
  const absl::Status compression = CheckSupported(options, qemu);
  EXPECT_TRUE(absl::IsFailedPrecondition(compression));
  EXPECT_NE(compression.message().find("compression_settings"), std::string::npos);

  options.compression_settings.reset();
  options.memory_transfer_throttle_params.emplace().throttling_scale = 10;
  EXPECT_TRUE(CheckSupported(options, qemu).ok());
  qemu.migration.erase("auto-converge");
  EXPECT_NE(CheckSupported(options, qemu).message().find("throttling"), std::string::npos);
}

TEST(MigrationSettingsTest, LimitsAreAlwaysExplicit) {
  const json::object unlimited = ParametersFor({});
  EXPECT_GE(unlimited.at("max-bandwidth").to_number<uint64_t>(), 10'000'000'000u);
  EXPECT_EQ(unlimited.at("downtime-limit").to_number<int>(), 1);
  schema::MigrationInitializeOptions options;
  options.max_bandwidth = 0;  // none is wanted
  EXPECT_EQ(ParametersFor(options).at("max-bandwidth"), unlimited.at("max-bandwidth"));
  options.max_bandwidth = 1'000'000;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.target_blackout_transfer_time = 7;
  params.target_number_of_brownout_transfer_passes = 0;
  EXPECT_EQ(ParametersFor(options).at("max-bandwidth").to_number<uint64_t>(), 1'000'000u);
  EXPECT_EQ(ParametersFor(options).at("downtime-limit").to_number<int>(), 7);
}

TEST(MigrationSettingsTest, ThrottlesOnlyWhenAsked) {
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  EXPECT_FALSE(IsOn(CapabilitiesFor(options, AllCapabilities()), "auto-converge"));
  params.minimum_throttle_percentage = 0;
  params.throttling_scale = 100;
  EXPECT_TRUE(IsOn(CapabilitiesFor(options, AllCapabilities()), "auto-converge"));
  EXPECT_EQ(ParametersFor(options).at("cpu-throttle-initial").to_number<int>(), 1);
  EXPECT_EQ(ParametersFor(options).at("cpu-throttle-increment").to_number<int>(), 99);
  params.skip_throttling = true;
  EXPECT_FALSE(IsOn(CapabilitiesFor(options, AllCapabilities()), "auto-converge"));
  params = {};
  params.skip_throttling = false;  // said, and so something else than unset
  EXPECT_TRUE(IsOn(CapabilitiesFor(options, AllCapabilities()), "auto-converge"));
  EXPECT_EQ(ParametersFor(options).at("cpu-throttle-initial").to_number<int>(), 20);
}

TEST(ThrottlePolicyTest, HoldsBackUntilItsFirstPass) {
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.minimum_throttle_percentage = 30;
  params.throttling_scale = 12.6;
  params.starting_brownout_pass_number_for_throttling = 4;
  const ThrottlePolicy policy = *ThrottlePolicyOf(options);
  using Steps = ThrottlePolicy::Steps;
  EXPECT_EQ(policy.StepsAt(1, 0), (Steps{1, 1, 1}));
  EXPECT_EQ(policy.StepsAt(2, 1), (Steps{1, 1, 1}));
  // At the end of pass 3 it is decided how pass 4 goes.
  EXPECT_EQ(policy.StepsAt(3, 0), (Steps{30, 13, 99}));
  EXPECT_EQ(policy.StepsAt(3, 1), (Steps{30, 29, 99}));
  EXPECT_EQ(policy.StepsAt(4, 30), (Steps{30, 13, 99}));
  EXPECT_EQ(ParametersAt(options, 1, 0).at("max-cpu-throttle").to_number<int>(), 1);
  EXPECT_EQ(ParametersFor(options).at("max-cpu-throttle").to_number<int>(), 1);
}

TEST(DowntimePolicyTest, RisesInSmallStepsToACeiling) {
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.target_number_of_brownout_transfer_passes = 0;
  const DowntimePolicy policy = DowntimePolicyOf(options);
  EXPECT_EQ(policy.LimitAt(1), 20u);
  EXPECT_EQ(policy.LimitAt(kPatientPasses), 20u);
  EXPECT_EQ(policy.LimitAt(kPatientPasses + 1), 30u);
  EXPECT_EQ(policy.LimitAt(kPatientPasses + 2), 40u);
  EXPECT_EQ(policy.LimitAt(1'000'000), 200u);
}

TEST(DowntimePolicyTest, TriesAFewPassesForLessThanItAimsAtUnlessTold) {
  EXPECT_EQ(DowntimePolicyOf({}).LimitAt(3), 1u);
  EXPECT_EQ(DowntimePolicyOf({}).LimitAt(4), 20u);
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.maximum_number_of_brownout_transfer_passes = 2;
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(1), 1u);
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(2), 20u);
  params.target_number_of_brownout_transfer_passes = 1;
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(1), 20u);
}

TEST(DowntimePolicyTest, MaximumPassesForceTheSwitchover) {
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.maximum_number_of_brownout_transfer_passes = 3;
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(3), 20u);
  EXPECT_FALSE(DowntimePolicyOf(options).ForcesAt(3));
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(4), kForcedDowntimeMs);
  EXPECT_TRUE(DowntimePolicyOf(options).ForcesAt(4));
}

TEST(DowntimePolicyTest, AThresholdIsTheCeiling) {
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.blackout_time_threshold_for_cancelling_migration = 50;
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(100), 200u);
  options.cancel_if_blackout_threshold_exceeds = true;
  EXPECT_EQ(DowntimePolicyOf(options).LimitAt(100), 50u);
}

TEST(DowntimePolicyTest, AsLittleAsCanBeUntilTheTargetOfPasses) {
  schema::MigrationInitializeOptions options;
  auto& params = options.memory_transfer_throttle_params.emplace();
  params.target_number_of_brownout_transfer_passes = 4;
  const DowntimePolicy policy = DowntimePolicyOf(options);
  EXPECT_EQ(policy.LimitAt(1), 1u);
  EXPECT_EQ(policy.LimitAt(3), 1u);
  EXPECT_EQ(policy.LimitAt(4), 20u);
  EXPECT_EQ(policy.LimitAt(3 + kPatientPasses), 20u);
  EXPECT_EQ(policy.LimitAt(4 + kPatientPasses), 30u);
}

TEST(MigrationReportTest, ReadsWhatQemuSays) {
  const MigrationReport report = ParseMigrationReport(json::parse(
      R"({"status": "active", "ram": {"transferred": 10, "remaining": 20, "total": 30,
          "mbps": 8.0, "dirty-pages-rate": 2, "page-size": 4096, "dirty-sync-count": 3},
          "cpu-throttle-percentage": 40})"));
  EXPECT_EQ(report.progress.throttle_percent, 40u);
  EXPECT_EQ(report.status, "active");
  EXPECT_EQ(report.progress.pass, 3u);
  EXPECT_EQ(report.progress.transferred_bytes, 10u);
  EXPECT_EQ(report.progress.remaining_bytes, 20u);
  EXPECT_EQ(report.progress.total_bytes, 30u);
  EXPECT_EQ(report.progress.bytes_per_second, 1'000'000u);
  EXPECT_EQ(report.progress.dirty_bytes_per_second, 8192u);
}

TEST(MigrationReportTest, SurvivesOddAnswers) {
  for (const char* text : {"{}", "[]", "5", R"({"status": 5, "ram": [], "error-desc": {}})",
                           R"({"ram": {"transferred": -1, "mbps": "x", "remaining": 1e300}})"}) {
    const MigrationReport report = ParseMigrationReport(json::parse(text));
    EXPECT_TRUE(report.status.empty()) << text;
  }
  const MigrationReport failed =
      ParseMigrationReport(json::parse(R"({"status": "failed", "error-desc": "broken"})"));
  EXPECT_EQ(failed.error, "broken");
}

}  // namespace
}  // namespace ferry::vm
