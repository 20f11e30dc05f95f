#include "migration/options/profile.h"

#include <algorithm>
#include <optional>

#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

// What a profile sets. Absent: it leaves that alone.
struct Values {
  bool skip_throttling = false;
  double scale = 0;  // this and the next two only where it throttles
  uint32_t minimum_percentage = 0;
  uint32_t starting_pass = 0;
  std::optional<uint32_t> maximum_passes;
  uint32_t target_blackout_ms = 0;
};

constexpr Values kGentle = {.skip_throttling = true, .target_blackout_ms = 10};
constexpr Values kBalanced = {
    .scale = 10, .minimum_percentage = 20, .starting_pass = 3, .target_blackout_ms = 10};
constexpr Values kMustFinish = {.scale = 20,
                                .minimum_percentage = 40,
                                .starting_pass = 2,
                                .maximum_passes = 12,
                                .target_blackout_ms = 50};
constexpr uint64_t kGentleLimitMs = 600'000;

void Fill(const Values& values, v1::MemoryTransferThrottleParams& params) {
  if (!params.has_skip_throttling()) params.set_skip_throttling(values.skip_throttling);
  if (!params.skip_throttling() && !values.skip_throttling) {
    if (!params.has_throttling_scale()) params.set_throttling_scale(values.scale);
    if (!params.has_minimum_throttle_percentage()) {
      params.set_minimum_throttle_percentage(values.minimum_percentage);
    }
    if (!params.has_starting_brownout_pass_number_for_throttling()) {
      params.set_starting_brownout_pass_number_for_throttling(values.starting_pass);
    }
  }
  if (values.maximum_passes && !params.has_maximum_number_of_brownout_transfer_passes()) {
    params.set_maximum_number_of_brownout_transfer_passes(
        std::max(*values.maximum_passes, params.target_number_of_brownout_transfer_passes()));
  }
  if (!params.has_target_blackout_transfer_time()) {
    params.set_target_blackout_transfer_time(values.target_blackout_ms);
  }
}

}  // namespace

absl::Status ExpandProfile(v1::MigrationProfile profile, v1::InitializeOptions& options) {
  if (options.memory_transport() == v1::MEMORY_TRANSPORT_UNSPECIFIED) {
    options.set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  }
  v1::MemoryTransferThrottleParams& params = *options.mutable_memory_transfer_throttle_params();
  switch (profile) {
    case v1::MIGRATION_PROFILE_GENTLE:
      Fill(kGentle, params);
      return absl::OkStatus();
    case v1::MIGRATION_PROFILE_UNSPECIFIED:
    case v1::MIGRATION_PROFILE_BALANCED:
      Fill(kBalanced, params);
      return absl::OkStatus();
    case v1::MIGRATION_PROFILE_MUST_FINISH:
      Fill(kMustFinish, params);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          StrCat("profile is ", static_cast<int>(profile),
                 ", but must be from 0 to 3 (gentle, balanced or must-finish)"));
  }
}

uint64_t DefaultTimeLimitMs(v1::MigrationProfile profile) {
  return profile == v1::MIGRATION_PROFILE_GENTLE ? kGentleLimitMs : 0;
}

}  // namespace ferry::migration
