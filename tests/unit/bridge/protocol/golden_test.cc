#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bridge/protocol/message_types.h"
#include "bridge/protocol/messages.h"

// What a foreign end of the bridge expects, in literals. Both of Ferry's ends share the constants
// and the names in messages.cc, so a wrong one would pass every test that only talks to itself.
namespace ferry::bridge {
namespace {

constexpr char kActivity[] = "0f0e0d0c-0b0a-0908-0706-050403020100";

template <typename Message>
Message WithActivity() {
  Message message;
  message.activity_id = kActivity;
  return message;
}

// Decodes a text that must be right.
template <typename Message>
Message Decoded(const std::string& text) {
  absl::StatusOr<Message> message = Decode<Message>(text);
  EXPECT_TRUE(message.ok()) << message.status();
  return message.ok() ? *message : Message();
}

TEST(GoldenTest, RequestTypes) {
  EXPECT_EQ(kCreate, 0x10100101u);
  EXPECT_EQ(kStart, 0x10100201u);
  EXPECT_EQ(kShutdownGraceful, 0x10100301u);
  EXPECT_EQ(kShutdownForced, 0x10100401u);
  EXPECT_EQ(kExecuteProcess, 0x10100501u);
  EXPECT_EQ(kWaitForProcess, 0x10100601u);
  EXPECT_EQ(kSignalProcess, 0x10100701u);
  EXPECT_EQ(kResizeConsole, 0x10100801u);
  EXPECT_EQ(kGetProperties, 0x10100901u);
  EXPECT_EQ(kModifySettings, 0x10100a01u);
  EXPECT_EQ(kNegotiateProtocol, 0x10100b01u);
  EXPECT_EQ(kDumpStacks, 0x10100c01u);
  EXPECT_EQ(kDeleteContainerState, 0x10100d01u);
  EXPECT_EQ(kUpdateContainer, 0x10100e01u);
  EXPECT_EQ(kLifecycleNotification, 0x10100f01u);
  EXPECT_EQ(kModifyServiceSettings, 0x10200101u);
  // Ferry's own: agents one release apart meet.
  EXPECT_EQ(kAcknowledgeExit, 0x10f00101u);
  EXPECT_EQ(kListProcesses, 0x10f00201u);
  EXPECT_EQ(kPauseContainer, 0x10f00301u);
  EXPECT_EQ(kResumeContainer, 0x10f00401u);
  EXPECT_EQ(kGetClock, 0x10f00501u);
  EXPECT_EQ(kAdjustClock, 0x10f00601u);
  EXPECT_EQ(kFreezeFilesystems, 0x10f00701u);
  EXPECT_EQ(kThawFilesystems, 0x10f00801u);
}

TEST(GoldenTest, AnswersAndNotifications) {
  EXPECT_EQ(ResponseType(0x10100101), 0x20100101u);
  EXPECT_EQ(ResponseType(0x10200101), 0x20200101u);
  EXPECT_EQ(ResponseType(0x10f00201), 0x20f00201u);
  EXPECT_EQ(kContainerNotification, 0x30100101u);
  EXPECT_TRUE(IsRequest(0x10100101) && IsResponse(0x20100101) && IsNotification(0x30100101));
  EXPECT_FALSE(IsRequest(0x20100101) || IsResponse(0x30100101) || IsNotification(0x10100101));
}

TEST(GoldenTest, VersionAndSpecialValues) {
  EXPECT_EQ(kProtocolVersion, 4u);
  EXPECT_STREQ(kNullGuid, "00000000-0000-0000-0000-000000000000");
  EXPECT_EQ(kWaitForever, 0xffffffffu);
}

TEST(GoldenTest, Hresults) {
  EXPECT_EQ(kHresultOk, 0u);
  EXPECT_EQ(kHresultNotImplemented, 0x80004001u);
  EXPECT_EQ(kHresultFailed, 0x80004005u);
  EXPECT_EQ(kHresultProcessNotFound, 0x80070490u);
  EXPECT_EQ(kHresultInvalidArgument, 0x80070057u);
  EXPECT_EQ(kHresultWaitTimeout, 0xc0370109u);
  EXPECT_EQ(kHresultUnknownMessage, 0xc037010bu);
  EXPECT_EQ(kHresultBadProtocolVersion, 0xc037010cu);
  EXPECT_EQ(kHresultBadJson, 0xc037010du);
  EXPECT_EQ(kHresultContainerNotFound, 0xc037010eu);
  EXPECT_EQ(kHresultAlreadyExists, 0xc037010fu);
  EXPECT_EQ(kHresultAlreadyStopped, 0xc0370110u);
  EXPECT_EQ(kHresultInvalidState, 0x80370105u);
  EXPECT_EQ(kHresultNoProgram, 0x80070002u);
  EXPECT_EQ(kHresultCannotRun, 0x800700c1u);
}

// Each text is written by Ferry's agent, and understood by Ferry's host.

TEST(GoldenTest, Failure) {
  auto message = WithActivity<SimpleResponse>();
  message.result = -2147023728;  // 0x80070490
  message.error_message = "no process 7";
  message.error_records = {{.result = -2147467259,  // 0x80004005
                            .message = "it is gone",
                            .stack_trace = "main",
                            .module_name = "agent",
                            .file_name = "guest.cc",
                            .line = 12,
                            .function_name = "OnWait"}};
  const std::string text =
      R"({"Result":-2147023728,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
      R"("ErrorMessage":"no process 7","ErrorRecords":[{"Result":-2147467259,)"
      R"("Message":"it is gone","StackTrace":"main","ModuleName":"agent","FileName":"guest.cc",)"
      R"("Line":12,"FunctionName":"OnWait"}]})";
  EXPECT_EQ(Encode(message), text);
  const auto back = Decoded<SimpleResponse>(text);
  EXPECT_EQ(HResult(back.result), 0x80070490u);
  EXPECT_EQ(back.error_message, "no process 7");
  EXPECT_EQ(back.activity_id, kActivity);
  ASSERT_EQ(back.error_records.size(), 1u);
  const ErrorRecord& record = back.error_records[0];
  EXPECT_EQ(HResult(record.result), 0x80004005u);
  EXPECT_EQ(record.message, "it is gone");
  EXPECT_EQ(record.stack_trace, "main");
  EXPECT_EQ(record.module_name, "agent");
  EXPECT_EQ(record.file_name, "guest.cc");
  EXPECT_EQ(record.line, 12u);
  EXPECT_EQ(record.function_name, "OnWait");
}

TEST(GoldenTest, AnAgentsFailuresNameItsModule) {
  EXPECT_EQ(Encode(FailedResponse(kHresultBadJson, "no", kActivity)),
            R"({"Result":-1070137075,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
            R"("ErrorMessage":"no","ErrorRecords":[{"Result":-1070137075,"Message":"no",)"
            R"("StackTrace":"","ModuleName":"gcs","FileName":"","Line":0,"FunctionName":""}]})");
}

// One member is true at a time, so that no two names can be swapped.
std::string NegotiatedText(int member) {
  const auto is = [member](int number) { return member == number ? "true" : "false"; };
  return std::string(R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)") +
         R"("Version":4,"Capabilities":{"SendHostCreateMessage":)" + is(0) +
         R"(,"SendHostStartMessage":)" + is(1) + R"(,"HvSocketConfigOnStartup":)" + is(2) +
         R"(,"SendLifecycleNotifications":)" + is(3) + R"(,"ModifyServiceSettingsSupported":)" +
         is(4) + R"(,"SupportedSchemaVersions":[{"Major":2,"Minor":1}],"RuntimeOsType":"Linux",)" +
         R"("GuestDefinedCapabilities":{"NamespaceAddRequestSupported":)" + is(5) +
         R"(,"SignalProcessSupported":)" + is(6) + R"(,"DumpStacksSupported":)" + is(7) +
         R"(,"DeleteContainerStateSupported":)" + is(8) + R"(,"ResumableStdioSupported":)" + is(9) +
         R"(,"AcknowledgeExitSupported":)" + is(10) + R"(,"ContainersSupported":)" + is(11) +
         R"(,"ClockSupported":)" + is(12) + R"(,"RepeatedStartSupported":)" + is(13) +
         R"(,"FreezeSupported":)" + is(14) + R"(,"NetworkSupported":)" + is(15) +
         R"(,"DhcpSupported":)" + is(16) + "}}}";
}

TEST(GoldenTest, Capabilities) {
  constexpr int kMembers = 17;
  for (int member = 0; member < kMembers; ++member) {
    auto message = WithActivity<NegotiateResponse>();
    const auto members = [](NegotiateResponse* of) {
      Capabilities& all = of->capabilities;
      GuestDefinedCapabilities& guest = all.guest_defined;
      return std::vector<bool*>{&all.send_host_create_message,
                                &all.send_host_start_message,
                                &all.hv_socket_config_on_startup,
                                &all.send_lifecycle_notifications,
                                &all.modify_service_settings_supported,
                                &guest.namespace_add_request_supported,
                                &guest.signal_process_supported,
                                &guest.dump_stacks_supported,
                                &guest.delete_container_state_supported,
                                &guest.resumable_stdio_supported,
                                &guest.acknowledge_exit_supported,
                                &guest.containers_supported,
                                &guest.clock_supported,
                                &guest.repeated_start_supported,
                                &guest.freeze_supported,
                                &guest.network_supported,
                                &guest.dhcp_supported};
    };
    ASSERT_EQ(members(&message).size(), size_t{kMembers});
    message.version = 4;
    message.capabilities.supported_schema_versions = {{.major = 2, .minor = 1}};
    message.capabilities.runtime_os_type = "Linux";
    *members(&message)[member] = true;
    EXPECT_EQ(Encode(message), NegotiatedText(member));
    auto back = Decoded<NegotiateResponse>(NegotiatedText(member));
    EXPECT_EQ(back.version, 4u);
    EXPECT_EQ(back.capabilities.runtime_os_type, "Linux");
    ASSERT_EQ(back.capabilities.supported_schema_versions.size(), 1u);
    EXPECT_EQ(back.capabilities.supported_schema_versions[0].major, 2u);
    EXPECT_EQ(back.capabilities.supported_schema_versions[0].minor, 1u);
    for (int other = 0; other < kMembers; ++other) {
      EXPECT_EQ(*members(&back)[other], other == member) << member << " " << other;
    }
  }
}

TEST(GoldenTest, AnswerToExecuteProcess) {
  auto message = WithActivity<ExecuteProcessResponse>();
  message.process_id = 4711;
  const std::string text =
      R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100","ProcessId":4711})";
  EXPECT_EQ(Encode(message), text);
  EXPECT_EQ(Decoded<ExecuteProcessResponse>(text).process_id, 4711u);
}

TEST(GoldenTest, AnswerToWaitForProcess) {
  auto message = WithActivity<WaitForProcessResponse>();
  message.exit_code = 137;
  message.exit_signal = 9;
  const std::string text =
      R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100","ExitCode":137,)"
      R"("ExitSignal":9})";
  EXPECT_EQ(Encode(message), text);
  const auto back = Decoded<WaitForProcessResponse>(text);
  EXPECT_EQ(back.exit_code, 137u);
  EXPECT_EQ(back.exit_signal, 9u);
}

TEST(GoldenTest, AnswerToListProcesses) {
  auto message = WithActivity<ListProcessesResponse>();
  message.processes = {{.process_id = 1, .exited = false}, {.process_id = 2, .exited = true}};
  const std::string text =
      R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
      R"("Processes":[{"ProcessId":1,"Exited":false},{"ProcessId":2,"Exited":true}]})";
  EXPECT_EQ(Encode(message), text);
  const auto back = Decoded<ListProcessesResponse>(text);
  ASSERT_EQ(back.processes.size(), 2u);
  EXPECT_EQ(back.processes[1].process_id, 2u);
  EXPECT_FALSE(back.processes[0].exited);
  EXPECT_TRUE(back.processes[1].exited);
}

TEST(GoldenTest, AnswerToGetClock) {
  auto message = WithActivity<GetClockResponse>();
  message.unix_ns = 1'700'000'000'123'456'789;
  const std::string text = R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
                           R"("UnixNs":1700000000123456789})";
  EXPECT_EQ(Encode(message), text);
  EXPECT_EQ(Decoded<GetClockResponse>(text).unix_ns, 1'700'000'000'123'456'789u);
}

TEST(GoldenTest, AnswerToFreezeFilesystems) {
  auto message = WithActivity<FreezeFilesystemsResponse>();
  message.frozen = 3;
  const std::string text =
      R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100","Frozen":3})";
  EXPECT_EQ(Encode(message), text);
  EXPECT_EQ(Decoded<FreezeFilesystemsResponse>(text).frozen, 3u);
}

TEST(GoldenTest, AnswerToGetProperties) {
  auto message = WithActivity<GetPropertiesResponse>();
  message.properties = R"({"ProcessList":[]})";
  const std::string text = R"({"Result":0,"ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
                           R"("Properties":"{\"ProcessList\":[]}"})";
  EXPECT_EQ(Encode(message), text);
  EXPECT_EQ(Decoded<GetPropertiesResponse>(text).properties, message.properties);
}

TEST(GoldenTest, Notification) {
  auto message = WithActivity<ContainerNotification>();
  message.container_id = "c1";
  message.type = "UnexpectedExit";
  message.operation = "None";
  message.result = -1;
  message.result_info = "out of memory";
  const std::string text =
      R"({"ContainerId":"c1","ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
      R"("Type":"UnexpectedExit","Operation":"None","Result":-1,"ResultInfo":"out of memory"})";
  EXPECT_EQ(Encode(message), text);
  const auto back = Decoded<ContainerNotification>(text);
  EXPECT_EQ(back.container_id, "c1");
  EXPECT_EQ(back.activity_id, kActivity);
  EXPECT_EQ(back.type, "UnexpectedExit");
  EXPECT_EQ(back.operation, "None");
  EXPECT_EQ(back.result, -1);
  EXPECT_EQ(back.result_info, "out of memory");
}

// The other way: the host's texts end with a newline.

TEST(GoldenTest, Create) {
  auto message = WithActivity<CreateRequest>();
  message.container_id = "c1";
  message.container_config = R"({"OciBundlePath":"/b"})";
  const std::string text =
      R"({"ContainerId":"c1","ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
      R"("ContainerConfig":"{\"OciBundlePath\":\"/b\"}"})"
      "\n";
  EXPECT_EQ(Encode(message), text);
  const auto back = Decoded<CreateRequest>(text);
  EXPECT_EQ(back.container_id, "c1");
  EXPECT_EQ(back.activity_id, kActivity);
  EXPECT_EQ(back.container_config, message.container_config);
}

