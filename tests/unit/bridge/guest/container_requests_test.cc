#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "bridge/container/fake_container_runtime.h"
#include "bridge/container/fake_volumes.h"
#include "bridge/guest/orphan_reaper.h"
#include "tests/unit/bridge/guest/guest_server_fixture.h"
#include "tests/unit/bridge/guest/stdio_peers.h"

namespace ferry::bridge {
namespace {

const std::string kOne(64, '1');
const std::string kTwo(64, '2');
constexpr char kDisk[] = R"({"MountPath":"/run/layers/1","Controller":1,"Lun":3,"ReadOnly":true})";
constexpr char kLayers[] =
    R"({"ContainerRootPath":"/run/gcs/c/rootfs","Layers":[{"Id":"a","Path":"/run/layers/1"}]})";
constexpr char kProcess[] = R"({"args":["sh"],"cwd":"/"})";

std::string Calls(const std::vector<std::string>& calls) {
  std::string all;
  for (const std::string& call : calls) all += call.substr(0, call.find(" {")) + ";";
  return all;
}

// A server with containers that are plain children of the test.
class ContainerRequestsTest : public GuestServerTest {
 protected:
  ContainerRequestsTest() : runtime_(io_.get_executor()) {
    char name[] = "/tmp/ferry-cgroups-XXXXXX";
    cgroups_ = mkdtemp(name);
    GuestServer::Options options;
    options.shutdown_grace = milliseconds(20'000);
    options.containers = ContainerParts{&runtime_, &volumes_, cgroups_};
    server_ = std::make_shared<GuestServer>(io_.get_executor(), transport_, std::move(options));
  }

  ~ContainerRequestsTest() override {
    server_.reset();
    for (const pid_t child : ListChildren()) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    std::filesystem::remove_all(cgroups_);
  }

  FakeContainerRuntime runtime_;
  FakeVolumes volumes_;
  std::string cgroups_;
};

// One host that speaks of containers.
class ContainerClient {
 public:
  explicit ContainerClient(std::unique_ptr<Host> host) : host_(std::move(host)) {}

  static Task<std::unique_ptr<ContainerClient>> Connect(FakeGuestTransport* transport) {
    auto host = co_await Host::ConnectAndNegotiate(*transport);
    co_return std::make_unique<ContainerClient>(std::move(host));
  }

  Task<uint32_t> Create(std::string id, std::string more = "", bool terminal = false) {
    ContainerConfig config;
    config.oci_bundle_path = "/run/gcs/c/" + id.substr(0, 1);
    config.oci_specification = absl::StrCat(
        R"({"ociVersion":"1.0.2","process":{"args":["sh"],"terminal":)",
        terminal ? "true" : "false", R"(},"root":{"path":"/run/gcs/c/rootfs"})", more, "}");
    CreateRequest request;
    request.container_id = id;
    request.container_config = Encode(config);
    const auto answer = co_await host_->Call<SimpleResponse>(kCreate, 1, request);
    error = answer.error_message;
    co_return HResult(answer.result);
  }

  Task<ExecuteProcessResponse> Execute(std::string id, std::string process,
                                       StdioRelaySettings stdio = StdioRelaySettings()) {
    ExecuteProcessRequest request;
    request.container_id = id;
    request.parameters.oci_process = process;
    request.stdio = stdio;
    co_return co_await host_->Call<ExecuteProcessResponse>(kExecuteProcess, 2, request);
  }

  Task<uint32_t> Simple(uint32_t type, std::string id) {
    SimpleRequest request;
    request.container_id = id;
    const auto answer = co_await host_->Call<SimpleResponse>(type, 3, request);
    error = answer.error_message;
    co_return HResult(answer.result);
  }

  Task<uint32_t> Modify(std::string id, std::string type, std::string resource,
                        std::string settings) {
    ModifySettingsRequest request;
    request.container_id = id;
    request.request_type = type;
    request.resource_type = resource;
    request.settings = settings;
    const auto answer = co_await host_->Call<SimpleResponse>(kModifySettings, 4, request);
    error = answer.error_message;
    co_return HResult(answer.result);
  }

