#include "vmmanager/schema/migration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"

namespace ferry::schema {
namespace {

using testing::HasSubstr;

MigrationInitializeOptions Full() {
  MigrationInitializeOptions options;
  options.origin = MigrationOrigin::kSource;
  options.memory_transport = MigrationMemoryTransport::kTcp;
  options.memory_transfer_throttle_params =
      MemoryTransferThrottleParams{true, 12.5, 5, 6, 7, 8, 9, 10};
  options.compression_settings = MigrationCompressionSettings{4};
  options.checksum_verification = true;
  options.perf_tracing_enabled = true;
  options.cancel_if_blackout_threshold_exceeds = true;
  options.prepare_memory_transfer_mode = true;
  options.compatibility_data = CompatibilityData{std::string("\0\x01\xfe", 3)};
  options.max_bandwidth = 1'000'000;
  return options;
}

TEST(MigrationOptionsJson, GoldenText) {
  EXPECT_EQ(
      ToJson(Full()),
      R"({"Origin":"Source","MemoryTransport":"TCP","MemoryTransferThrottleParams":)"
      R"({"SkipThrottling":true,"ThrottlingScale":1.25E1,"MinimumThrottlePercentage":5,)"
      R"("TargetNumberOfBrownoutTransferPasses":6,"StartingBrownoutPassNumberForThrottling":7,)"
      R"("MaximumNumberOfBrownoutTransferPasses":8,"TargetBlackoutTransferTime":9,)"
      R"("BlackoutTimeThresholdForCancellingMigration":10},"CompressionSettings":)"
      R"({"ThrottleWorkerCount":4},"ChecksumVerification":true,"PerfTracingEnabled":true,)"
      R"("CancelIfBlackoutThresholdExceeds":true,"PrepareMemoryTransferMode":true,)"
      R"("CompatibilityData":{"Data":"AAH+"},"Ferry":{"MaxBandwidth":1000000}})");
}

TEST(MigrationOptionsJson, NothingSetIsAnEmptyObject) {
  EXPECT_EQ(ToJson(MigrationInitializeOptions{}), "{}");
}

struct Member {
  const char* json;
  std::function<void(MigrationInitializeOptions&)> set;
};

// Every member alone, at zero: it is written, and it is not the same as unset.
std::vector<Member> ZeroMembers() {
  using Options = MigrationInitializeOptions;
  auto throttle = [](auto set) {
    return [set](Options& options) { set(options.memory_transfer_throttle_params.emplace()); };
  };
  using Params = MemoryTransferThrottleParams;
  return {
      {R"({"Origin":"Source"})", [](Options& o) { o.origin = MigrationOrigin::kSource; }},
      {R"({"Origin":"Destination"})", [](Options& o) { o.origin = MigrationOrigin::kDestination; }},
      {R"({"MemoryTransport":"TCP"})",
       [](Options& o) { o.memory_transport = MigrationMemoryTransport::kTcp; }},
      {R"({"MemoryTransferThrottleParams":{}})", throttle([](Params&) {})},
      {R"({"MemoryTransferThrottleParams":{"SkipThrottling":false}})",
       throttle([](Params& p) { p.skip_throttling = false; })},
      {R"({"MemoryTransferThrottleParams":{"ThrottlingScale":0}})",
       throttle([](Params& p) { p.throttling_scale = 0; })},
      {R"({"MemoryTransferThrottleParams":{"MinimumThrottlePercentage":0}})",
       throttle([](Params& p) { p.minimum_throttle_percentage = 0; })},
      {R"({"MemoryTransferThrottleParams":{"MinimumThrottlePercentage":255}})",
       throttle([](Params& p) { p.minimum_throttle_percentage = 255; })},
      {R"({"MemoryTransferThrottleParams":{"TargetNumberOfBrownoutTransferPasses":0}})",
       throttle([](Params& p) { p.target_number_of_brownout_transfer_passes = 0; })},
      {R"({"MemoryTransferThrottleParams":{"StartingBrownoutPassNumberForThrottling":0}})",
       throttle([](Params& p) { p.starting_brownout_pass_number_for_throttling = 0; })},
      {R"({"MemoryTransferThrottleParams":{"MaximumNumberOfBrownoutTransferPasses":0}})",
       throttle([](Params& p) { p.maximum_number_of_brownout_transfer_passes = 0; })},
      {R"({"MemoryTransferThrottleParams":{"TargetBlackoutTransferTime":0}})",
       throttle([](Params& p) { p.target_blackout_transfer_time = 0; })},
      {R"({"MemoryTransferThrottleParams":{"BlackoutTimeThresholdForCancellingMigration":0}})",
       throttle([](Params& p) { p.blackout_time_threshold_for_cancelling_migration = 0; })},
      {R"({"CompressionSettings":{}})", [](Options& o) { o.compression_settings.emplace(); }},
      {R"({"CompressionSettings":{"ThrottleWorkerCount":0}})",
       [](Options& o) { o.compression_settings.emplace().throttle_worker_count = 0; }},
      {R"({"ChecksumVerification":false})", [](Options& o) { o.checksum_verification = false; }},
      {R"({"PerfTracingEnabled":false})", [](Options& o) { o.perf_tracing_enabled = false; }},
      {R"({"CancelIfBlackoutThresholdExceeds":false})",
       [](Options& o) { o.cancel_if_blackout_threshold_exceeds = false; }},
      {R"({"PrepareMemoryTransferMode":false})",
       [](Options& o) { o.prepare_memory_transfer_mode = false; }},
      {R"({"CompatibilityData":{"Data":""}})", [](Options& o) { o.compatibility_data.emplace(); }},
      {R"({"Ferry":{"MaxBandwidth":0}})", [](Options& o) { o.max_bandwidth = 0; }},
      {R"({"Ferry":{"MaxBandwidth":18446744073709551615}})",
       [](Options& o) { o.max_bandwidth = UINT64_MAX; }},
  };
}

TEST(MigrationOptionsJson, EveryMemberKeepsUnsetAndZeroApart) {
  for (const Member& member : ZeroMembers()) {
    MigrationInitializeOptions options;
    member.set(options);
    EXPECT_EQ(ToJson(options), member.json);
    auto read = MigrationInitializeOptionsFromJson(member.json);
    ASSERT_TRUE(read.ok()) << member.json << read.status();
    EXPECT_EQ(*read, options) << member.json;
    EXPECT_FALSE(*read == MigrationInitializeOptions{}) << member.json;
  }
}

TEST(MigrationOptionsJson, RoundTrips) {
  auto read = MigrationInitializeOptionsFromJson(ToJson(Full()));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Full());
  EXPECT_EQ(*MigrationInitializeOptionsFromJson("{}"), MigrationInitializeOptions{});
}

TEST(MigrationOptionsJson, AWholeScaleMayBeWrittenAsAnyNumber) {
  for (const char* number : {"50", "50.0", "5E1"}) {
    auto read = MigrationInitializeOptionsFromJson(
        absl::StrCat(R"({"MemoryTransferThrottleParams":{"ThrottlingScale":)", number, "}}"));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->memory_transfer_throttle_params->throttling_scale, 50.0);
  }
}

