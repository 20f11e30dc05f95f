#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/messages.h"
#include "bridge/protocol/network_messages.h"

// The JSON texts inside the messages about containers: Create's ContainerConfig, ModifySettings'
// Settings, and GetProperties' Query and Properties. Members that are not known are skipped.
namespace ferry::bridge {

// The agent's limits; a text that goes beyond is refused.
inline constexpr size_t kMaxGuestPath = 1024;
inline constexpr size_t kMaxLayers = 64;

// All bundles lie below this folder of the guest.
inline constexpr char kBundleRoot[] = "/run/gcs/c";

// The longest tag of a virtio-fs device.
inline constexpr size_t kMaxShareName = 36;

// 64 hexadecimal digits.
bool IsContainerId(std::string_view id);

// Whether a text is a JSON object at all, whatever it says.
bool IsJsonObject(std::string_view text);

// INVALID_ARGUMENT with `what` unless the path is absolute, below "/", without empty, "." or ".."
// components, within bounds, and without what overlayfs takes for a separator (',', ':', '\').
absl::Status CheckGuestPath(std::string_view what, std::string_view path);

// Create's ContainerConfig.
struct ContainerConfig {
  SchemaVersion schema_version;
  std::string oci_bundle_path;    // below kBundleRoot, for this container alone
  std::string oci_specification;  // JSON text
  std::string scratch_dir_path;   // hcsshim's hosts send it; the agent keeps nothing there
};

// Resource types of ModifySettings that the agent knows.
// Add, Remove; Update is Ferry's: it has become larger.
inline constexpr char kResourceMappedVirtualDisk[] = "MappedVirtualDisk";
inline constexpr char kResourceMappedDirectory[] = "MappedDirectory";            // Add, Remove
inline constexpr char kResourceScsiDevice[] = "SCSIDevice";                      // Remove
inline constexpr char kResourceCombinedLayers[] = "CombinedLayers";              // Add, Remove
inline constexpr char kResourceContainerConstraints[] = "ContainerConstraints";  // Update
inline constexpr char kResourcePodCgroupMemoryLimit[] = "PodCgroupMemoryLimit";  // Update

// The disk at (controller, lun), mounted. The controllers count from 0 in the order in which the
// guest's kernel found them.
struct MappedVirtualDisk {
  std::string mount_path;
  uint32_t controller = 0;
  uint32_t lun = 0;
  bool read_only = false;
  bool ensure_filesystem = false;  // makes ext4 on a disk whose first MiB is zeros
  std::string filesystem;          // erofs, squashfs or ext4; empty: what the disk holds
  std::vector<std::string> options;
};

// A folder that the host shares with the VM by virtio-fs, mounted. Symbolic links are not followed
// through the mount itself, so that a path below it leads nowhere else.
struct MappedDirectory {
  std::string mount_path;
  std::string share_name;  // the device's tag
  bool read_only = false;
};

struct ScsiDevice {
  uint32_t controller = 0;
  uint32_t lun = 0;
};

// Read-only layers, the topmost first, and the folder of the writable one: an overlay file system.
struct CombinedLayers {
  struct Layer {
    std::string id;
    std::string path;
  };
  std::string container_root_path;
  std::vector<Layer> layers;
  std::string scratch_path;  // empty: the whole is read-only
};

struct ContainerConstraints {
  std::string linux_resources;  // JSON text: OCI's LinuxResources
};

struct PodCgroupMemoryLimit {
  uint64_t memory_limit_in_bytes = 0;  // 0: what the agent can spare
};

// GetProperties' Query; Statistics, ProcessList, State (Ferry's), NetworkLeases (Ferry's, of the
// VM).
struct PropertyQuery {
  std::vector<std::string> property_types;
  bool Asks(std::string_view type) const;
};

enum class ContainerState { kCreated, kRunning, kPaused, kStopped };
const char* ContainerStateName(ContainerState state);

// One device's part of a container's traffic.
struct DeviceTraffic {
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t reads = 0;
  uint64_t writes = 0;
};

// What a container's cgroup counts. Limits that are not set are 2^64-1.
struct ContainerMetrics {
  static constexpr uint64_t kNoLimit = UINT64_MAX;
  uint64_t memory_usage = 0;  // bytes
  uint64_t memory_limit = kNoLimit;
  uint64_t memory_max = 0;        // the highest usage so far
  uint64_t memory_failcnt = 0;    // times that the limit was hit
  uint64_t memory_anonymous = 0;  // bytes
  uint64_t memory_file = 0;       // bytes
  uint64_t oom_kills = 0;
  uint64_t cpu_total = 0;  // nanoseconds
  uint64_t cpu_user = 0;
  uint64_t cpu_kernel = 0;
  uint64_t cpu_periods = 0;
  uint64_t cpu_throttled_periods = 0;
  uint64_t cpu_throttled_time = 0;  // nanoseconds
  uint64_t pids_current = 0;
  uint64_t pids_limit = kNoLimit;
  std::vector<DeviceTraffic> io;
};

// GetProperties' answer about a container, or the VM; what was not asked for is left out.
struct ContainerProperties {
  std::optional<std::vector<ListProcessesResponse::Entry>> process_list;
  std::optional<ContainerMetrics> metrics;
  std::optional<ContainerState> state;
  std::optional<std::vector<NetworkLease>> network_leases;
};

std::string Encode(const ContainerConfig& config);
std::string Encode(const MappedVirtualDisk& disk);
std::string Encode(const MappedDirectory& directory);
std::string Encode(const ScsiDevice& device);
std::string Encode(const CombinedLayers& layers);
std::string Encode(const ContainerConstraints& constraints);
std::string Encode(const PodCgroupMemoryLimit& limit);
std::string Encode(const PropertyQuery& query);
std::string Encode(const ContainerProperties& properties);

template <>
absl::StatusOr<ContainerConfig> Decode(std::string_view text);
template <>
absl::StatusOr<MappedVirtualDisk> Decode(std::string_view text);
template <>
absl::StatusOr<MappedDirectory> Decode(std::string_view text);
template <>
absl::StatusOr<ScsiDevice> Decode(std::string_view text);
template <>
absl::StatusOr<CombinedLayers> Decode(std::string_view text);
template <>
absl::StatusOr<ContainerConstraints> Decode(std::string_view text);
template <>
absl::StatusOr<PodCgroupMemoryLimit> Decode(std::string_view text);
template <>
absl::StatusOr<PropertyQuery> Decode(std::string_view text);
template <>
absl::StatusOr<ContainerProperties> Decode(std::string_view text);

}  // namespace ferry::bridge
