#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

// HCS's live-migration structs (hcsshim internal/hcs/schema2/migration*.go): same members, same
// JSON names in PascalCase. Absent members are omitted; unset and zero differ.
namespace ferry::schema {

enum class MigrationOrigin { kSource, kDestination };
enum class MigrationMemoryTransport { kTcp };
enum class MigrationFinalOperation { kResume, kStop };

struct MemoryTransferThrottleParams {
  std::optional<bool> skip_throttling;
  std::optional<double> throttling_scale;  // percent, 1 to 100
  std::optional<uint8_t> minimum_throttle_percentage;
  std::optional<uint32_t> target_number_of_brownout_transfer_passes;
  std::optional<uint32_t> starting_brownout_pass_number_for_throttling;
  std::optional<uint32_t> maximum_number_of_brownout_transfer_passes;
  std::optional<uint32_t> target_blackout_transfer_time;                     // ms
  std::optional<uint32_t> blackout_time_threshold_for_cancelling_migration;  // ms
  bool operator==(const MemoryTransferThrottleParams&) const = default;
};

struct MigrationCompressionSettings {
  std::optional<uint32_t> throttle_worker_count;
  bool operator==(const MigrationCompressionSettings&) const = default;
};

struct CompatibilityData {
  std::string data;  // opaque bytes; base64 in JSON
  bool operator==(const CompatibilityData&) const = default;
};

struct MigrationInitializeOptions {
  std::optional<MigrationOrigin> origin;
  std::optional<MigrationMemoryTransport> memory_transport;
  std::optional<MemoryTransferThrottleParams> memory_transfer_throttle_params;
  std::optional<MigrationCompressionSettings> compression_settings;
  std::optional<bool> checksum_verification;
  std::optional<bool> perf_tracing_enabled;
  std::optional<bool> cancel_if_blackout_threshold_exceeds;
  std::optional<bool> prepare_memory_transfer_mode;
  std::optional<CompatibilityData> compatibility_data;
  // Ferry: bytes per second, 0 or absent is unlimited.
  std::optional<uint64_t> max_bandwidth;
  bool operator==(const MigrationInitializeOptions&) const = default;
};

// The blackout in ms above which the migration is to be called off; nullopt: none is too long.
inline constexpr uint32_t kDefaultBlackoutThresholdMs = 2000;
std::optional<uint32_t> BlackoutThresholdMs(const MigrationInitializeOptions& options);

struct MigrationStartOptions {
  uint32_t session_id = 0;  // NetworkSettings.SessionId
};

struct MigrationTransferOptions {
  MigrationOrigin origin = MigrationOrigin::kSource;
};

struct MigrationFinalizedOptions {
  MigrationOrigin origin = MigrationOrigin::kSource;
  MigrationFinalOperation finalized_operation = MigrationFinalOperation::kResume;
  bool leave_paused = false;  // Ferry: a guest that was paused before the migration stays so
};

struct MigrationCancelOptions {
  MigrationOrigin origin = MigrationOrigin::kSource;
};

// An HCS live-migration notification as the backend tells it.
enum class MigrationEventName {
  kUnknown,
  kSetupDone,
  kTransferInProgress,
  kBlackoutStarted,
  kOfflineDone,
  kBlackoutExited,
  kMigrationDone,
  kMigrationRecoveryDone,
  kMigrationFailed,
};
enum class MigrationResult {
  kInvalid,
  kSuccess,
  kMigrationCancelled,
  kGuestInitiatedCancellation,
  kSourceMigrationFailed,
  kDestinationMigrationFailed,
  kMigrationRecoveryFailed,
};
struct MigrationEvent {
  std::optional<MigrationOrigin> origin;
  MigrationEventName event = MigrationEventName::kUnknown;
  std::optional<MigrationResult> result;
  std::string additional_details_json;  // e.g. {"BlackoutDurationMilliseconds":9,...}; may be empty
};

std::string ToJson(const MigrationInitializeOptions& options);
absl::StatusOr<MigrationInitializeOptions> MigrationInitializeOptionsFromJson(
    std::string_view json);
std::string ToJson(const MigrationStartOptions& options);
std::string ToJson(const MigrationTransferOptions& options);
std::string ToJson(const MigrationFinalizedOptions& options);
std::string ToJson(const MigrationCancelOptions& options);
std::string_view ToString(MigrationEventName name);
std::string_view ToString(MigrationResult result);

}  // namespace ferry::schema
