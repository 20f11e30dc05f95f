#include <fstream>

#include "tests/unit/bridge/guest/container_fixture.h"

namespace ferry::bridge {
namespace {

constexpr char kDisk[] = R"({"MountPath":"/run/layers/1","Controller":1,"Lun":3,"ReadOnly":true})";
constexpr char kFolder[] = R"({"MountPath":"/run/gcs/s/0","ShareName":"share","ReadOnly":true})";
constexpr char kLayers[] =
    R"({"ContainerRootPath":"/run/gcs/c/rootfs","Layers":[{"Id":"a","Path":"/run/layers/1"}]})";
// Not in coroutines: GCC 12 miscompiles initializer lists there.
constexpr const char* kOutside[] = {"/etc", "/run/gcs/c", "/run/gcs/copy/1"};
constexpr const char* kNotApart[] = {"/run/gcs/c/pod/1", "/run/gcs/c/pod", "/run/gcs/c/pod/1/in"};
constexpr const char* kNoUpdate[] = {"Add", "Remove", "PreAdd"};
constexpr const char* kNoLimit[] = {"Remove", "PreAdd"};

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
    EXPECT_EQ(notification.activity_id, kActivity);
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
    // What was frozen of it goes on.
    EXPECT_EQ(runtime->calls.back(), "resume 1");
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"running"})");
    runtime->failures["pause"] = absl::InternalError("crun: no freezer");
    runtime->failures["resume"] = absl::InternalError("crun: no freezer");
    EXPECT_EQ(co_await client->Simple(kPauseContainer, kOne), kHresultFailed);
    EXPECT_EQ(co_await client->Properties(kOne, "State"), R"({"State":"paused"})");
    EXPECT_EQ(co_await client->Simple(kResumeContainer, kOne), kHresultOk);
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
    // The mounts in there are not its own.
    EXPECT_EQ(Calls(volumes->calls), "find names /run/gcs/c/rootfs;");
    EXPECT_EQ(co_await client->Properties(kOne, "State"), "0xc037010e");
    EXPECT_EQ(Calls(runtime->calls), "create 1 /run/gcs/c/1;delete 1;");
    runtime->failures["create"] =
        WithRunFailure(absl::InternalError("no sh"), RunFailure::kNoProgram);
    EXPECT_EQ(co_await client->Create(kOne), kHresultNoProgram);
    EXPECT_EQ(co_await client->Create("../../etc"), kHresultInvalidArgument);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
  };
  Run(test(&transport_, &runtime_, &volumes_));
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
    EXPECT_EQ(co_await client->Create(kTwo, pod), kHresultOk);
    // Not by its init's number, which another process may have by the time it is looked at.
    const std::string path = absl::StrCat(R"({"type":"network","path":"/proc/)", getpid(), "/fd/");
    EXPECT_NE(volumes->bundles["/run/gcs/c/2"].find(path), std::string::npos)
        << volumes->bundles["/run/gcs/c/2"];
  };
  Run(test(&transport_, &volumes_));
}

TEST_F(ContainerRequestsTest, DisksAndLayersGoToTheVolumes) {
  auto test = [](FakeGuestTransport* transport, FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "MappedVirtualDisk", kDisk), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Update", "MappedVirtualDisk", kDisk), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "CombinedLayers", kLayers), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "CombinedLayers", kLayers), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "MappedVirtualDisk", kDisk), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "SCSIDevice", R"({"Lun":3})"),
              kHresultOk);
    EXPECT_EQ(Calls(volumes->calls),
              "await 1:3;mount 1:3 /run/layers/1;grow /run/layers/1;combine 1 /run/gcs/c/rootfs;"
              "unmount /run/gcs/c/rootfs;unmount /run/layers/1;remove 0:3;");
    volumes->calls.clear();
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "MappedDirectory", kFolder), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Remove", "MappedDirectory", kFolder), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Update", "MappedDirectory", kFolder),
              kHresultInvalidArgument);
    EXPECT_EQ(Calls(volumes->calls), "mount share ro /run/gcs/s/0;unmount /run/gcs/s/0;");
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
    EXPECT_EQ(co_await client->Modify(kNullGuid, "PreAdd", "MappedVirtualDisk", kDisk),
              kHresultInvalidArgument);
    EXPECT_EQ(
        co_await client->Modify(kNullGuid, "Add", "MappedVirtualDisk", R"({"MountPath":"../x"})"),
        kHresultInvalidArgument);
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    EXPECT_EQ(co_await client->Modify(kOne, "Add", "MappedVirtualDisk", kDisk),
              kHresultInvalidArgument);
    for (const char* type : kNoUpdate) {
      EXPECT_EQ(co_await client->Modify(kOne, type, "ContainerConstraints", R"({"Linux":{}})"),
                kHresultInvalidArgument);
    }
    for (const char* type : kNoLimit) {
      EXPECT_EQ(co_await client->Modify(kNullGuid, type, "PodCgroupMemoryLimit", "{}"),
                kHresultInvalidArgument);
    }
    EXPECT_EQ(Calls(volumes->calls), "find names /run/gcs/c/rootfs;");
  };
  Run(test(&transport_, &volumes_));
}

TEST_F(ContainerRequestsTest, ATextInsideARequestThatIsNoJsonIsSaidToBeNone) {
  auto test = [](FakeGuestTransport* transport) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    CreateRequest create;
    create.container_id = kOne;
    create.container_config = "nonsense";
    EXPECT_EQ(co_await client->Send(create), kHresultBadJson);
    EXPECT_EQ(co_await client->Modify(kNullGuid, "Add", "MappedVirtualDisk", "nonsense"),
              kHresultBadJson);
    EXPECT_EQ(client->error, "Settings is no JSON object");
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    const auto exec = co_await client->Execute(kOne, "nonsense");
    EXPECT_EQ(HResult(exec.result), kHresultBadJson);
  };
  Run(test(&transport_));
}

TEST_F(ContainerRequestsTest, EachContainersBundleIsApartFromTheOthers) {
  auto test = [](FakeGuestTransport* transport, FakeVolumes* volumes) -> Task<void> {
    auto client = co_await ContainerClient::Connect(transport);
    for (const char* bundle : kOutside) {
      client->bundle = bundle;
      EXPECT_EQ(co_await client->Create(kOne), kHresultInvalidArgument) << bundle;
    }
    client->bundle = "/run/gcs/c/pod/1";
    EXPECT_EQ(co_await client->Create(kOne), kHresultOk);
    for (const char* bundle : kNotApart) {
      client->bundle = bundle;
      EXPECT_EQ(co_await client->Create(kTwo), kHresultInvalidState) << bundle;
    }
    EXPECT_EQ(volumes->bundles.size(), 1u);
    client->bundle = "/run/gcs/c/pod/12";
    EXPECT_EQ(co_await client->Create(kTwo), kHresultOk) << client->error;
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

}  // namespace
}  // namespace ferry::bridge