  Task<std::string> Properties(std::string id, std::string type) {
    GetPropertiesRequest request;
    request.container_id = id;
    request.query = absl::StrCat(R"({"PropertyTypes":[")", type, R"("]})");
    const auto answer = co_await host_->Call<GetPropertiesResponse>(kGetProperties, 5, request);
    if (answer.result != 0) co_return absl::StrCat("0x", absl::Hex(HResult(answer.result)));
    co_return answer.properties;
  }

  Task<uint32_t> Signal(uint32_t pid, uint32_t signal) {
    SignalProcessRequest request;
    request.process_id = pid;
    request.signal = signal;
    const auto answer = co_await host_->Call<SimpleResponse>(kSignalProcess, 6, request);
    co_return HResult(answer.result);
  }

  // The notification that a container has exited, which comes next.
  Task<ContainerNotification> Notification() {
    const Frame frame = co_await host_->Receive();
    EXPECT_EQ(frame.type, kContainerNotification);
    const auto notification = Decode<ContainerNotification>(frame.payload);
    EXPECT_TRUE(notification.ok()) << notification.status();
    co_return notification.ok() ? *notification : ContainerNotification();
  }

  Host& host() { return *host_; }
  std::string error;  // what the last answer said

 private:
  std::unique_ptr<Host> host_;
};

TEST_F(ContainerRequestsTest, AnnouncesContainers) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto host = co_await Host::Connect(*transport);
    const NegotiateRequest request;
    const auto answer = co_await host->Call<NegotiateResponse>(kNegotiateProtocol, 0, request);
    EXPECT_TRUE(answer.capabilities.guest_defined.containers_supported);
    EXPECT_TRUE(answer.capabilities.guest_defined.delete_container_state_supported);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, AContainersLifeFromCreatedToDeleted) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Properties(kOne, "State"), "0xc037010e");
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Create(kOne), kHresultAlreadyExists);
    EXPECT_NE(volumes->bundles["/run/gcs/c/1"].find("/containers/" + kOne), std::string::npos);
    EXPECT_EQ(co_await client->Simple(kStart, kOne), kHresultOk);
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"created"})");
    EXPECT_EQ(co_await client->Properties(kOne, "ProcessList"), R"({"ProcessList":[]})");
    const auto init = co_await client->Execute(kOne, "");
    EXPECT_EQ(HResult(init.result), kHresultOk) << init.error_message;
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"running"})");
    EXPECT_EQ(
        co_await client->Properties(kOne, "ProcessList"),
        absl::StrCat(R"({"ProcessList":[{"ProcessId":)", init.process_id, R"(,"Exited":false}]})"));
    const auto again = co_await client->Execute(kOne, "");
    EXPECT_EQ(HResult(again.result), kHresultInvalidState);
    EXPECT_EQ(co_await client->Simple(kDeleteContainerState, kOne), kHresultInvalidState);
    EXPECT_EQ(co_await client->Signal(init.process_id, SIGTERM), kHresultOk);
    const auto notification = co_await client->Notification();
    EXPECT_EQ(notification.container_id, kOne);
    EXPECT_EQ(notification.type, "GracefulExit");
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"stopped"})");
    EXPECT_EQ((co_await client->host().Wait(init.process_id)).exit_signal, 15u);
    EXPECT_EQ(co_await client->Simple(kDeleteContainerState, kOne), kHresultOk);
    EXPECT_EQ(co_await client->Simple(kDeleteContainerState, kOne), kHresultContainerNotFound);
    EXPECT_TRUE(volumes->bundles.empty());
    // Deleted, and its exit is still to be had.
    EXPECT_EQ((co_await client->host().Wait(init.process_id)).exit_signal, 15u);
    EXPECT_EQ(Calls(runtime->calls), "create 1 /run/gcs/c/1;start 1;delete 1;");
  };
  Run(test(&transport_, &runtime_, &volumes_));
}

