#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "vmmanager/schema/migration.h"

// The machine document of a utility VM and the options of its verbs, in the shape and with the JSON
// names of HCS's schema 2 (github.com/microsoft/hcsshim/internal/hcs/schema2). Absent members are
// omitted from JSON; unset and zero differ. Ferry's own members sit under "Ferry" objects, so that
// a document without them is plain HCS.
namespace ferry::schema {

struct Version {
  int32_t major = 2;
  int32_t minor = 1;
  bool operator==(const Version&) const = default;
};

struct LinuxKernelDirect {
  std::string kernel_file_path;
  std::string init_rd_path;
  std::string kernel_cmd_line;
  bool operator==(const LinuxKernelDirect&) const = default;
};

// Beside linux_kernel_direct, which the firmware boots then. The files are Ferry's.
struct Uefi {
  // Under which the VMM has the store among its block devices; it is no disk.
  static constexpr char kStoreName[] = "firmware-store";
  std::string code_path;   // the firmware itself, which is only read
  std::string store_path;  // what it remembers, a raw file of this machine's own
  bool operator==(const Uefi&) const = default;
};

struct Chipset {
  std::optional<Uefi> uefi;  // absent: BIOS
  std::optional<LinuxKernelDirect> linux_kernel_direct;
  bool operator==(const Chipset&) const = default;
};

struct Memory {
  uint64_t size_in_mb = 256;
  bool operator==(const Memory&) const = default;
};

struct Processor {
  uint32_t count = 1;
  bool operator==(const Processor&) const = default;
};

struct Topology {
  Memory memory;
  Processor processor;
  bool operator==(const Topology&) const = default;
};

// One disk. Keyed in Scsi::attachments by its LUN as text, as HCS does.
struct Attachment {
  std::string type = "VirtualDisk";
  std::string path;
  bool read_only = false;
  std::string name;              // Ferry: the user's name for it, also the stem of its block node
  std::string format = "qcow2";  // Ferry: qcow2 or raw
  bool operator==(const Attachment&) const = default;
};

struct Scsi {
  static constexpr uint32_t kMaxLuns = 256;
  std::map<std::string, Attachment> attachments;
  bool operator==(const Scsi&) const = default;
};

// Ferry: a folder of the host, served to the guest by virtio-fs. Keyed in Devices::shares by its
// number as text.
struct SharedFolder {
  std::string path;  // without symbolic links
  bool read_only = false;
  bool operator==(const SharedFolder&) const = default;
};

struct HvSocketSystemConfig {
  uint32_t guest_cid = 0;  // Ferry: 0 means the virtio-serial multiplexer, else AF_VSOCK's CID
  bool operator==(const HvSocketSystemConfig&) const = default;
};

// A network card. Keyed in Devices::network_adapters by its number as text. Where it is plugged in
// is Ferry's: one of bridge, tap and user.
struct NetworkAdapter {
  std::string mac_address;  // HCS's way: upper-case digits with '-' between them
  std::string name;         // Ferry: the interface's, in the guest
  std::string bridge;       // of the host, by the name that all its hosts know it by
  std::string tap;          // a tap device that the host has already
  bool user = false;        // the VMM's own network, which takes no rights
  bool operator==(const NetworkAdapter&) const = default;
};

struct Devices {
  std::map<std::string, Scsi> scsi;  // by controller number as text
  std::map<std::string, NetworkAdapter> network_adapters;
  std::optional<HvSocketSystemConfig> hv_socket;
  std::map<std::string, SharedFolder> shares;  // Ferry; a machine with any cannot be migrated
  bool operator==(const Devices&) const = default;
};

// Ferry: what a machine must have in common with the one it came from, beyond HCS's document.
struct Platform {
  std::string machine_type;  // versioned, e.g. "pc-q35-7.2"; empty in a new document = the default
  std::string cpu_model;     // empty in a new document = the backend's default
  // Which of the backend's ways to lay out a machine this one has, for both sides of a migration
  // must agree; 0 is the oldest.
  uint32_t layout = 0;
  bool operator==(const Platform&) const = default;
};

struct VirtualMachine {
  Chipset chipset;
  Topology compute_topology;
  Devices devices;
  Platform platform;
  bool operator==(const VirtualMachine&) const = default;
};

struct ComputeSystem {
  std::string owner = "ferry";
  Version schema_version;
  std::string hosting_system_id;
  bool should_terminate_on_last_handle_closed = false;
  VirtualMachine virtual_machine;

  // Set on a migration's destination only, never part of a saved document.
  std::optional<MigrationInitializeOptions> migration_options;
  bool operator==(const ComputeSystem&) const = default;
};

// Options of Start.
struct StartOptions {
  std::optional<MigrationInitializeOptions> destination_migration_options;
};

struct SaveOptions {
  std::string save_type = "ToFile";
  std::string save_state_file_path;
};

struct ModifySettingRequest {
  std::string resource_path;
  std::string request_type;  // Add, Remove, Update
  std::string settings_json;
};

// GetProperties. kCompatibilityInfo is the query used when a migration's state is saved.
// kMigrationBlockers is Ferry's own.
enum class PropertyType { kBasic, kMemory, kStatistics, kCompatibilityInfo, kMigrationBlockers };
struct PropertyQuery {
  std::vector<PropertyType> types;
};

enum class SystemState { kCreated, kRunning, kPaused, kIncoming, kStopped };

struct Properties {
  std::string id;
  SystemState state = SystemState::kCreated;
  std::string runtime_os_type = "Linux";
  uint64_t memory_size_in_mb = 0;
  uint64_t uptime_ms = 0;
  uint64_t vmm_pid = 0;                           // Ferry: the VMM's process id, 0 if none
  std::optional<std::string> compatibility_info;  // opaque bytes, only on kCompatibilityInfo
  // Ferry: why the system cannot be migrated, for people; only on kMigrationBlockers
  std::vector<std::string> migration_blockers;
  // Ferry: a migration has sent all of it to another host, and it has not run here since.
  bool state_sent = false;
  // Ferry: it was told to end, or ends of its own accord, and has not ended yet.
  bool ending = false;
};

// JSON text with HCS's names. Parsing refuses unknown or ill-typed members with INVALID_ARGUMENT
// naming the member's path, because a document decides what runs.
std::string ToJson(const ComputeSystem& document);
absl::StatusOr<ComputeSystem> ComputeSystemFromJson(std::string_view json);

std::string ToJson(const Attachment& disk);
std::string ToJson(const StartOptions& options);
std::string ToJson(const SaveOptions& options);
std::string ToJson(const ModifySettingRequest& request);
std::string ToJson(const PropertyQuery& query);
std::string ToJson(const Properties& properties);
std::string_view ToString(SystemState state);

}  // namespace ferry::schema
