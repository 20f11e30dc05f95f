// Options of a migration as any caller may send them: protobuf bytes, and the schema's JSON.

#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "migration/options/initialize_options.h"
#include "tests/fuzz/fuzz_target.h"
#include "vmmanager/schema/migration.h"

namespace ferry::fuzz {
namespace {

using schema::MigrationInitializeOptions;

constexpr uint32_t kAny = std::numeric_limits<uint32_t>::max();

template <typename T>
void CheckRange(const std::optional<T>& value, double low, double high) {
  if (value) Check(*value >= low && *value <= high);
}

// No value was wrapped or let through beyond its range.
void CheckRanges(const MigrationInitializeOptions& options) {
  Check(options.memory_transport == schema::MigrationMemoryTransport::kTcp);
  if (options.memory_transfer_throttle_params) {
    const auto& throttle = *options.memory_transfer_throttle_params;
    CheckRange(throttle.throttling_scale, 1, 100);
    CheckRange(throttle.minimum_throttle_percentage, 0, 99);
    CheckRange(throttle.starting_brownout_pass_number_for_throttling, 1, kAny);
    CheckRange(throttle.maximum_number_of_brownout_transfer_passes, 1, kAny);
    CheckRange(throttle.target_number_of_brownout_transfer_passes, 0,
               throttle.maximum_number_of_brownout_transfer_passes.value_or(kAny));
    CheckRange(throttle.target_blackout_transfer_time, 1, 2e6);
    CheckRange(throttle.blackout_time_threshold_for_cancelling_migration, 1, 2e6);
  }
  if (options.compression_settings) {
    CheckRange(options.compression_settings->throttle_worker_count, 1, 63);
  }
}

void TryJson(std::string_view text) {
  const auto options = schema::MigrationInitializeOptionsFromJson(text);
  if (!options.ok()) return;
  const std::string said = ToJson(*options);
  const auto again = schema::MigrationInitializeOptionsFromJson(said);
  Check(again.ok() && ToJson(*again) == said);
}

void TryProto(std::string_view bytes) {
  v1::InitializeOptions message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  const auto options = migration::InitializeOptionsFromProto(message);
  if (!options.ok()) {
    Check(absl::IsInvalidArgument(options.status()));
    return;
  }
  CheckRanges(*options);
  Check(migration::CheckOptionsAgree(*options, *options).ok());
  auto again = schema::MigrationInitializeOptionsFromJson(ToJson(*options));
  Check(again.ok());
  if (auto& throttle = again->memory_transfer_throttle_params; throttle) {
    // Boost.JSON may read a number's last bit differently.
    auto& scale = throttle->throttling_scale;
    const auto& wanted = options->memory_transfer_throttle_params->throttling_scale;
    if (scale && wanted && std::abs(*scale - *wanted) < 1e-9) scale = wanted;
  }
  Check(*again == *options);
}

}  // namespace

std::vector<std::string> Seeds() {
  v1::InitializeOptions some;
  some.set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  v1::InitializeOptions all = some;
  auto& throttle = *all.mutable_memory_transfer_throttle_params();
  throttle.set_skip_throttling(true);
  throttle.set_throttling_scale(12.5);
  throttle.set_minimum_throttle_percentage(5);
  throttle.set_target_number_of_brownout_transfer_passes(0);
  throttle.set_starting_brownout_pass_number_for_throttling(2);
  throttle.set_maximum_number_of_brownout_transfer_passes(9);
  throttle.set_target_blackout_transfer_time(100);
  throttle.set_blackout_time_threshold_for_cancelling_migration(500);
  all.mutable_compression_settings()->set_throttle_worker_count(4);
  all.set_checksum_verification(true);
  all.set_max_bandwidth(1 << 20);
  std::vector<std::string> seeds;
  for (const v1::InitializeOptions& options : {some, all}) {
    seeds.push_back(std::string(1, 0) + options.SerializeAsString());
    seeds.push_back(std::string(1, 1) + ToJson(*migration::InitializeOptionsFromProto(options)));
  }
  return seeds;
}

}  // namespace ferry::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferry::fuzz;  // NOLINT: the entry point must be global
  // It complains about each malformed text.
  static const auto quiet = google::protobuf::SetLogHandler(nullptr);
  (void)quiet;
  Input input(data, size);
  if (input.Byte() % 2 == 0) {
    TryProto(input.Rest());
  } else {
    TryJson(input.Rest());
  }
  return 0;
}