TEST(GoldenTest, ModifySettings) {
  auto message = WithActivity<ModifySettingsRequest>();
  message.request_type = "Remove";
  message.resource_type = "MappedDirectory";
  message.settings = R"({"MountPath":"/m"})";
  const std::string text =
      R"({"ContainerId":"00000000-0000-0000-0000-000000000000",)"
      R"("ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100","Request":{"RequestType":"Remove",)"
      R"("ResourceType":"MappedDirectory","Settings":{"MountPath":"/m"}}})"
      "\n";
  EXPECT_EQ(Encode(message), text);
  const auto back = Decoded<ModifySettingsRequest>(text);
  EXPECT_EQ(back.request_type, "Remove");
  EXPECT_EQ(back.resource_type, "MappedDirectory");
  EXPECT_EQ(back.settings, message.settings);
  // "Add" is what an absent type means.
  EXPECT_EQ(
      Decoded<ModifySettingsRequest>(R"({"Request":{"ResourceType":"Network"}})").request_type,
      "Add");
}

TEST(GoldenTest, GetProperties) {
  auto message = WithActivity<GetPropertiesRequest>();
  message.query = R"({"PropertyTypes":["ProcessList"]})";
  const std::string text = R"({"ContainerId":"00000000-0000-0000-0000-000000000000",)"
                           R"("ActivityId":"0f0e0d0c-0b0a-0908-0706-050403020100",)"
                           R"("Query":"{\"PropertyTypes\":[\"ProcessList\"]}"})"
                           "\n";
  EXPECT_EQ(Encode(message), text);
  EXPECT_EQ(Decoded<GetPropertiesRequest>(text).query, message.query);
}