TEST_F(ContainerRequestsTest, BytesGoBothWaysThroughTheInitAndThroughExecs) {
  runtime_.init_script = "exec cat";
  runtime_.exec_script = "echo out; echo err >&2; exit 7";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    StdioRelaySettings stdio;
    stdio.std_in = kIn;
    stdio.std_out = kOut;
    stdio.resumable = true;
    const auto init = co_await client->Execute(kOne, "", stdio);
    StdioRelaySettings exec_stdio;
    exec_stdio.std_out = kErr;
    exec_stdio.resumable = true;
    const auto exec = co_await client->Execute(kOne, kProcess, exec_stdio);
    OutputReader exec_out(transport, kErr);
    co_await ReadOutput(&exec_out);
    EXPECT_EQ(exec_out.data, "out\n");
    const auto exited = co_await client->host().Wait(exec.process_id);
    EXPECT_EQ(exited.exit_code, 7u);
    InputWriter in(transport, kIn, "through the init", true);
    OutputReader out(transport, kOut);
    TaskScope scope(co_await asio::this_coro::executor);
    scope.Spawn(WriteInput(&in));
    co_await ReadOutput(&out);
    EXPECT_EQ(out.data, "through the init");
    EXPECT_EQ((co_await client->Notification()).type, "UnexpectedExit");
    EXPECT_EQ((co_await client->host().Wait(init.process_id)).exit_code, 0u);
    co_await scope.CancelAndJoin();
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, OutputThatNobodyWantsDoesNotBlockTheProcess) {
  runtime_.init_script = "head -c 1000000 /dev/zero; exit 3";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto init = co_await client->Execute(kOne, "");
    EXPECT_EQ((co_await client->Notification()).container_id, kOne);
    EXPECT_EQ((co_await client->host().Wait(init.process_id)).exit_code, 3u);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, AContainersProcessIsCollectedAtOnceAndItsExitIsKept) {
  runtime_.exec_script = "exit 4";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    co_await client->Execute(kOne, "");
    const auto exec = co_await client->Execute(kOne, kProcess);
    EXPECT_EQ((co_await client->host().Wait(exec.process_id)).exit_code, 4u);
    // No zombie, which would keep the init of its pid namespace from ending.
    EXPECT_NE(kill(static_cast<pid_t>(exec.process_id), 0), 0);
    EXPECT_EQ((co_await client->host().Wait(exec.process_id)).exit_code, 4u);
    AcknowledgeExitRequest acknowledge;
    acknowledge.process_id = exec.process_id;
    co_await client->host().Call<SimpleResponse>(kAcknowledgeExit, 7, acknowledge);
    const auto gone = co_await client->host().Wait(exec.process_id);
    EXPECT_EQ(HResult(gone.result), kHresultProcessNotFound);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, TheReaperTakesNothingWhileTheRuntimeRuns) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 GuestServer* server) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_FALSE(server->Owns(4'000'000));
    runtime->go().Reset();
    CreateRequest create;
    create.container_id = kOne;
    ContainerConfig config;
    config.oci_bundle_path = "/run/gcs/c/1";
    config.oci_specification =
        R"({"ociVersion":"1","process":{"args":["sh"]},"root":{"path":"/r"}})";
    create.container_config = Encode(config);
    co_await client->host().Send(kCreate, 11, create);
    // Answered behind the one that waits.
    const SimpleRequest list;
    co_await client->host().Call<ListProcessesResponse>(kListProcesses, 12, list);
    EXPECT_TRUE(server->Owns(4'000'000));
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"created"})");
    EXPECT_EQ(co_await client->Simple(kDeleteContainerState, kOne), kHresultInvalidState);
    runtime->go().Set();
    EXPECT_EQ((co_await client->host().Receive()).id, 11);
    EXPECT_FALSE(server->Owns(4'000'000));
    for (const pid_t child : ListChildren()) {
      EXPECT_TRUE(server->Owns(static_cast<uint32_t>(child)));
    }
  };
  Run(test(&transport_, &runtime_, server_.get()));
}

TEST_F(ContainerRequestsTest, APausedContainerTakesNoExecUntilItIsResumed) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kOne), kHresultInvalidState);
    co_await client->Execute(kOne, "");
    EXPECT_EQ(co_await client->Simple(kResumeContainer, kOne), kHresultInvalidState);
    runtime->failures["pause"] = absl::InternalError("crun: no freezer");
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kOne), kHresultFailed);
    EXPECT_EQ(client->error, "crun: no freezer");
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"running"})");
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kOne), kHresultOk);
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"paused"})");
    const auto refused = co_await client->Execute(kOne, kProcess);
    EXPECT_EQ(HResult(refused.result), kHresultInvalidState);
    EXPECT_EQ(co_await client->Simple(kResumeContainer, kOne), kHresultOk);
    const auto exec = co_await client->Execute(kOne, kProcess);
    EXPECT_EQ(HResult(exec.result), kHresultOk) << exec.error_message;
  };
  Run(test(&transport_, &runtime_));
}

