#include "bridge/protocol/messages.h"

#include <gtest/gtest.h>

namespace ferry::bridge {
namespace {

constexpr char kBase[] = R"("ContainerId":"00000000-0000-0000-0000-000000000000",)"
                         R"("ActivityId":"00000000-0000-0000-0000-000000000000")";

std::string Request(const std::string& rest) { return "{" + std::string(kBase) + rest + "}\n"; }
std::string Response(const std::string& rest) {
  return R"({"Result":0,"ActivityId":"00000000-0000-0000-0000-000000000000")" + rest + "}";
}

TEST(MessagesTest, GoldenRequests) {
  EXPECT_EQ(Encode(SimpleRequest{}), Request(""));
  EXPECT_EQ(Encode(NegotiateRequest{}), Request(R"(,"MinimumVersion":4,"MaximumVersion":4)"));
  WaitForProcessRequest wait;
  wait.process_id = 7;
  EXPECT_EQ(Encode(wait), Request(R"(,"ProcessId":7,"TimeoutInMs":4294967295)"));
  SignalProcessRequest signal;
  signal.process_id = 7;
  signal.signal = 15;
  EXPECT_EQ(Encode(signal), Request(R"(,"ProcessId":7,"Options":{"Signal":15})"));
  ResizeConsoleRequest resize;
  resize.process_id = 7;
  resize.height = 25;
  resize.width = 80;
  EXPECT_EQ(Encode(resize), Request(R"(,"ProcessId":7,"Height":25,"Width":80)"));
  AcknowledgeExitRequest acknowledge;
  acknowledge.process_id = 7;
  EXPECT_EQ(Encode(acknowledge), Request(R"(,"ProcessId":7)"));
  AdjustClockRequest adjust;
  adjust.offset_ns = -5'000'000'000;
  EXPECT_EQ(Encode(adjust), Request(R"(,"OffsetNs":-5000000000)"));
  FreezeFilesystemsRequest freeze;
  freeze.timeout_ms = 30'000;
  EXPECT_EQ(Encode(freeze), Request(R"(,"TimeoutMs":30000)"));
  GetPropertiesRequest properties;
  properties.query = "{}";
  EXPECT_EQ(Encode(properties), Request(R"(,"Query":"{}")"));
}

TEST(MessagesTest, GoldenExecuteProcess) {
  ExecuteProcessRequest message;
  message.parameters.command_args = {"sh", "-c", "echo \"<&>\""};
  message.parameters.working_directory = "/";
  message.parameters.environment = {{"A", "b"}};
  message.parameters.emulate_console = true;
  message.parameters.console_rows = 25;
  message.parameters.console_columns = 80;
  message.parameters.create_stdin_pipe = true;
  message.parameters.create_in_utility_vm = true;
  message.stdio = {.std_in = 0x40000001, .std_out = 0x40000002, .std_err = 0, .resumable = true};
  EXPECT_EQ(
      Encode(message),
      Request(
          R"(,"Settings":{"ProcessParameters":"{\"CommandLine\":\"\",\"CommandArgs\":[\"sh\",\"-c\",)"
          R"(\"echo \\\"<&>\\\"\"],\"WorkingDirectory\":\"/\",\"Environment\":{\"A\":\"b\"},)"
          R"(\"EmulateConsole\":true,\"CreateStdInPipe\":true,\"CreateStdOutPipe\":false,)"
          R"(\"CreateStdErrPipe\":false,\"CreateInUtilityVM\":true,\"ConsoleSize\":[25,80]}",)"
          R"("VsockStdioRelaySettings":{"StdIn":1073741825,"StdOut":1073741826,"StdErr":0,)"
          R"("Resumable":true}})"));
}

TEST(MessagesTest, ExecuteProcessRoundTrip) {
  ExecuteProcessRequest message;
  message.container_id = "c";
  message.parameters.command_line = "a b";
  message.parameters.command_args = {"a", "b"};
  message.parameters.environment = {{"X", "1"}, {"Y", ""}};
  message.parameters.console_rows = 3;
  message.parameters.console_columns = 4;
  message.parameters.create_stderr_pipe = true;
  message.parameters.oci_process = R"({"cwd":"/"})";
  message.stdio.std_err = 9;
  absl::StatusOr<ExecuteProcessRequest> back = Decode<ExecuteProcessRequest>(Encode(message));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->container_id, "c");
  EXPECT_EQ(back->parameters.command_line, "a b");
  EXPECT_EQ(back->parameters.command_args, message.parameters.command_args);
  EXPECT_EQ(back->parameters.environment, message.parameters.environment);
  EXPECT_EQ(back->parameters.console_rows, 3u);
  EXPECT_EQ(back->parameters.console_columns, 4u);
  EXPECT_TRUE(back->parameters.create_stderr_pipe);
  EXPECT_EQ(back->parameters.oci_process, message.parameters.oci_process);
  EXPECT_EQ(back->stdio.std_err, 9u);
  EXPECT_FALSE(back->stdio.resumable);
}

TEST(MessagesTest, GoldenResponsesHaveNoNewline) {
  EXPECT_EQ(Encode(SimpleResponse{}), Response(""));
  WaitForProcessResponse wait;
  wait.exit_code = 137;
  wait.exit_signal = 9;
  EXPECT_EQ(Encode(wait), Response(R"(,"ExitCode":137,"ExitSignal":9)"));
  ListProcessesResponse list;
  list.processes = {{.process_id = 1, .exited = false}, {.process_id = 2, .exited = true}};
  EXPECT_EQ(Encode(list), Response(R"(,"Processes":[{"ProcessId":1,"Exited":false},)"
                                   R"({"ProcessId":2,"Exited":true}])"));
}

TEST(MessagesTest, NegotiateResponseRoundTripKeepsFerrysCapabilities) {
  NegotiateResponse message;
  message.version = 4;
  message.capabilities.runtime_os_type = "Linux";
  message.capabilities.supported_schema_versions = {{.major = 2, .minor = 1}};
  message.capabilities.guest_defined.resumable_stdio_supported = true;
  message.capabilities.guest_defined.acknowledge_exit_supported = true;
  const std::string text = Encode(message);
  EXPECT_NE(text.find(R"("ResumableStdioSupported":true,"AcknowledgeExitSupported":true)"),
            std::string::npos);
  absl::StatusOr<NegotiateResponse> back = Decode<NegotiateResponse>(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->version, 4u);
  EXPECT_EQ(back->capabilities.runtime_os_type, "Linux");
  ASSERT_EQ(back->capabilities.supported_schema_versions.size(), 1u);
  EXPECT_TRUE(back->capabilities.guest_defined.resumable_stdio_supported);
  EXPECT_TRUE(back->capabilities.guest_defined.acknowledge_exit_supported);
  EXPECT_FALSE(back->capabilities.guest_defined.dump_stacks_supported);
}

TEST(MessagesTest, UnknownMembersAndNullAreTolerated) {
  absl::StatusOr<NegotiateResponse> back =
      Decode<NegotiateResponse>(R"({"Result":0,"ErrorRecords":null,"New":{"x":[1]},"Version":4,)"
                                R"("Capabilities":{"RuntimeOsType":"Linux","Fresh":1}})");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->version, 4u);
  EXPECT_EQ(back->capabilities.runtime_os_type, "Linux");
}

