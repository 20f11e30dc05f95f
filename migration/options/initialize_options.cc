#include "migration/options/initialize_options.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::migration {
namespace {

// QEMU takes a blackout target of at most 2000 s; longer than that is no live migration anyway.
constexpr uint32_t kMaxBlackoutMs = 2'000'000;

absl::Status OutOfRange(std::string_view field, std::string_view value, std::string_view range) {
  return absl::InvalidArgumentError(
      StrCat(field, " is ", value, ", but must be ", range, "; change it or leave it out"));
}

absl::Status CheckRange(std::string_view field, uint32_t value, uint32_t low, uint32_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(field, StrCat(value), StrCat("from ", low, " to ", high));
}

absl::StatusOr<schema::MemoryTransferThrottleParams> ThrottleFromProto(
    const v1::MemoryTransferThrottleParams& from) {
  schema::MemoryTransferThrottleParams to;
  constexpr uint32_t kAny = std::numeric_limits<uint32_t>::max();
  if (from.has_skip_throttling()) to.skip_throttling = from.skip_throttling();
  if (from.has_throttling_scale()) {
    const double scale = from.throttling_scale();
    if (!std::isfinite(scale) || scale < 1 || scale > 100) {
      return OutOfRange("throttling_scale", StrCat(scale), "from 1 to 100 (percent)");
    }
    to.throttling_scale = scale;
  }
  if (from.has_minimum_throttle_percentage()) {
    RETURN_IF_ERROR(
        CheckRange("minimum_throttle_percentage", from.minimum_throttle_percentage(), 0, 99));
    to.minimum_throttle_percentage = static_cast<uint8_t>(from.minimum_throttle_percentage());
  }
  if (from.has_target_number_of_brownout_transfer_passes()) {
    to.target_number_of_brownout_transfer_passes = from.target_number_of_brownout_transfer_passes();
  }
  if (from.has_starting_brownout_pass_number_for_throttling()) {
    RETURN_IF_ERROR(CheckRange("starting_brownout_pass_number_for_throttling",
                               from.starting_brownout_pass_number_for_throttling(), 1, kAny));
    to.starting_brownout_pass_number_for_throttling =
        from.starting_brownout_pass_number_for_throttling();
  }
  if (from.has_maximum_number_of_brownout_transfer_passes()) {
    RETURN_IF_ERROR(CheckRange("maximum_number_of_brownout_transfer_passes",
                               from.maximum_number_of_brownout_transfer_passes(), 1, kAny));
    to.maximum_number_of_brownout_transfer_passes =
        from.maximum_number_of_brownout_transfer_passes();
  }
  if (from.has_target_blackout_transfer_time()) {
    RETURN_IF_ERROR(CheckRange("target_blackout_transfer_time",
                               from.target_blackout_transfer_time(), 1, kMaxBlackoutMs));
    to.target_blackout_transfer_time = from.target_blackout_transfer_time();
  }
  if (to.maximum_number_of_brownout_transfer_passes) {
    RETURN_IF_ERROR(CheckRange("target_number_of_brownout_transfer_passes",
                               to.target_number_of_brownout_transfer_passes.value_or(0), 0,
                               *to.maximum_number_of_brownout_transfer_passes));
  }
  if (from.has_blackout_time_threshold_for_cancelling_migration()) {
    RETURN_IF_ERROR(CheckRange("blackout_time_threshold_for_cancelling_migration",
                               from.blackout_time_threshold_for_cancelling_migration(), 1,
                               kMaxBlackoutMs));
    to.blackout_time_threshold_for_cancelling_migration =
        from.blackout_time_threshold_for_cancelling_migration();
  }
  return to;
}

}  // namespace

absl::StatusOr<schema::MigrationInitializeOptions> InitializeOptionsFromProto(
    const std::optional<v1::InitializeOptions>& options) {
  v1::InitializeOptions defaults;
  defaults.set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  const v1::InitializeOptions& from = options ? *options : defaults;
  if (from.memory_transport() != v1::MEMORY_TRANSPORT_TCP) {
    return absl::InvalidArgumentError(
        StrCat("memory_transport is ", from.memory_transport(),
               ", but only MEMORY_TRANSPORT_TCP (1) is supported; set it"));
  }
  schema::MigrationInitializeOptions to;
  to.memory_transport = schema::MigrationMemoryTransport::kTcp;
  if (from.has_memory_transfer_throttle_params()) {
    ASSIGN_OR_RETURN(to.memory_transfer_throttle_params,
                     ThrottleFromProto(from.memory_transfer_throttle_params()));
  }
  if (from.has_compression_settings()) {
    to.compression_settings.emplace();
    if (from.compression_settings().has_throttle_worker_count()) {
      const uint32_t workers = from.compression_settings().throttle_worker_count();
      RETURN_IF_ERROR(CheckRange("throttle_worker_count", workers, 1, kMaxWorkers));
      to.compression_settings->throttle_worker_count = workers;
    }
  }
  to.checksum_verification = from.checksum_verification();
  to.perf_tracing_enabled = from.perf_tracing_enabled();
  to.cancel_if_blackout_threshold_exceeds = from.cancel_if_blackout_threshold_exceeds();
  to.prepare_memory_transfer_mode = from.prepare_memory_transfer_mode();
  if (from.has_max_bandwidth()) to.max_bandwidth = from.max_bandwidth();
  return to;
}

absl::Status CheckOptionsAgree(const schema::MigrationInitializeOptions& source,
                               const schema::MigrationInitializeOptions& destination) {
  std::vector<std::string> differing;
  if (source.memory_transport != destination.memory_transport) {
    differing.push_back("memory_transport");
  }
  if (source.compression_settings != destination.compression_settings) {
    differing.push_back("compression_settings");
  }
  if (source.checksum_verification.value_or(false) !=
      destination.checksum_verification.value_or(false)) {
    differing.push_back("checksum_verification");
  }
  if (differing.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("the source's and the destination's options contradict each other in ",
             absl::StrJoin(differing, ", "), "; give both sides the same"));
}

}  // namespace ferry::migration
