#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/protocol/message_types.h"

// The messages of the bridge as plain structs, and their JSON texts. Decoding is lenient to members
// that it does not know and strict about the types and ranges of those that it knows; a missing
// member (or null) keeps the struct's default.
namespace ferry::bridge {

struct RequestBase {
  std::string container_id = kNullGuid;
  std::string activity_id = kNullGuid;
};

struct ErrorRecord {
  int32_t result = 0;
  std::string message;
  std::string stack_trace;
  std::string module_name = "gcs";
  std::string file_name;
  uint32_t line = 0;
  std::string function_name;
};

struct ResponseBase {
  int32_t result = 0;  // compare through HResult()
  std::string error_message;
  std::string activity_id = kNullGuid;
  std::vector<ErrorRecord> error_records;
};

// Requests with nothing but the base: Start, ShutdownGraceful, ShutdownForced, ListProcesses,
// DeleteContainerState, PauseContainer, ResumeContainer, GetClock, ThawFilesystems.
struct SimpleRequest : RequestBase {};
// Answers with nothing but the base: Start, Shutdown*, SignalProcess, ResizeConsole,
// ModifySettings, AcknowledgeExit, DeleteContainerState, PauseContainer, ResumeContainer,
// AdjustClock, ThawFilesystems.
struct SimpleResponse : ResponseBase {};

struct NegotiateRequest : RequestBase {
  uint32_t minimum_version = kProtocolVersion;
  uint32_t maximum_version = kProtocolVersion;
};

// No guest stands still longer for a host that forgot it.
inline constexpr uint32_t kMaxFreezeMs = 600'000;

struct SchemaVersion {
  uint32_t major = 2;
  uint32_t minor = 1;
};

struct GuestDefinedCapabilities {
  bool namespace_add_request_supported = false;
  bool signal_process_supported = false;
  bool dump_stacks_supported = false;
  bool delete_container_state_supported = false;
  // Ferry's: stdio connections carry the frames of bridge/stream/wire.h.
  bool resumable_stdio_supported = false;
  // Ferry's: exit statuses are kept until AcknowledgeExit; ListProcesses is known as well.
  bool acknowledge_exit_supported = false;
  // Ferry's: OCI containers, with PauseContainer and ResumeContainer (container_messages.h).
  bool containers_supported = false;
  // Ferry's: the host may set the guest's clock, with GetClock and AdjustClock.
  bool clock_supported = false;
  // Ferry's: a container's start that comes again under its id is answered again.
  bool repeated_start_supported = false;
  // Ferry's: FreezeFilesystems and ThawFilesystems.
  bool freeze_supported = false;
  // Ferry's: network cards become interfaces by ModifySettings (network_messages.h).
  bool network_supported = false;
  // Ferry's: such a card may get its address by DHCP, and the guest's name servers are set.
  bool dhcp_supported = false;
};

struct Capabilities {
  bool send_host_create_message = false;
  bool send_host_start_message = false;
  bool hv_socket_config_on_startup = false;
  bool send_lifecycle_notifications = false;
  bool modify_service_settings_supported = false;
  std::vector<SchemaVersion> supported_schema_versions;
  std::string runtime_os_type;  // empty means Windows
  GuestDefinedCapabilities guest_defined;
};

struct NegotiateResponse : ResponseBase {
  uint32_t version = 0;
  Capabilities capabilities;
};

struct CreateRequest : RequestBase {
  std::string container_config;  // a JSON text of its own
};
struct CreateResponse : ResponseBase {};

struct ProcessParameters {
  std::string command_line;
  std::vector<std::string> command_args;
  std::string working_directory;
  std::map<std::string, std::string> environment;
  bool emulate_console = false;
  uint32_t console_rows = 0;  // ConsoleSize: [rows, columns]; both 0: absent
  uint32_t console_columns = 0;
  bool create_stdin_pipe = false;
  bool create_stdout_pipe = false;
  bool create_stderr_pipe = false;
  bool create_in_utility_vm = false;
  std::string oci_specification;  // JSON text, empty: absent
  std::string oci_process;        // JSON text, empty: absent
};

struct StdioRelaySettings {
  uint32_t std_in = 0;  // ports; 0: no such stream
  uint32_t std_out = 0;
  uint32_t std_err = 0;
  bool resumable = false;  // Ferry's: use the frames of bridge/stream/wire.h
  bool operator==(const StdioRelaySettings&) const = default;
};

struct ExecuteProcessRequest : RequestBase {
  ProcessParameters parameters;
  StdioRelaySettings stdio;
};
struct ExecuteProcessResponse : ResponseBase {
  uint32_t process_id = 0;
};

struct WaitForProcessRequest : RequestBase {
  uint32_t process_id = 0;
  uint32_t timeout_ms = kWaitForever;
};
struct WaitForProcessResponse : ResponseBase {
  uint32_t exit_code = 0;
  std::optional<uint32_t> exit_signal;  // Ferry's: ended by this signal
};

struct SignalProcessRequest : RequestBase {
  uint32_t process_id = 0;
  uint32_t signal = 0;  // 0: SIGKILL
};

struct ResizeConsoleRequest : RequestBase {
  uint32_t process_id = 0;
  uint32_t height = 0;
  uint32_t width = 0;
};

struct GetPropertiesRequest : RequestBase {
  std::string query;  // a JSON text of its own
};
struct GetPropertiesResponse : ResponseBase {
  std::string properties;  // a JSON text of its own
};

struct ModifySettingsRequest : RequestBase {
  std::string request_type = "Add";
  std::string resource_type;
  std::string settings;  // JSON text, empty: absent
};

struct ContainerNotification : RequestBase {
  std::string type;  // GracefulExit, ForcedExit, UnexpectedExit
  std::string operation = "None";
  int32_t result = 0;
  std::string result_info;
};

struct AcknowledgeExitRequest : RequestBase {
  uint32_t process_id = 0;
};

struct ListProcessesResponse : ResponseBase {
  struct Entry {
    uint32_t process_id = 0;
    bool exited = false;
  };
  std::vector<Entry> processes;
};

// What the guest's CLOCK_REALTIME says.
struct GetClockResponse : ResponseBase {
  uint64_t unix_ns = 0;  // below 2^63
};

// Sets the guest's CLOCK_REALTIME to what it says then, and so much more.
struct AdjustClockRequest : RequestBase {
  int64_t offset_ns = 0;
};

// Has nobody write to the guest's filesystems on disks from its answer on: until ThawFilesystems,
// until so long after the request, or until the connection is lost. OK to ThawFilesystems says that
// they stayed frozen until then.
struct FreezeFilesystemsRequest : RequestBase {
  uint32_t timeout_ms = 0;  // 1 to kMaxFreezeMs
};
struct FreezeFilesystemsResponse : ResponseBase {
  uint32_t frozen = 0;  // how many
};

// Host to guest: the text ends with a newline.
std::string Encode(const SimpleRequest& message);
std::string Encode(const NegotiateRequest& message);
std::string Encode(const CreateRequest& message);
std::string Encode(const ExecuteProcessRequest& message);
std::string Encode(const WaitForProcessRequest& message);
std::string Encode(const SignalProcessRequest& message);
std::string Encode(const ResizeConsoleRequest& message);
std::string Encode(const GetPropertiesRequest& message);
std::string Encode(const ModifySettingsRequest& message);
std::string Encode(const AcknowledgeExitRequest& message);
std::string Encode(const AdjustClockRequest& message);
std::string Encode(const FreezeFilesystemsRequest& message);

// Guest to host: the text does not end with a newline.
std::string Encode(const SimpleResponse& message);
std::string Encode(const NegotiateResponse& message);
std::string Encode(const CreateResponse& message);
std::string Encode(const ExecuteProcessResponse& message);
std::string Encode(const WaitForProcessResponse& message);
std::string Encode(const GetPropertiesResponse& message);
std::string Encode(const ListProcessesResponse& message);
std::string Encode(const GetClockResponse& message);
std::string Encode(const FreezeFilesystemsResponse& message);
std::string Encode(const ContainerNotification& message);

// INVALID_ARGUMENT with the member's name if the text is no such message. Any request decodes as
// SimpleRequest and any response as SimpleResponse, which tells its base.
template <typename Message>
absl::StatusOr<Message> Decode(std::string_view text) = delete;

template <>
absl::StatusOr<SimpleRequest> Decode(std::string_view text);
template <>
absl::StatusOr<NegotiateRequest> Decode(std::string_view text);
template <>
absl::StatusOr<CreateRequest> Decode(std::string_view text);
template <>
absl::StatusOr<ExecuteProcessRequest> Decode(std::string_view text);
template <>
absl::StatusOr<WaitForProcessRequest> Decode(std::string_view text);
template <>
absl::StatusOr<SignalProcessRequest> Decode(std::string_view text);
template <>
absl::StatusOr<ResizeConsoleRequest> Decode(std::string_view text);
template <>
absl::StatusOr<GetPropertiesRequest> Decode(std::string_view text);
template <>
absl::StatusOr<ModifySettingsRequest> Decode(std::string_view text);
template <>
absl::StatusOr<AcknowledgeExitRequest> Decode(std::string_view text);
template <>
absl::StatusOr<AdjustClockRequest> Decode(std::string_view text);
template <>
absl::StatusOr<FreezeFilesystemsRequest> Decode(std::string_view text);
template <>
absl::StatusOr<SimpleResponse> Decode(std::string_view text);
template <>
absl::StatusOr<NegotiateResponse> Decode(std::string_view text);
template <>
absl::StatusOr<CreateResponse> Decode(std::string_view text);
template <>
absl::StatusOr<ExecuteProcessResponse> Decode(std::string_view text);
template <>
absl::StatusOr<WaitForProcessResponse> Decode(std::string_view text);
template <>
absl::StatusOr<GetPropertiesResponse> Decode(std::string_view text);
template <>
absl::StatusOr<ListProcessesResponse> Decode(std::string_view text);
template <>
absl::StatusOr<GetClockResponse> Decode(std::string_view text);
template <>
absl::StatusOr<FreezeFilesystemsResponse> Decode(std::string_view text);
template <>
absl::StatusOr<ContainerNotification> Decode(std::string_view text);

// The answer that reports a failure, with one error record.
SimpleResponse FailedResponse(uint32_t hresult, std::string message, std::string activity_id);

}  // namespace ferry::bridge
