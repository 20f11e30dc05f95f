#include "vmmanager/qemu/qemu_migration_settings.h"

#include <algorithm>
#include <boost/json/value.hpp>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "vmmanager/qemu/json_text.h"

namespace ferry::vm {
namespace {

namespace json = boost::json;

constexpr uint32_t kLeastDowntimeMs = 1;
constexpr uint32_t kCeilingFactor = 10;
constexpr uint64_t kUnlimitedBandwidth = 100'000'000'000;
constexpr uint32_t kMaxChannels = 255;
constexpr uint32_t kDefaultChannels = 2;  // QEMU's, too
constexpr uint32_t kLeastThrottle = 1;
constexpr uint32_t kMostThrottle = 99;

uint32_t Workers(const schema::MigrationInitializeOptions& options) {
  if (!options.compression_settings) return 0;
  return std::min(options.compression_settings->throttle_worker_count.value_or(kDefaultChannels),
                  kMaxChannels);
}

// All that QEMU has: what a former job, or somebody else, has left set would shape this one.
json::object CapabilityList(const std::set<std::string>& wanted, const QemuCapabilities& qemu) {
  json::array list;
  for (const std::string& name : qemu.migration) {
    list.push_back(json::object{{"capability", name}, {"state", wanted.contains(name)}});
  }
  return {{"capabilities", std::move(list)}};
}

json::object ChannelParameters(const schema::MigrationInitializeOptions& options) {
  const uint32_t workers = Workers(options);
  return {{"multifd-channels", workers > 0 ? workers : kDefaultChannels},
          {"multifd-compression", workers > 0 ? "zstd" : "none"}};
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
  if (ForcesAt(pass)) return kForcedDowntimeMs;
  if (pass < target_passes) return kLeastDowntimeMs;
  const uint64_t patient_until = std::max<uint64_t>(target_passes, 1) - 1 + kPatientPasses;
  if (pass <= patient_until) return first_ms;
  const uint64_t step = std::max<uint64_t>(first_ms / 2, 1);
  const uint64_t raised = first_ms + (pass - patient_until) * step;
  return static_cast<uint32_t>(std::min<uint64_t>(raised, std::max(ceiling_ms, first_ms)));
}

DowntimePolicy DowntimePolicyOf(const schema::MigrationInitializeOptions& options) {
  DowntimePolicy policy;
  if (const auto& params = options.memory_transfer_throttle_params) {
    policy.first_ms = params->target_blackout_transfer_time.value_or(policy.first_ms);
    policy.first_ms = std::min(policy.first_ms, kForcedDowntimeMs);
    policy.ceiling_ms = std::min(policy.first_ms * kCeilingFactor, kForcedDowntimeMs);
    policy.maximum_passes = params->maximum_number_of_brownout_transfer_passes.value_or(0);
    if (policy.maximum_passes > 0) {
      policy.target_passes = std::min(policy.target_passes, policy.maximum_passes);
    }
    policy.target_passes =
        params->target_number_of_brownout_transfer_passes.value_or(policy.target_passes);
  }
  if (const auto threshold = schema::BlackoutThresholdMs(options)) {
    policy.ceiling_ms = std::min(*threshold, kForcedDowntimeMs);
    policy.first_ms = std::min(policy.first_ms, policy.ceiling_ms);
  }
  return policy;
}

ThrottlePolicy::Steps ThrottlePolicy::StepsAt(uint64_t pass, uint32_t now) const {
  // QEMU decides at the end of this pass how the next one goes.
  if (pass + 1 < first_pass) return {kLeastThrottle, kLeastThrottle, kLeastThrottle};
  // Where it has crept to the least already, the first step leads to where it should begin.
  if (now > 0 && now < initial) return {initial, initial - now, kMostThrottle};
  return {initial, increment, kMostThrottle};
}

std::optional<ThrottlePolicy> ThrottlePolicyOf(const schema::MigrationInitializeOptions& options) {
  const auto& params = options.memory_transfer_throttle_params;
  if (!params || params->skip_throttling.value_or(false)) return std::nullopt;
  const bool wanted = params->skip_throttling || params->throttling_scale ||
                      params->minimum_throttle_percentage ||
                      params->starting_brownout_pass_number_for_throttling;
  if (!wanted) return std::nullopt;
  ThrottlePolicy policy;
  policy.first_pass = params->starting_brownout_pass_number_for_throttling.value_or(1);
  if (params->minimum_throttle_percentage) {
    policy.initial =
        std::clamp<uint32_t>(*params->minimum_throttle_percentage, kLeastThrottle, kMostThrottle);
  }
  if (params->throttling_scale) {
    policy.increment = static_cast<uint32_t>(
        std::lround(std::clamp<double>(*params->throttling_scale, kLeastThrottle, kMostThrottle)));
  }
  return policy;
}

absl::Status CheckSupported(const schema::MigrationInitializeOptions& options,
                            const QemuCapabilities& qemu) {
  const bool zstd = qemu.can_migrate_with("multifd") && qemu.multifd_zstd;
  if (Workers(options) > 0 && !zstd) {
    return absl::FailedPreconditionError(
        absl::StrCat("compression_settings needs multifd with zstd, which QEMU ", qemu.version,
                     " here does not have; leave it out"));
  }
  if (ThrottlePolicyOf(options) && !qemu.can_migrate_with("auto-converge")) {
    return absl::FailedPreconditionError(absl::StrCat("throttling needs auto-converge, which QEMU ",
                                                      qemu.version,
                                                      " here does not have; set skip_throttling"));
  }
  return absl::OkStatus();
}

bool HasSeveralChannels(const schema::MigrationInitializeOptions& options) {
  return Workers(options) > 0;
}

json::object CapabilitiesFor(const schema::MigrationInitializeOptions& options,
                             const QemuCapabilities& qemu) {
  std::set<std::string> wanted = {"events", "return-path", "pause-before-switchover",
                                  "late-block-activate", "validate-uuid"};
  if (HasSeveralChannels(options)) wanted.insert("multifd");
  if (ThrottlePolicyOf(options)) wanted.insert("auto-converge");
  return CapabilityList(wanted, qemu);
}

json::object NoCapabilities(const QemuCapabilities& qemu) { return CapabilityList({}, qemu); }

json::object PlainCapabilities(const QemuCapabilities& qemu) {
  return CapabilityList({"events"}, qemu);
}

json::object IncomingParametersFor(const schema::MigrationInitializeOptions& options) {
  json::object parameters =
      HasSeveralChannels(options) ? ChannelParameters(options) : json::object();
  // The guest may still run elsewhere then, and a tap that this host's user owns may carry.
  parameters["announce-rounds"] = 0;
  return parameters;
}

json::object ParametersFor(const schema::MigrationInitializeOptions& options) {
  const uint64_t bandwidth = options.max_bandwidth.value_or(0);
  json::object parameters = ChannelParameters(options);
  parameters["max-bandwidth"] = bandwidth == 0 ? kUnlimitedBandwidth : bandwidth;
  for (const auto& [name, value] : ParametersAt(options, 1, 0)) parameters[name] = value;
  return parameters;
}

json::object ParametersAt(const schema::MigrationInitializeOptions& options, uint64_t pass,
                          uint32_t throttle) {
  const ThrottlePolicy policy = ThrottlePolicyOf(options).value_or(ThrottlePolicy());
  const ThrottlePolicy::Steps steps = policy.StepsAt(pass, throttle);
  return {{"downtime-limit", DowntimePolicyOf(options).LimitAt(pass)},
          {"cpu-throttle-initial", steps.initial},
          {"cpu-throttle-increment", steps.increment},
          {"max-cpu-throttle", steps.most}};
}

MigrationReport ParseMigrationReport(const json::value& reply) {
  MigrationReport report;
  const json::object* root = reply.if_object();
  if (root == nullptr) return report;
  report.status = TextAt(*root, "status");
  report.error = TextAt(*root, "error-desc");
  if (const json::value* blocked = root->if_contains("blocked-reasons")) {
    if (const json::array* reasons = blocked->if_array()) report.blocked_reasons = *reasons;
  }
  report.progress.throttle_percent =
      static_cast<uint32_t>(std::min<uint64_t>(Number(*root, "cpu-throttle-percentage"), 100));
  if (const json::value* ram = root->if_contains("ram")) {
    if (const json::object* members = ram->if_object()) ReadRam(*members, report.progress);
  }
  return report;
}

}  // namespace ferry::vm