struct BadOptions {
  const char* json;
  const char* message;
};

class MigrationRefusal : public testing::TestWithParam<BadOptions> {};

TEST_P(MigrationRefusal, NamesThePath) {
  auto read = MigrationInitializeOptionsFromJson(GetParam().json);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << GetParam().json;
  EXPECT_THAT(std::string(read.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, MigrationRefusal,
    testing::Values(
        BadOptions{R"({"Origin":"source"})", "Origin is \"source\""},
        BadOptions{R"({"Origin":0})", "Origin must be a string"},
        BadOptions{R"({"MemoryTransport":"RDMA"})", "MemoryTransport is \"RDMA\""},
        BadOptions{R"({"MemoryTransferThrottleParams":{"MinimumThrottlePercentage":256}})",
                   "MemoryTransferThrottleParams.MinimumThrottlePercentage is 256"},
        BadOptions{R"({"MemoryTransferThrottleParams":{"MinimumThrottlePercentage":300}})",
                   "MemoryTransferThrottleParams.MinimumThrottlePercentage is 300"},
        BadOptions{R"({"MemoryTransferThrottleParams":{"ThrottlingScale":"1"}})",
                   "MemoryTransferThrottleParams.ThrottlingScale must be a number"},
        BadOptions{R"({"MemoryTransferThrottleParams":{"ThrottlingScale":1e999}})", ""},
        BadOptions{R"({"MemoryTransferThrottleParams":{"TargetBlackoutTransferTime":4294967296}})",
                   "MemoryTransferThrottleParams.TargetBlackoutTransferTime is 4294967296"},
        BadOptions{R"({"MemoryTransferThrottleParams":{"TargetBlackoutTransferTime":-1}})",
                   "MemoryTransferThrottleParams.TargetBlackoutTransferTime is -1"},
        BadOptions{R"({"MemoryTransferThrottleParams":{"Speed":1}})",
                   "MemoryTransferThrottleParams.Speed is not known"},
        BadOptions{R"({"CompressionSettings":true})", "CompressionSettings must be an object"},
        BadOptions{R"({"CompressionSettings":{"Level":1}})", "CompressionSettings.Level"},
        BadOptions{R"({"ChecksumVerification":"yes"})",
                   "ChecksumVerification must be true or false"},
        BadOptions{R"({"CompatibilityData":{"Data":"A"}})", "CompatibilityData.Data is not base64"},
        BadOptions{R"({"CompatibilityData":{"Data":"AAH+ "}})", "CompatibilityData.Data"},
        BadOptions{R"({"CompatibilityData":{"Data":"AP8"}})", "CompatibilityData.Data"},
        BadOptions{R"({"CompatibilityData":{"Blob":""}})", "CompatibilityData.Blob"},
        BadOptions{R"({"Ferry":{"MaxBandwidth":-5}})", "Ferry.MaxBandwidth is -5"},
        BadOptions{R"({"Ferry":{"X":1}})", "Ferry.X is not known"},
        BadOptions{R"({"Bandwidth":1})", "Bandwidth is not known"}));

TEST(MigrationVerbJson, Options) {
  EXPECT_EQ(ToJson(MigrationStartOptions{4'000'000'000}),
            R"({"NetworkSettings":{"SessionId":4000000000}})");
  EXPECT_EQ(ToJson(MigrationTransferOptions{MigrationOrigin::kDestination}),
            R"({"Origin":"Destination"})");
  EXPECT_EQ(ToJson(MigrationFinalizedOptions{}),
            R"({"Origin":"Source","FinalizedOperation":"Resume"})");
  EXPECT_EQ(ToJson(MigrationFinalizedOptions{MigrationOrigin::kDestination,
                                             MigrationFinalOperation::kStop}),
            R"({"Origin":"Destination","FinalizedOperation":"Stop"})");
  EXPECT_EQ(ToJson(MigrationFinalizedOptions{MigrationOrigin::kSource,
                                             MigrationFinalOperation::kResume, true}),
            R"({"Origin":"Source","FinalizedOperation":"Resume","Ferry":{"LeavePaused":true}})");
  EXPECT_EQ(ToJson(MigrationCancelOptions{}), R"({"Origin":"Source"})");
}

TEST(MigrationVerbJson, EventNames) {
  EXPECT_EQ(ToString(MigrationEventName::kUnknown), "Unknown");
  EXPECT_EQ(ToString(MigrationEventName::kSetupDone), "SetupDone");
  EXPECT_EQ(ToString(MigrationEventName::kTransferInProgress), "TransferInProgress");
  EXPECT_EQ(ToString(MigrationEventName::kBlackoutStarted), "BlackoutStarted");
  EXPECT_EQ(ToString(MigrationEventName::kOfflineDone), "OfflineDone");
  EXPECT_EQ(ToString(MigrationEventName::kBlackoutExited), "BlackoutExited");
  EXPECT_EQ(ToString(MigrationEventName::kMigrationDone), "MigrationDone");
  EXPECT_EQ(ToString(MigrationEventName::kMigrationRecoveryDone), "MigrationRecoveryDone");
  EXPECT_EQ(ToString(MigrationEventName::kMigrationFailed), "MigrationFailed");
}

TEST(MigrationVerbJson, Results) {
  EXPECT_EQ(ToString(MigrationResult::kInvalid), "Invalid");
  EXPECT_EQ(ToString(MigrationResult::kSuccess), "Success");
  EXPECT_EQ(ToString(MigrationResult::kMigrationCancelled), "MigrationCancelled");
  EXPECT_EQ(ToString(MigrationResult::kGuestInitiatedCancellation), "GuestInitiatedCancellation");
  EXPECT_EQ(ToString(MigrationResult::kSourceMigrationFailed), "SourceMigrationFailed");
  EXPECT_EQ(ToString(MigrationResult::kDestinationMigrationFailed), "DestinationMigrationFailed");
  EXPECT_EQ(ToString(MigrationResult::kMigrationRecoveryFailed), "MigrationRecoveryFailed");
}

TEST(BlackoutThreshold, CountsOnlyWhereItCancels) {
  MigrationInitializeOptions options;
  EXPECT_EQ(BlackoutThresholdMs(options), std::nullopt);
  options.memory_transfer_throttle_params.emplace()
      .blackout_time_threshold_for_cancelling_migration = 70;
  EXPECT_EQ(BlackoutThresholdMs(options), std::nullopt);
  options.cancel_if_blackout_threshold_exceeds = true;
  EXPECT_EQ(BlackoutThresholdMs(options), 70u);
  options.memory_transfer_throttle_params.reset();
  EXPECT_EQ(BlackoutThresholdMs(options), kDefaultBlackoutThresholdMs);
}

}  // namespace
}  // namespace ferry::schema