TEST_F(ContainerRequestsTest, AFailureToCreateLeavesNothing) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    runtime->failures["create"] = absl::InternalError("crun: no such command");
    EXPECT_EQ(co_await client->Create(kOne), kHresultFailed);
    EXPECT_EQ(client->error, "crun: no such command");
    EXPECT_TRUE(volumes->bundles.empty());
    EXPECT_EQ(co_await client->Properties(kOne, "State"), "0xc037010e");
    EXPECT_EQ(Calls(runtime->calls), "create 1 /run/gcs/c/1;delete 1;");
    EXPECT_EQ(co_await client->Create("../../etc"), kHresultInvalidArgument);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
  };
  Run(test(&transport_, &runtime_, &volumes_));
}

TEST_F(ContainerRequestsTest, ATerminalIsDecidedWhenTheContainerIsCreated) {
  runtime_.init_script = "stty size; exec sleep 1000";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne, "", /*terminal=*/true), kHresultOk);
    const auto without = co_await client->Execute(kOne, "");
    EXPECT_EQ(HResult(without.result), kHresultInvalidArgument);
    ExecuteProcessRequest request;
    request.container_id = kOne;
    request.parameters.emulate_console = true;
    request.stdio.std_out = kOut;
    const auto init =
        co_await client->host().Call<ExecuteProcessResponse>(kExecuteProcess, 2, request);
    EXPECT_EQ(HResult(init.result), kHresultOk) << init.error_message;
    auto out = co_await transport->Accept(kOut);
    char buffer[16];
    const absl::StatusOr<size_t> got = co_await out->Read(buffer);
    EXPECT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(std::string(buffer, got.value_or(0)), "0 0\r\n");
    ResizeConsoleRequest resize;
    resize.process_id = init.process_id;
    resize.height = 50;
    resize.width = 132;
    const auto resized = co_await client->host().Call<SimpleResponse>(kResizeConsole, 8, resize);
    EXPECT_EQ(HResult(resized.result), kHresultOk) << resized.error_message;
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, APodsContainersJoinTheSandboxThatRuns) {
  auto test = [](FakeGuestTransport* transport, FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    const std::string pod =
        absl::StrCat(R"(,"annotations":{"io.kubernetes.cri.container-type":"container",)",
                     R"("io.kubernetes.cri.sandbox-id":")", kOne, R"("})");
    EXPECT_EQ(co_await client->Create(kTwo, pod), kHresultInvalidState);
    EXPECT_NE(client->error.find("does not run"), std::string::npos) << client->error;
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto sandbox = co_await client->Execute(kOne, "");
    EXPECT_EQ(co_await client->Create(kTwo, pod), kHresultOk);
    const std::string path = absl::StrCat("/proc/", sandbox.process_id, "/ns/net");
    EXPECT_NE(volumes->bundles["/run/gcs/c/2"].find(path), std::string::npos)
        << volumes->bundles["/run/gcs/c/2"];
  };
  Run(test(&transport_, &volumes_));
}

TEST_F(ContainerRequestsTest, DisksAndLayersGoToTheVolumes) {
  auto test = [](FakeGuestTransport* transport, FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "MappedVirtualDisk", kDisk), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "CombinedLayers", kLayers), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "CombinedLayers", kLayers), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "MappedVirtualDisk", kDisk), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "SCSIDevice", R"({"Lun":3})"),
              kHresultOk);
    EXPECT_EQ(Calls(volumes->calls),
              "await 1:3;mount 1:3 /run/layers/1;combine 1 /run/gcs/c/rootfs;"
              "unmount /run/gcs/c/rootfs;unmount /run/layers/1;remove 0:3;");
    volumes->disk_status = absl::NotFoundError("there is no SCSI controller 1; the VM has 0");
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "MappedVirtualDisk", kDisk),
              kHresultFailed);
    EXPECT_EQ(client->error, "there is no SCSI controller 1; the VM has 0");
  };
  Run(test(&transport_, &volumes_));
}

