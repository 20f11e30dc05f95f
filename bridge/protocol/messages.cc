#include "bridge/protocol/messages.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_from.hpp>
#include <limits>
#include <type_traits>

#include "bridge/protocol/json_fields.h"

namespace ferry::bridge {
namespace json = boost::json;
namespace {

json::object Base(const RequestBase& message) {
  return {{"ContainerId", message.container_id}, {"ActivityId", message.activity_id}};
}

json::object Base(const ResponseBase& message) {
  json::object out{{"Result", message.result}, {"ActivityId", message.activity_id}};
  if (!message.error_message.empty()) out["ErrorMessage"] = message.error_message;
  if (message.error_records.empty()) return out;
  json::array records;
  for (const ErrorRecord& record : message.error_records) {
    records.push_back(json::object{{"Result", record.result},
                                   {"Message", record.message},
                                   {"StackTrace", record.stack_trace},
                                   {"ModuleName", record.module_name},
                                   {"FileName", record.file_name},
                                   {"Line", record.line},
                                   {"FunctionName", record.function_name}});
  }
  out["ErrorRecords"] = std::move(records);
  return out;
}

void ReadBase(const FieldReader& in, RequestBase* message) {
  in.Text("ContainerId", &message->container_id);
  in.Text("ActivityId", &message->activity_id);
}

void ReadBase(const FieldReader& in, ResponseBase* message) {
  in.I32("Result", &message->result);
  in.Text("ErrorMessage", &message->error_message);
  in.Text("ActivityId", &message->activity_id);
  in.ObjectList("ErrorRecords", [message](const FieldReader& entry) {
    ErrorRecord record;
    entry.I32("Result", &record.result);
    entry.Text("Message", &record.message);
    entry.Text("StackTrace", &record.stack_trace);
    entry.Text("ModuleName", &record.module_name);
    entry.Text("FileName", &record.file_name);
    entry.U32("Line", &record.line);
    entry.Text("FunctionName", &record.function_name);
    message->error_records.push_back(std::move(record));
  });
}

// Host to guest: hcsshim's encoder ends each text with a newline, and some agents read by line.
std::string ToGuest(const json::object& object) { return json::serialize(object) + "\n"; }
std::string ToHost(const json::object& object) { return json::serialize(object); }

// Parses the text, reads the base, then what `read(FieldReader, message)` asks for.
template <typename Message, typename Read>
absl::StatusOr<Message> DecodeWith(std::string_view text, Read read) {
  absl::StatusOr<json::object> object = ParseObject(text);
  if (!object.ok()) return object.status();
  Message message;
  absl::Status status;
  FieldReader in(*object, "", &status);
  ReadBase(in, &message);
  // A failure need not carry what a success must.
  bool failed = false;
  if constexpr (std::is_base_of_v<ResponseBase, Message>) failed = message.result != 0;
  if (!failed) read(in, &message);
  if (!status.ok()) return status;
  return message;
}

struct ReadNothing {
  template <typename Message>
  void operator()(const FieldReader&, Message*) const {}
};

std::string EncodeParameters(const ProcessParameters& parameters) {
  json::object out{{"CommandLine", parameters.command_line},
                   {"CommandArgs", json::value_from(parameters.command_args)},
                   {"WorkingDirectory", parameters.working_directory},
                   {"Environment", json::value_from(parameters.environment)},
                   {"EmulateConsole", parameters.emulate_console},
                   {"CreateStdInPipe", parameters.create_stdin_pipe},
                   {"CreateStdOutPipe", parameters.create_stdout_pipe},
                   {"CreateStdErrPipe", parameters.create_stderr_pipe},
                   {"CreateInUtilityVM", parameters.create_in_utility_vm}};
  if (parameters.console_rows != 0 || parameters.console_columns != 0) {
    out["ConsoleSize"] = json::array{parameters.console_rows, parameters.console_columns};
  }
  if (!parameters.oci_specification.empty()) {
    out["OciSpecification"] = Embedded(parameters.oci_specification);
  }
  if (!parameters.oci_process.empty()) out["OciProcess"] = Embedded(parameters.oci_process);
  return json::serialize(out);
}

absl::Status DecodeParameters(std::string_view text, ProcessParameters* out) {
  absl::StatusOr<json::object> object = ParseObject(text);
  if (!object.ok()) return object.status();
  absl::Status status;
  FieldReader in(*object, "ProcessParameters", &status);
  in.Text("CommandLine", &out->command_line);
  in.TextList("CommandArgs", &out->command_args);
  in.Text("WorkingDirectory", &out->working_directory);
  in.TextMap("Environment", &out->environment);
  in.Bool("EmulateConsole", &out->emulate_console);
  in.U32List("ConsoleSize", {&out->console_rows, &out->console_columns});
  in.Bool("CreateStdInPipe", &out->create_stdin_pipe);
  in.Bool("CreateStdOutPipe", &out->create_stdout_pipe);
  in.Bool("CreateStdErrPipe", &out->create_stderr_pipe);
  in.Bool("CreateInUtilityVM", &out->create_in_utility_vm);
  in.Raw("OciSpecification", &out->oci_specification);
  in.Raw("OciProcess", &out->oci_process);
  return status;
}

void ReadProcessId(const FieldReader& in, uint32_t* out) {
  in.Required("ProcessId");
  in.U32("ProcessId", out);
}

json::object EncodeCapabilities(const Capabilities& capabilities) {
  json::array versions;
  for (const SchemaVersion& version : capabilities.supported_schema_versions) {
    versions.push_back(json::object{{"Major", version.major}, {"Minor", version.minor}});
  }
  const GuestDefinedCapabilities& guest = capabilities.guest_defined;
  return {{"SendHostCreateMessage", capabilities.send_host_create_message},
          {"SendHostStartMessage", capabilities.send_host_start_message},
          {"HvSocketConfigOnStartup", capabilities.hv_socket_config_on_startup},
          {"SendLifecycleNotifications", capabilities.send_lifecycle_notifications},
          {"ModifyServiceSettingsSupported", capabilities.modify_service_settings_supported},
          {"SupportedSchemaVersions", std::move(versions)},
          {"RuntimeOsType", capabilities.runtime_os_type},
          {"GuestDefinedCapabilities",
           json::object{{"NamespaceAddRequestSupported", guest.namespace_add_request_supported},
                        {"SignalProcessSupported", guest.signal_process_supported},
                        {"DumpStacksSupported", guest.dump_stacks_supported},
                        {"DeleteContainerStateSupported", guest.delete_container_state_supported},
                        {"ResumableStdioSupported", guest.resumable_stdio_supported},
                        {"AcknowledgeExitSupported", guest.acknowledge_exit_supported},
                        {"ContainersSupported", guest.containers_supported},
                        {"ClockSupported", guest.clock_supported},
                        {"RepeatedStartSupported", guest.repeated_start_supported},
                        {"FreezeSupported", guest.freeze_supported},
                        {"NetworkSupported", guest.network_supported},
                        {"DhcpSupported", guest.dhcp_supported}}}};
}

void ReadCapabilities(const FieldReader& in, Capabilities* out) {
  in.Bool("SendHostCreateMessage", &out->send_host_create_message);
  in.Bool("SendHostStartMessage", &out->send_host_start_message);
  in.Bool("HvSocketConfigOnStartup", &out->hv_socket_config_on_startup);
  in.Bool("SendLifecycleNotifications", &out->send_lifecycle_notifications);
  in.Bool("ModifyServiceSettingsSupported", &out->modify_service_settings_supported);
  in.ObjectList("SupportedSchemaVersions", [out](const FieldReader& entry) {
    SchemaVersion version;
    entry.U32("Major", &version.major);
    entry.U32("Minor", &version.minor);
    out->supported_schema_versions.push_back(version);
  });
  in.Text("RuntimeOsType", &out->runtime_os_type);
  in.Object("GuestDefinedCapabilities", [out](const FieldReader& guest) {
    GuestDefinedCapabilities& defined = out->guest_defined;
    guest.Bool("NamespaceAddRequestSupported", &defined.namespace_add_request_supported);
    guest.Bool("SignalProcessSupported", &defined.signal_process_supported);
    guest.Bool("DumpStacksSupported", &defined.dump_stacks_supported);
    guest.Bool("DeleteContainerStateSupported", &defined.delete_container_state_supported);
    guest.Bool("ResumableStdioSupported", &defined.resumable_stdio_supported);
    guest.Bool("AcknowledgeExitSupported", &defined.acknowledge_exit_supported);
    guest.Bool("ContainersSupported", &defined.containers_supported);
    guest.Bool("ClockSupported", &defined.clock_supported);
    guest.Bool("RepeatedStartSupported", &defined.repeated_start_supported);
    guest.Bool("FreezeSupported", &defined.freeze_supported);
    guest.Bool("NetworkSupported", &defined.network_supported);
    guest.Bool("DhcpSupported", &defined.dhcp_supported);
  });
}

}  // namespace

std::string Encode(const SimpleRequest& message) { return ToGuest(Base(message)); }
std::string Encode(const SimpleResponse& message) { return ToHost(Base(message)); }
std::string Encode(const CreateResponse& message) { return ToHost(Base(message)); }

template <>
absl::StatusOr<SimpleRequest> Decode(std::string_view text) {
  return DecodeWith<SimpleRequest>(text, ReadNothing{});
}
template <>
absl::StatusOr<SimpleResponse> Decode(std::string_view text) {
  return DecodeWith<SimpleResponse>(text, ReadNothing{});
}
template <>
absl::StatusOr<CreateResponse> Decode(std::string_view text) {
  return DecodeWith<CreateResponse>(text, ReadNothing{});
}

std::string Encode(const NegotiateRequest& message) {
  json::object out = Base(message);
  out["MinimumVersion"] = message.minimum_version;
  out["MaximumVersion"] = message.maximum_version;
  return ToGuest(out);
}

template <>
absl::StatusOr<NegotiateRequest> Decode(std::string_view text) {
  return DecodeWith<NegotiateRequest>(text, [](const FieldReader& in, NegotiateRequest* out) {
    in.Required("MaximumVersion");
    in.U32("MinimumVersion", &out->minimum_version);
    in.U32("MaximumVersion", &out->maximum_version);
  });
}

std::string Encode(const NegotiateResponse& message) {
  json::object out = Base(message);
  out["Version"] = message.version;
  out["Capabilities"] = EncodeCapabilities(message.capabilities);
  return ToHost(out);
}

template <>
absl::StatusOr<NegotiateResponse> Decode(std::string_view text) {
  return DecodeWith<NegotiateResponse>(text, [](const FieldReader& in, NegotiateResponse* out) {
    in.Required("Version");
    in.U32("Version", &out->version);
    in.Object("Capabilities", [out](const FieldReader& capabilities) {
      ReadCapabilities(capabilities, &out->capabilities);
    });
  });
}

std::string Encode(const CreateRequest& message) {
  json::object out = Base(message);
  out["ContainerConfig"] = message.container_config;
  return ToGuest(out);
}

template <>
absl::StatusOr<CreateRequest> Decode(std::string_view text) {
  return DecodeWith<CreateRequest>(text, [](const FieldReader& in, CreateRequest* out) {
    in.Required("ContainerConfig");
    in.Text("ContainerConfig", &out->container_config);
  });
}

std::string Encode(const ExecuteProcessRequest& message) {
  json::object relay{{"StdIn", message.stdio.std_in},
                     {"StdOut", message.stdio.std_out},
                     {"StdErr", message.stdio.std_err}};
  if (message.stdio.resumable) relay["Resumable"] = true;
  json::object out = Base(message);
  out["Settings"] = json::object{{"ProcessParameters", EncodeParameters(message.parameters)},
                                 {"VsockStdioRelaySettings", std::move(relay)}};
  return ToGuest(out);
}

template <>
absl::StatusOr<ExecuteProcessRequest> Decode(std::string_view text) {
  return DecodeWith<ExecuteProcessRequest>(
      text, [](const FieldReader& in, ExecuteProcessRequest* out) {
        in.Required("Settings");
        in.Object("Settings", [out](const FieldReader& settings) {
          std::string parameters;
          settings.Required("ProcessParameters");
          settings.Text("ProcessParameters", &parameters);
          absl::Status status = DecodeParameters(parameters, &out->parameters);
          if (!status.ok()) settings.Complain("ProcessParameters", std::string(status.message()));
          settings.Object("VsockStdioRelaySettings", [out](const FieldReader& relay) {
            relay.U32("StdIn", &out->stdio.std_in);
            relay.U32("StdOut", &out->stdio.std_out);
            relay.U32("StdErr", &out->stdio.std_err);
            relay.Bool("Resumable", &out->stdio.resumable);
          });
        });
      });
}

std::string Encode(const ExecuteProcessResponse& message) {
  json::object out = Base(message);
  out["ProcessId"] = message.process_id;
  return ToHost(out);
}

template <>
absl::StatusOr<ExecuteProcessResponse> Decode(std::string_view text) {
  return DecodeWith<ExecuteProcessResponse>(text,
                                            [](const FieldReader& in, ExecuteProcessResponse* out) {
                                              ReadProcessId(in, &out->process_id);
                                            });
}

std::string Encode(const WaitForProcessRequest& message) {
  json::object out = Base(message);
  out["ProcessId"] = message.process_id;
  out["TimeoutInMs"] = message.timeout_ms;
  return ToGuest(out);
}

template <>
absl::StatusOr<WaitForProcessRequest> Decode(std::string_view text) {
  return DecodeWith<WaitForProcessRequest>(text,
                                           [](const FieldReader& in, WaitForProcessRequest* out) {
                                             ReadProcessId(in, &out->process_id);
                                             in.U32("TimeoutInMs", &out->timeout_ms);
                                           });
}

std::string Encode(const WaitForProcessResponse& message) {
  json::object out = Base(message);
  out["ExitCode"] = message.exit_code;
  if (message.exit_signal) out["ExitSignal"] = *message.exit_signal;
  return ToHost(out);
}

template <>
absl::StatusOr<WaitForProcessResponse> Decode(std::string_view text) {
  return DecodeWith<WaitForProcessResponse>(text,
                                            [](const FieldReader& in, WaitForProcessResponse* out) {
                                              // A missing status must not become a success.
                                              in.Required("ExitCode");
                                              in.U32("ExitCode", &out->exit_code);
                                              if (!in.Has("ExitSignal")) return;
                                              out->exit_signal.emplace();
                                              in.U32("ExitSignal", &*out->exit_signal);
                                            });
}

std::string Encode(const SignalProcessRequest& message) {
  json::object out = Base(message);
  out["ProcessId"] = message.process_id;
  out["Options"] = json::object{{"Signal", message.signal}};
  return ToGuest(out);
}

template <>
absl::StatusOr<SignalProcessRequest> Decode(std::string_view text) {
  return DecodeWith<SignalProcessRequest>(
      text, [](const FieldReader& in, SignalProcessRequest* out) {
        ReadProcessId(in, &out->process_id);
        in.Object("Options",
                  [out](const FieldReader& options) { options.U32("Signal", &out->signal); });
      });
}

std::string Encode(const ResizeConsoleRequest& message) {
  json::object out = Base(message);
  out["ProcessId"] = message.process_id;
  out["Height"] = message.height;
  out["Width"] = message.width;
  return ToGuest(out);
}

template <>
absl::StatusOr<ResizeConsoleRequest> Decode(std::string_view text) {
  return DecodeWith<ResizeConsoleRequest>(text,
                                          [](const FieldReader& in, ResizeConsoleRequest* out) {
                                            ReadProcessId(in, &out->process_id);
                                            in.U32("Height", &out->height);
                                            in.U32("Width", &out->width);
                                            if (out->height > 0xFFFF)
                                              in.Complain("Height", "must be at most 65535");
                                            if (out->width > 0xFFFF)
                                              in.Complain("Width", "must be at most 65535");
                                          });
}

std::string Encode(const GetPropertiesRequest& message) {
  json::object out = Base(message);
  out["Query"] = message.query;
  return ToGuest(out);
}

template <>
absl::StatusOr<GetPropertiesRequest> Decode(std::string_view text) {
  return DecodeWith<GetPropertiesRequest>(
      text,
      [](const FieldReader& in, GetPropertiesRequest* out) { in.Text("Query", &out->query); });
}

std::string Encode(const GetPropertiesResponse& message) {
  json::object out = Base(message);
  out["Properties"] = message.properties;
  return ToHost(out);
}

template <>
absl::StatusOr<GetPropertiesResponse> Decode(std::string_view text) {
  return DecodeWith<GetPropertiesResponse>(text,
                                           [](const FieldReader& in, GetPropertiesResponse* out) {
                                             in.Text("Properties", &out->properties);
                                           });
}

std::string Encode(const ModifySettingsRequest& message) {
  json::object request{{"RequestType", message.request_type},
                       {"ResourceType", message.resource_type}};
  if (!message.settings.empty()) request["Settings"] = Embedded(message.settings);
  json::object out = Base(message);
  out["Request"] = std::move(request);
  return ToGuest(out);
}

template <>
absl::StatusOr<ModifySettingsRequest> Decode(std::string_view text) {
  return DecodeWith<ModifySettingsRequest>(
      text, [](const FieldReader& in, ModifySettingsRequest* out) {
        in.Required("Request");
        in.Object("Request", [out](const FieldReader& request) {
          request.Text("RequestType", &out->request_type);
          request.Text("ResourceType", &out->resource_type);
          request.Raw("Settings", &out->settings);
        });
      });
}

std::string Encode(const AcknowledgeExitRequest& message) {
  json::object out = Base(message);
  out["ProcessId"] = message.process_id;
  return ToGuest(out);
}

template <>
absl::StatusOr<AcknowledgeExitRequest> Decode(std::string_view text) {
  return DecodeWith<AcknowledgeExitRequest>(text,
                                            [](const FieldReader& in, AcknowledgeExitRequest* out) {
                                              ReadProcessId(in, &out->process_id);
                                            });
}

std::string Encode(const ListProcessesResponse& message) {
  json::array processes;
  for (const ListProcessesResponse::Entry& entry : message.processes) {
    processes.push_back(json::object{{"ProcessId", entry.process_id}, {"Exited", entry.exited}});
  }
  json::object out = Base(message);
  out["Processes"] = std::move(processes);
  return ToHost(out);
}

template <>
absl::StatusOr<ListProcessesResponse> Decode(std::string_view text) {
  return DecodeWith<ListProcessesResponse>(
      text, [](const FieldReader& in, ListProcessesResponse* out) {
        in.ObjectList("Processes", [out](const FieldReader& entry) {
          ListProcessesResponse::Entry process;
          ReadProcessId(entry, &process.process_id);
          entry.Bool("Exited", &process.exited);
          out->processes.push_back(process);
        });
      });
}

std::string Encode(const GetClockResponse& message) {
  json::object out = Base(message);
  out["UnixNs"] = message.unix_ns;
  return ToHost(out);
}

template <>
absl::StatusOr<GetClockResponse> Decode(std::string_view text) {
  return DecodeWith<GetClockResponse>(text, [](const FieldReader& in, GetClockResponse* out) {
    in.Required("UnixNs");
    in.U64("UnixNs", &out->unix_ns);
    if (out->unix_ns > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      in.Complain("UnixNs", "is no time of a clock");
    }
  });
}

std::string Encode(const AdjustClockRequest& message) {
  json::object out = Base(message);
  out["OffsetNs"] = message.offset_ns;
  return ToGuest(out);
}

template <>
absl::StatusOr<AdjustClockRequest> Decode(std::string_view text) {
  return DecodeWith<AdjustClockRequest>(text, [](const FieldReader& in, AdjustClockRequest* out) {
    in.Required("OffsetNs");
    in.I64("OffsetNs", &out->offset_ns);
  });
}

std::string Encode(const FreezeFilesystemsRequest& message) {
  json::object out = Base(message);
  out["TimeoutMs"] = message.timeout_ms;
  return ToGuest(out);
}

template <>
absl::StatusOr<FreezeFilesystemsRequest> Decode(std::string_view text) {
  return DecodeWith<FreezeFilesystemsRequest>(
      text, [](const FieldReader& in, FreezeFilesystemsRequest* out) {
        in.Required("TimeoutMs");
        in.U32("TimeoutMs", &out->timeout_ms);
        if (out->timeout_ms == 0 || out->timeout_ms > kMaxFreezeMs) {
          in.Complain("TimeoutMs", "must be from 1 to 600000");
        }
      });
}

std::string Encode(const FreezeFilesystemsResponse& message) {
  json::object out = Base(message);
  out["Frozen"] = message.frozen;
  return ToHost(out);
}

template <>
absl::StatusOr<FreezeFilesystemsResponse> Decode(std::string_view text) {
  return DecodeWith<FreezeFilesystemsResponse>(
      text, [](const FieldReader& in, FreezeFilesystemsResponse* out) {
        in.Required("Frozen");
        in.U32("Frozen", &out->frozen);
      });
}

std::string Encode(const ContainerNotification& message) {
  json::object out = Base(message);
  out["Type"] = message.type;
  out["Operation"] = message.operation;
  out["Result"] = message.result;
  if (!message.result_info.empty()) out["ResultInfo"] = message.result_info;
  return ToHost(out);
}

template <>
absl::StatusOr<ContainerNotification> Decode(std::string_view text) {
  return DecodeWith<ContainerNotification>(text,
                                           [](const FieldReader& in, ContainerNotification* out) {
                                             in.Required("ContainerId");
                                             in.Text("Type", &out->type);
                                             in.Text("Operation", &out->operation);
                                             in.I32("Result", &out->result);
                                             in.Text("ResultInfo", &out->result_info);
                                           });
}

SimpleResponse FailedResponse(uint32_t hresult, std::string message, std::string activity_id) {
  SimpleResponse response;
  response.result = WireResult(hresult);
  response.error_message = message;
  response.activity_id = std::move(activity_id);
  ErrorRecord record;
  record.result = response.result;
  record.message = std::move(message);
  response.error_records.push_back(std::move(record));
  return response;
}

}  // namespace ferry::bridge