// What Ferry's host sends has its literals in messages_test.cc; Ferry's agent understands them.
TEST(GoldenTest, OtherRequestsAsAForeignHostSendsThem) {
  const auto wait = Decoded<WaitForProcessRequest>(R"({"ProcessId":7,"TimeoutInMs":50})");
  EXPECT_EQ(wait.process_id, 7u);
  EXPECT_EQ(wait.timeout_ms, 50u);
  const auto signal = Decoded<SignalProcessRequest>(R"({"ProcessId":7,"Options":{"Signal":15}})");
  EXPECT_EQ(signal.process_id, 7u);
  EXPECT_EQ(signal.signal, 15u);
  const auto resize = Decoded<ResizeConsoleRequest>(R"({"ProcessId":7,"Height":25,"Width":80})");
  EXPECT_EQ(resize.height, 25u);
  EXPECT_EQ(resize.width, 80u);
  const auto negotiate =
      Decoded<NegotiateRequest>(R"({"MinimumVersion":3,"MaximumVersion":5,"otsc":{"a":"b"}})");
  EXPECT_EQ(negotiate.minimum_version, 3u);
  EXPECT_EQ(negotiate.maximum_version, 5u);
}

TEST(GoldenTest, ExecuteProcessAsAForeignHostSendsIt) {
  const auto exec = Decoded<ExecuteProcessRequest>(
      R"({"ContainerId":"c1","Settings":{"ProcessParameters":"{\"CommandLine\":\"a b\",)"
      R"(\"CommandArgs\":[\"a\",\"b\"],\"WorkingDirectory\":\"/w\",\"Environment\":{\"X\":\"1\"},)"
      R"(\"EmulateConsole\":true,\"CreateStdInPipe\":true,\"CreateInUtilityVM\":true,)"
      R"(\"OciSpecification\":{\"root\":{}},\"OciProcess\":{\"cwd\":\"/\"}}",)"
      R"("VsockStdioRelaySettings":{"StdIn":1073741825,"StdOut":1073741826,"StdErr":1073741827}}})");
  EXPECT_EQ(exec.container_id, "c1");
  EXPECT_EQ(exec.parameters.command_line, "a b");
  EXPECT_EQ(exec.parameters.command_args, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(exec.parameters.working_directory, "/w");
  EXPECT_EQ(exec.parameters.environment.at("X"), "1");
  EXPECT_TRUE(exec.parameters.emulate_console);
  EXPECT_TRUE(exec.parameters.create_stdin_pipe);
  EXPECT_FALSE(exec.parameters.create_stdout_pipe);
  EXPECT_FALSE(exec.parameters.create_stderr_pipe);
  EXPECT_TRUE(exec.parameters.create_in_utility_vm);
  EXPECT_EQ(exec.parameters.oci_specification, R"({"root":{}})");
  EXPECT_EQ(exec.parameters.oci_process, R"({"cwd":"/"})");
  EXPECT_EQ(exec.stdio.std_in, 0x40000001u);
  EXPECT_EQ(exec.stdio.std_out, 0x40000002u);
  EXPECT_EQ(exec.stdio.std_err, 0x40000003u);
  EXPECT_FALSE(exec.stdio.resumable);
  EXPECT_TRUE(Decoded<ExecuteProcessRequest>(
                  R"({"Settings":{"ProcessParameters":"{\"CreateStdOutPipe\":true}"}})")
                  .parameters.create_stdout_pipe);
  EXPECT_TRUE(Decoded<ExecuteProcessRequest>(
                  R"({"Settings":{"ProcessParameters":"{\"CreateStdErrPipe\":true}"}})")
                  .parameters.create_stderr_pipe);
}

}  // namespace
}  // namespace ferry::bridge