TEST_F(ContainerRequestsTest, UnknownResourcesAndRequestsAreErrors) {
  auto test = [](FakeGuestTransport* transport, FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "VPMemDevice", "{}"),
              kHresultInvalidArgument);
    EXPECT_EQ(client->error, "cannot Add a resource 'VPMemDevice'");
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "SCSIDevice", R"({"Lun":3})"),
              kHresultInvalidArgument);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Update", "MappedVirtualDisk", kDisk),
              kHresultInvalidArgument);
    EXPECT_EQ(
        co_await client->Modify(kNullGuid, "Add", "MappedVirtualDisk", R"({"MountPath":"../x"})"),
        kHresultInvalidArgument);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kOne, "Add", "MappedVirtualDisk", kDisk),
              kHresultInvalidArgument);
    EXPECT_TRUE(volumes->calls.empty());
  };
  Run(test(&transport_, &volumes_));
}

TEST_F(ContainerRequestsTest, ConstraintsGoToTheRuntimeAndLimitsToTheCgroup) {
  std::filesystem::create_directories(cgroups_ + "/containers");
  std::ofstream(cgroups_ + "/cgroup.subtree_control") << "";
  std::ofstream(cgroups_ + "/containers/memory.max") << "";
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Modify(kOne, "Update", "ContainerConstraints", R"({"Linux":{}})"),
              kHresultContainerNotFound);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kOne, "Update", "ContainerConstraints",
                                      R"({"Linux":{"memory":{"limit":4096}}})"),
              kHresultOk);
    EXPECT_EQ(runtime->calls.back(), R"(update 1 {"memory":{"limit":4096}})");
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Update", "PodCgroupMemoryLimit",
                                      R"({"MemoryLimitInBytes":65536})"),
              kHresultOk);
  };
  Run(test(&transport_, &runtime_));
  std::string limit;
  std::getline(std::ifstream(cgroups_ + "/containers/memory.max"), limit);
  EXPECT_EQ(limit, "65536");
}

TEST_F(ContainerRequestsTest, StatisticsComeFromTheContainersCgroup) {
  std::filesystem::create_directories(cgroups_ + "/containers/" + kOne);
  std::ofstream(cgroups_ + "/containers/" + kOne + "/memory.current") << "4242\n";
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const std::string text = co_await client->Properties(kOne, "Statistics");
    const auto properties = Decode<ContainerProperties>(text);
    EXPECT_TRUE(properties.ok() && properties->metrics.has_value()) << text;
    if (!properties.ok() || !properties->metrics.has_value()) co_return;
    EXPECT_EQ(properties->metrics->memory_usage, 4242u);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, AShutdownOfAContainerEndsItsInitAlone) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Simple(kShutdownForced, kOne), kHresultContainerNotFound);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Create(kTwo), kHresultOk);
    co_await client->Execute(kOne, "");
    co_await client->Execute(kTwo, "");
    EXPECT_EQ(co_await client->Simple(kShutdownForced, kOne), kHresultOk);
    const auto notification = co_await client->Notification();
    EXPECT_EQ(notification.container_id, kOne);
    EXPECT_EQ(notification.type, "ForcedExit");
    EXPECT_EQ(co_await client->Simple(kShutdownGraceful, kOne), kHresultAlreadyStopped);
    EXPECT_EQ(co_await client->Properties(kTwo, "State"), R"({"State":"running"})");
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, TheVmsShutdownEndsContainersInEveryState) {
  auto test = [](FakeGuestTransport* transport, FakeContainerRuntime* runtime,
                 AsyncEvent* ended) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Create(kTwo), kHresultOk);
    const auto init = co_await client->Execute(kTwo, "");
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kTwo), kHresultOk);
    SimpleRequest request;
    co_await client->host().Send(kShutdownGraceful, 9, request);
    co_await ended->Wait();
    EXPECT_EQ(runtime->calls.back(), "resume 2");
    EXPECT_NE(kill(static_cast<pid_t>(init.process_id), 0), 0);
  };
  Run(test(&transport_, &runtime_, &ended_));
  EXPECT_EQ(end_, GuestServer::End::kShutdownGraceful);
}

}  // namespace
}  // namespace ferry::bridge