TEST(MessagesTest, TypesAndRangesAreStrict) {
  EXPECT_FALSE(Decode<WaitForProcessRequest>(R"({"ProcessId":"7"})").ok());
  EXPECT_FALSE(Decode<WaitForProcessRequest>(R"({"ProcessId":-1})").ok());
  EXPECT_FALSE(Decode<WaitForProcessRequest>(R"({"ProcessId":4294967296})").ok());
  EXPECT_FALSE(Decode<WaitForProcessRequest>(R"({"ProcessId":1.5})").ok());
  EXPECT_FALSE(Decode<WaitForProcessRequest>("{}").ok());
  EXPECT_FALSE(Decode<SimpleRequest>("[]").ok());
  EXPECT_FALSE(Decode<SimpleRequest>("").ok());
  EXPECT_FALSE(Decode<SimpleRequest>(std::string(200, '[')).ok());
  EXPECT_FALSE(Decode<SimpleResponse>(R"({"Result":2147483648})").ok());
  EXPECT_FALSE(Decode<ResizeConsoleRequest>(R"({"ProcessId":1,"Height":70000})").ok());
  EXPECT_FALSE(
      Decode<ExecuteProcessRequest>(R"({"Settings":{"ProcessParameters":"not json"}})").ok());
  EXPECT_FALSE(
      Decode<ExecuteProcessRequest>(R"({"Settings":{"ProcessParameters":"{\"ConsoleSize\":[1]}"}})")
          .ok());
}

