#include "vmmanager/schema/migration.h"

#include <boost/json/serialize.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "vmmanager/schema/migration_json.h"

namespace ferry::schema {
namespace {

namespace json = boost::json;

std::string_view ToText(MigrationOrigin origin) {
  return origin == MigrationOrigin::kSource ? "Source" : "Destination";
}

std::optional<MigrationOrigin> OriginFromText(std::string_view text) {
  if (text == "Source") return MigrationOrigin::kSource;
  if (text == "Destination") return MigrationOrigin::kDestination;
  return std::nullopt;
}

std::optional<MigrationMemoryTransport> TransportFromText(std::string_view text) {
  if (text == "TCP") return MigrationMemoryTransport::kTcp;
  return std::nullopt;
}

json::object ThrottleObject(const MemoryTransferThrottleParams& params) {
  json::object object;
  PutIfSet(object, "SkipThrottling", params.skip_throttling);
  if (params.throttling_scale) object["ThrottlingScale"] = JsonNumber(*params.throttling_scale);
  PutIfSet(object, "MinimumThrottlePercentage", params.minimum_throttle_percentage);
  PutIfSet(object, "TargetNumberOfBrownoutTransferPasses",
           params.target_number_of_brownout_transfer_passes);
  PutIfSet(object, "StartingBrownoutPassNumberForThrottling",
           params.starting_brownout_pass_number_for_throttling);
  PutIfSet(object, "MaximumNumberOfBrownoutTransferPasses",
           params.maximum_number_of_brownout_transfer_passes);
  PutIfSet(object, "TargetBlackoutTransferTime", params.target_blackout_transfer_time);
  PutIfSet(object, "BlackoutTimeThresholdForCancellingMigration",
           params.blackout_time_threshold_for_cancelling_migration);
  return object;
}

void ReadThrottle(JsonReader& reader, MemoryTransferThrottleParams& params) {
  reader.Read("SkipThrottling", params.skip_throttling);
  reader.Read("ThrottlingScale", params.throttling_scale);
  reader.Read("MinimumThrottlePercentage", params.minimum_throttle_percentage);
  reader.Read("TargetNumberOfBrownoutTransferPasses",
              params.target_number_of_brownout_transfer_passes);
  reader.Read("StartingBrownoutPassNumberForThrottling",
              params.starting_brownout_pass_number_for_throttling);
  reader.Read("MaximumNumberOfBrownoutTransferPasses",
              params.maximum_number_of_brownout_transfer_passes);
  reader.Read("TargetBlackoutTransferTime", params.target_blackout_transfer_time);
  reader.Read("BlackoutTimeThresholdForCancellingMigration",
              params.blackout_time_threshold_for_cancelling_migration);
}

void ReadCompatibility(JsonReader& reader, CompatibilityData& data) {
  std::string text;
  reader.Read("Data", text);
  // The decoder skips white space and takes missing padding; only its own output is accepted here.
  if (!absl::Base64Unescape(text, &data.data) || absl::Base64Escape(data.data) != text) {
    reader.Fail("Data", "is not base64");
  }
}

template <typename Options>
std::string OriginJson(const Options& options) {
  json::object object;
  object["Origin"] = ToText(options.origin);
  return json::serialize(object);
}

}  // namespace

json::object ToJsonObject(const MigrationInitializeOptions& options) {
  json::object object;
  if (options.origin) object["Origin"] = ToText(*options.origin);
  if (options.memory_transport) object["MemoryTransport"] = "TCP";
  if (options.memory_transfer_throttle_params) {
    object["MemoryTransferThrottleParams"] =
        ThrottleObject(*options.memory_transfer_throttle_params);
  }
  if (options.compression_settings) {
    json::object compression;
    PutIfSet(compression, "ThrottleWorkerCount",
             options.compression_settings->throttle_worker_count);
    object["CompressionSettings"] = std::move(compression);
  }
  PutIfSet(object, "ChecksumVerification", options.checksum_verification);
  PutIfSet(object, "PerfTracingEnabled", options.perf_tracing_enabled);
  PutIfSet(object, "CancelIfBlackoutThresholdExceeds",
           options.cancel_if_blackout_threshold_exceeds);
  PutIfSet(object, "PrepareMemoryTransferMode", options.prepare_memory_transfer_mode);
  if (options.compatibility_data) {
    json::object data;
    data["Data"] = absl::Base64Escape(options.compatibility_data->data);
    object["CompatibilityData"] = std::move(data);
  }
  if (options.max_bandwidth) {
    json::object ferry;
    ferry["MaxBandwidth"] = *options.max_bandwidth;
    object["Ferry"] = std::move(ferry);
  }
  return object;
}

void ReadJson(JsonReader& reader, MigrationInitializeOptions& options) {
  reader.ReadEnum("Origin", options.origin, OriginFromText);
  reader.ReadEnum("MemoryTransport", options.memory_transport, TransportFromText);
  reader.Object("MemoryTransferThrottleParams", [&](JsonReader& params) {
    ReadThrottle(params, options.memory_transfer_throttle_params.emplace());
  });
  reader.Object("CompressionSettings", [&](JsonReader& compression) {
    compression.Read("ThrottleWorkerCount",
                     options.compression_settings.emplace().throttle_worker_count);
  });
  reader.Read("ChecksumVerification", options.checksum_verification);
  reader.Read("PerfTracingEnabled", options.perf_tracing_enabled);
  reader.Read("CancelIfBlackoutThresholdExceeds", options.cancel_if_blackout_threshold_exceeds);
  reader.Read("PrepareMemoryTransferMode", options.prepare_memory_transfer_mode);
  reader.Object("CompatibilityData", [&](JsonReader& data) {
    ReadCompatibility(data, options.compatibility_data.emplace());
  });
  reader.Object("Ferry",
                [&](JsonReader& ferry) { ferry.Read("MaxBandwidth", options.max_bandwidth); });
}

std::string ToJson(const MigrationInitializeOptions& options) {
  return json::serialize(ToJsonObject(options));
}

absl::StatusOr<MigrationInitializeOptions> MigrationInitializeOptionsFromJson(
    std::string_view text) {
  absl::StatusOr<json::object> object = ParseJsonObject(text, "the migration options");
  if (!object.ok()) return object.status();
  MigrationInitializeOptions options;
  JsonReader reader(*object, "");
  ReadJson(reader, options);
  if (absl::Status status = reader.Finish(); !status.ok()) return status;
  return options;
}

std::optional<uint32_t> BlackoutThresholdMs(const MigrationInitializeOptions& options) {
  if (!options.cancel_if_blackout_threshold_exceeds.value_or(false)) return std::nullopt;
  const auto& params = options.memory_transfer_throttle_params;
  if (!params) return kDefaultBlackoutThresholdMs;
  return params->blackout_time_threshold_for_cancelling_migration.value_or(
      kDefaultBlackoutThresholdMs);
}

std::string ToJson(const MigrationStartOptions& options) {
  json::object network;
  network["SessionId"] = options.session_id;
  json::object object;
  object["NetworkSettings"] = std::move(network);
  return json::serialize(object);
}

std::string ToJson(const MigrationTransferOptions& options) { return OriginJson(options); }

std::string ToJson(const MigrationFinalizedOptions& options) {
  json::object object;
  object["Origin"] = ToText(options.origin);
  object["FinalizedOperation"] =
      options.finalized_operation == MigrationFinalOperation::kResume ? "Resume" : "Stop";
  if (options.leave_paused) {
    json::object ferry;
    ferry["LeavePaused"] = true;
    object["Ferry"] = std::move(ferry);
  }
  return json::serialize(object);
}

std::string ToJson(const MigrationCancelOptions& options) { return OriginJson(options); }

std::string_view ToString(MigrationEventName name) {
  switch (name) {
    case MigrationEventName::kUnknown:
      return "Unknown";
    case MigrationEventName::kSetupDone:
      return "SetupDone";
    case MigrationEventName::kTransferInProgress:
      return "TransferInProgress";
    case MigrationEventName::kBlackoutStarted:
      return "BlackoutStarted";
    case MigrationEventName::kOfflineDone:
      return "OfflineDone";
    case MigrationEventName::kBlackoutExited:
      return "BlackoutExited";
    case MigrationEventName::kMigrationDone:
      return "MigrationDone";
    case MigrationEventName::kMigrationRecoveryDone:
      return "MigrationRecoveryDone";
    case MigrationEventName::kMigrationFailed:
      return "MigrationFailed";
  }
  return "Unknown";
}

std::string_view ToString(MigrationResult result) {
  switch (result) {
    case MigrationResult::kInvalid:
      return "Invalid";
    case MigrationResult::kSuccess:
      return "Success";
    case MigrationResult::kMigrationCancelled:
      return "MigrationCancelled";
    case MigrationResult::kGuestInitiatedCancellation:
      return "GuestInitiatedCancellation";
    case MigrationResult::kSourceMigrationFailed:
      return "SourceMigrationFailed";
    case MigrationResult::kDestinationMigrationFailed:
      return "DestinationMigrationFailed";
    case MigrationResult::kMigrationRecoveryFailed:
      return "MigrationRecoveryFailed";
  }
  return "Invalid";
}

}  // namespace ferry::schema
