#include "vmmanager/qemu/qemu_migration_settings.h"

#include <algorithm>
#include <boost/json/value.hpp>
#include <cmath>
#include <set>

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr uint32_t kForcedDowntimeMs = 2'000'000;  // the most that QEMU takes
constexpr uint32_t kCeilingFactor = 10;
constexpr uint64_t kUnlimitedBandwidth = 100'000'000'000;
constexpr uint32_t kMaxChannels = 255;

// Everything that some job of Ferry sets.
constexpr const char* kManaged[] = {
    "events",        "return-path", "pause-before-switchover", "late-block-activate",
    "validate-uuid", "multifd",     "auto-converge",           "background-snapshot"};

uint32_t Workers(const schema::MigrationInitializeOptions& options) {
  if (!options.compression_settings) return 0;
  return std::min(options.compression_settings->throttle_worker_count.value_or(0), kMaxChannels);
}

bool Throttles(const schema::MigrationInitializeOptions& options) {
  const auto& params = options.memory_transfer_throttle_params;
  if (!params || params->skip_throttling.value_or(false)) return false;
  return params->throttling_scale || params->minimum_throttle_percentage ||
         params->starting_brownout_pass_number_for_throttling;
}

json::object CapabilityList(const std::set<std::string>& wanted, const QemuCapabilities& qemu) {
  json::array list;
  for (const char* name : kManaged) {
    if (!qemu.can_migrate_with(name)) continue;
    list.push_back(json::object{{"capability", name}, {"state", wanted.contains(name)}});
  }
  return {{"capabilities", std::move(list)}};
}

uint64_t Number(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr) return 0;
  boost::system::error_code error;
  constexpr double kMost = 1e18;
  if (const double* real = value->if_double()) {
    return static_cast<uint64_t>(std::clamp(*real, 0.0, kMost));
  }
  const uint64_t number = value->to_number<uint64_t>(error);
  return error ? 0 : number;
}

std::string Text(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string() : std::string(text->data(), text->size());
}

void ReadRam(const json::object& ram, TransferProgress& progress) {
  progress.pass = Number(ram, "dirty-sync-count");
  progress.transferred_bytes = Number(ram, "transferred");
  progress.remaining_bytes = Number(ram, "remaining");
  progress.total_bytes = Number(ram, "total");
  progress.dirty_bytes_per_second = Number(ram, "dirty-pages-rate") * Number(ram, "page-size");
  if (const json::value* mbps = ram.if_contains("mbps")) {
    boost::system::error_code error;
    const double megabits = mbps->to_number<double>(error);
    constexpr double kBytesPerMegabit = 1e6 / 8;
    constexpr double kMostMegabits = 1e9;
    if (!error) {
      progress.bytes_per_second = static_cast<uint64_t>(
          std::llround(std::clamp(megabits, 0.0, kMostMegabits) * kBytesPerMegabit));
    }
  }
}

}  // namespace

uint32_t DowntimePolicy::LimitAt(uint64_t pass) const {
  const bool force = maximum_passes > 0 && pass >= maximum_passes;
  if (force) return never_above_ceiling ? ceiling_ms : kForcedDowntimeMs;
  if (pass <= kPatientPasses) return first_ms;
  const uint64_t step = std::max<uint64_t>(first_ms / 2, 1);
  const uint64_t raised = first_ms + (pass - kPatientPasses) * step;
  return static_cast<uint32_t>(std::min<uint64_t>(raised, std::max(ceiling_ms, first_ms)));
}

DowntimePolicy DowntimePolicyOf(const schema::MigrationInitializeOptions& options) {
  DowntimePolicy policy;
  if (const auto& params = options.memory_transfer_throttle_params) {
    policy.first_ms = params->target_blackout_transfer_time.value_or(policy.first_ms);
    policy.first_ms = std::min(policy.first_ms, kForcedDowntimeMs);
    policy.ceiling_ms = std::min(policy.first_ms * kCeilingFactor, kForcedDowntimeMs);
    policy.maximum_passes = params->maximum_number_of_brownout_transfer_passes.value_or(0);
    const auto threshold = params->blackout_time_threshold_for_cancelling_migration;
    if (threshold && options.cancel_if_blackout_threshold_exceeds.value_or(false)) {
      policy.ceiling_ms = std::min(*threshold, kForcedDowntimeMs);
      policy.first_ms = std::min(policy.first_ms, policy.ceiling_ms);
      policy.never_above_ceiling = true;
    }
  }
  return policy;
}

json::object CapabilitiesFor(const schema::MigrationInitializeOptions& options,
                             const QemuCapabilities& qemu) {
  std::set<std::string> wanted = {"events", "return-path", "pause-before-switchover",
                                  "late-block-activate", "validate-uuid"};
  if (Workers(options) > 0) wanted.insert("multifd");
  if (Throttles(options)) wanted.insert("auto-converge");
  return CapabilityList(wanted, qemu);
}

json::object PlainCapabilities(const QemuCapabilities& qemu) {
  return CapabilityList({"events"}, qemu);
}

json::object ParametersFor(const schema::MigrationInitializeOptions& options) {
  const uint64_t bandwidth = options.max_bandwidth.value_or(0);
  json::object parameters = {
      {"max-bandwidth", bandwidth == 0 ? kUnlimitedBandwidth : bandwidth},
      {"downtime-limit", DowntimePolicyOf(options).first_ms},
  };
  if (Workers(options) > 0) {
    parameters["multifd-channels"] = Workers(options);
    parameters["multifd-compression"] = "zstd";
  }
  if (Throttles(options)) {
    constexpr uint32_t kMaxPercent = 99;
    const auto& params = *options.memory_transfer_throttle_params;
    if (params.minimum_throttle_percentage) {
      parameters["cpu-throttle-initial"] =
          std::clamp<uint32_t>(*params.minimum_throttle_percentage, 1, kMaxPercent);
    }
    if (params.throttling_scale) {
      parameters["cpu-throttle-increment"] = static_cast<uint32_t>(
          std::clamp(*params.throttling_scale, 1.0, static_cast<double>(kMaxPercent)));
    }
  }
  return parameters;
}

MigrationReport ParseMigrationReport(const json::value& reply) {
  MigrationReport report;
  const json::object* root = reply.if_object();
  if (root == nullptr) return report;
  report.status = Text(*root, "status");
  report.error = Text(*root, "error-desc");
  if (const json::value* blocked = root->if_contains("blocked-reasons")) {
    if (const json::array* reasons = blocked->if_array()) report.blocked_reasons = *reasons;
  }
  if (const json::value* ram = root->if_contains("ram")) {
    if (const json::object* members = ram->if_object()) ReadRam(*members, report.progress);
  }
  return report;
}

}  // namespace ferry::vm