TEST(MessagesTest, ClocksAreWholeNanosecondsWithinRange) {
  EXPECT_EQ(Decode<GetClockResponse>(R"({"UnixNs":9223372036854775807})")->unix_ns,
            9223372036854775807u);
  EXPECT_FALSE(Decode<GetClockResponse>(R"({"UnixNs":9223372036854775808})").ok());
  EXPECT_FALSE(Decode<GetClockResponse>(R"({"UnixNs":-1})").ok());
  EXPECT_FALSE(Decode<GetClockResponse>("{}").ok());
  EXPECT_TRUE(Decode<GetClockResponse>(R"({"Result":-1})").ok());
  EXPECT_EQ(Decode<AdjustClockRequest>(R"({"OffsetNs":-7})")->offset_ns, -7);
  EXPECT_FALSE(Decode<AdjustClockRequest>(R"({"OffsetNs":9223372036854775808})").ok());
  EXPECT_FALSE(Decode<AdjustClockRequest>(R"({"OffsetNs":1.5})").ok());
  EXPECT_FALSE(Decode<AdjustClockRequest>("{}").ok());
  EXPECT_EQ(Decode<FreezeFilesystemsRequest>(R"({"TimeoutMs":1})")->timeout_ms, 1u);
  EXPECT_TRUE(Decode<FreezeFilesystemsRequest>(R"({"TimeoutMs":600000})").ok());
  EXPECT_FALSE(Decode<FreezeFilesystemsRequest>(R"({"TimeoutMs":600001})").ok());
  EXPECT_FALSE(Decode<FreezeFilesystemsRequest>(R"({"TimeoutMs":0})").ok());
  EXPECT_FALSE(Decode<FreezeFilesystemsRequest>("{}").ok());
  EXPECT_FALSE(Decode<FreezeFilesystemsResponse>(R"({"Frozen":-1})").ok());
  EXPECT_FALSE(Decode<FreezeFilesystemsResponse>("{}").ok());
}

TEST(MessagesTest, DeepNestingAndLongListsAreRefused) {
  const auto nested = [](int depth) {
    return R"({"ExitCode":0,"Later":)" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_TRUE(Decode<WaitForProcessResponse>(nested(10)).ok());
  EXPECT_FALSE(Decode<WaitForProcessResponse>(nested(20)).ok());
  EXPECT_FALSE(Decode<WaitForProcessResponse>(nested(30'000)).ok());
  const auto list = [](int length) {
    std::string text = R"({"Processes":[)";
    for (int i = 0; i < length; ++i) text += R"({"ProcessId":7},)";
    text.back() = ']';
    return text + "}";
  };
  EXPECT_TRUE(Decode<ListProcessesResponse>(list(4096)).ok());
  EXPECT_FALSE(Decode<ListProcessesResponse>(list(4097)).ok());
}

TEST(MessagesTest, MissingExitCodeIsNeverZero) {
  EXPECT_FALSE(Decode<WaitForProcessResponse>(R"({"Result":0})").ok());
  EXPECT_TRUE(Decode<WaitForProcessResponse>(R"({"Result":-2147023728})").ok());
}

TEST(MessagesTest, HighBitHresultMatchesItsConstant) {
  SimpleResponse failed = FailedResponse(kHresultProcessNotFound, "no process 7", "a");
  EXPECT_LT(failed.result, 0);
  absl::StatusOr<SimpleResponse> back = Decode<SimpleResponse>(Encode(failed));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(HResult(back->result), kHresultProcessNotFound);
  EXPECT_EQ(back->error_message, "no process 7");
  EXPECT_EQ(back->activity_id, "a");
  ASSERT_EQ(back->error_records.size(), 1u);
  EXPECT_EQ(back->error_records[0].module_name, "gcs");
}

TEST(MessagesTest, OtherRequestsRoundTrip) {
  CreateRequest create;
  create.container_config = R"({"OciBundlePath":"/b"})";
  EXPECT_EQ(Decode<CreateRequest>(Encode(create))->container_config, create.container_config);
  ModifySettingsRequest modify;
  modify.request_type = "Remove";
  modify.resource_type = "Network";
  modify.settings = R"({"a":[1,2]})";
  absl::StatusOr<ModifySettingsRequest> back = Decode<ModifySettingsRequest>(Encode(modify));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->request_type, "Remove");
  EXPECT_EQ(back->resource_type, "Network");
  EXPECT_EQ(back->settings, modify.settings);
  ContainerNotification notification;
  notification.container_id = "c";
  notification.type = "UnexpectedExit";
  notification.result = -1;
  EXPECT_EQ(Decode<ContainerNotification>(Encode(notification))->type, "UnexpectedExit");
  SignalProcessRequest signal;
  signal.process_id = 3;
  signal.signal = 9;
  EXPECT_EQ(Decode<SignalProcessRequest>(Encode(signal))->signal, 9u);
  EXPECT_EQ(ResponseType(kAcknowledgeExit), 0x20F00101u);
}

}  // namespace
}  // namespace ferry::bridge
