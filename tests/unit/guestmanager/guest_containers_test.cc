#include "guestmanager/guest_containers.h"

#include "bridge/protocol/run_failure.h"
#include "tests/unit/guestmanager/guest_fixture.h"

namespace ferry::guest {
namespace {

using ::testing::HasSubstr;

const std::string kId(64, 'a');

class GuestContainersTest : public GuestTest {
 protected:
  absl::Status Ask(Task<absl::Status> task) {
    auto result = Start(std::move(task));
    EXPECT_TRUE(result->has_value());
    return result->has_value() ? **result : absl::InternalError("it waits");
  }
  const bridge::Frame& Last() { return agent_->received.back(); }
  bridge::ModifySettingsRequest LastModify() {
    EXPECT_EQ(Last().type, bridge::kModifySettings);
    return *bridge::Decode<bridge::ModifySettingsRequest>(Last().payload);
  }
  GuestContainers& host() { return guest_->container_host(); }
  static ProcessSpec Init() {
    ProcessSpec spec;
    spec.container_id = kId;
    spec.command = {"serve"};
    spec.has_stdin = true;
    return spec;
  }
  std::shared_ptr<Process> StartInit() {
    auto process = Start(guest_->StartContainer(Init()));
    EXPECT_TRUE(process->has_value() && (*process)->ok()) << (*process)->status();
    return **std::move(*process);
  }
};

TEST_F(GuestContainersTest, CreateSaysWhatTheAgentWantsToKnow) {
  Ready();
  NewContainer container{kId, "/run/gcs/c/one", R"({"ociVersion":"1.0.2"})"};
  ASSERT_TRUE(Ask(host().Create(container)).ok());
  EXPECT_EQ(Last().type, bridge::kCreate);
  const auto request = *bridge::Decode<bridge::CreateRequest>(Last().payload);
  EXPECT_EQ(request.container_id, kId);
  const auto config = *bridge::Decode<bridge::ContainerConfig>(request.container_config);
  EXPECT_EQ(config.oci_bundle_path, "/run/gcs/c/one");
  EXPECT_THAT(config.oci_specification, HasSubstr("1.0.2"));
}

TEST_F(GuestContainersTest, VerbsNameTheContainerAndResourcesTheVm) {
  Ready();
  ASSERT_TRUE(Ask(host().Pause(kId)).ok());
  EXPECT_EQ(Last().type, bridge::kPauseContainer);
  ASSERT_TRUE(Ask(host().Resume(kId)).ok());
  EXPECT_EQ(Last().type, bridge::kResumeContainer);
  ASSERT_TRUE(Ask(host().Delete(kId)).ok());
  EXPECT_EQ(Last().type, bridge::kDeleteContainerState);
  EXPECT_EQ(bridge::Decode<bridge::SimpleRequest>(Last().payload)->container_id, kId);
  ASSERT_TRUE(Ask(host().Update(kId, "{}")).ok());
  EXPECT_EQ(LastModify().container_id, kId);
  EXPECT_EQ(LastModify().resource_type, bridge::kResourceContainerConstraints);
  bridge::MappedVirtualDisk disk;
  disk.mount_path = "/run/gcs/l/0-1";
  disk.lun = 1;
  ASSERT_TRUE(Ask(host().AddDisk(disk)).ok());
  EXPECT_EQ(LastModify().container_id, bridge::kNullGuid);
  EXPECT_EQ(LastModify().request_type, "Add");
  ASSERT_TRUE(Ask(host().GrowDisk(disk)).ok());
  EXPECT_EQ(LastModify().request_type, "Update");
  EXPECT_EQ(LastModify().resource_type, bridge::kResourceMappedVirtualDisk);
  ASSERT_TRUE(Ask(host().RemoveDisk(disk)).ok());
  EXPECT_EQ(LastModify().request_type, "Remove");
  ASSERT_TRUE(Ask(host().EjectDisk({0, 1})).ok());
  EXPECT_EQ(LastModify().resource_type, bridge::kResourceScsiDevice);
  bridge::CombinedLayers layers;
  layers.container_root_path = "/run/gcs/c/one/rootfs";
  ASSERT_TRUE(Ask(host().CombineLayers(layers)).ok());
  EXPECT_EQ(LastModify().resource_type, bridge::kResourceCombinedLayers);
  ASSERT_TRUE(Ask(host().SeparateLayers(layers)).ok());
  EXPECT_EQ(LastModify().request_type, "Remove");
}

TEST_F(GuestContainersTest, RefusalsMeanWhatTheirNumberSays) {
  Ready();
  const std::map<uint32_t, absl::StatusCode> meanings{
      {bridge::kHresultContainerNotFound, absl::StatusCode::kNotFound},
      {bridge::kHresultAlreadyExists, absl::StatusCode::kAlreadyExists},
      {bridge::kHresultInvalidState, absl::StatusCode::kFailedPrecondition},
      {bridge::kHresultInvalidArgument, absl::StatusCode::kInvalidArgument},
      {bridge::kHresultNotImplemented, absl::StatusCode::kUnimplemented},
      {bridge::kHresultNoProgram, absl::StatusCode::kFailedPrecondition},
      {bridge::kHresultCannotRun, absl::StatusCode::kFailedPrecondition},
      {bridge::kHresultFailed, absl::StatusCode::kUnknown}};
  for (const auto& [hresult, code] : meanings) {
    agent_->refusals[bridge::kPauseContainer] = hresult;
    const absl::Status refused = Ask(host().Pause(kId));
    EXPECT_EQ(refused.code(), code) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("could not pause the container"));
    EXPECT_EQ(bridge::RunFailureOf(refused), bridge::RunFailureOf(hresult));
  }
}

TEST_F(GuestContainersTest, AnAgentWithoutANumberForItSaysInWordsThatAProgramWasNotRun) {
  bridge::SimpleResponse answer;
  answer.result = static_cast<int32_t>(bridge::kHresultFailed);
  const auto told = [&answer](const char* message) {
    answer.error_message = message;
    return FromAgent(answer, "start it");
  };
  const absl::Status absent = told("crun: executable file `x` not found in $PATH");
  EXPECT_EQ(absent.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(bridge::RunFailureOf(absent), bridge::RunFailure::kNoProgram);
  EXPECT_EQ(bridge::RunFailureOf(told("crun: open executable: Permission denied")),
            bridge::RunFailure::kCannotRun);
  for (const char* message : {"crun: mount `/proc`: No such file or directory", "",
                              "executable file `x` not found in $PATH"}) {
    EXPECT_EQ(told(message).code(), absl::StatusCode::kUnknown);
    EXPECT_EQ(bridge::RunFailureOf(told(message)), std::nullopt) << message;
  }
}

TEST_F(GuestContainersTest, AnAgentWithoutContainersIsNotAsked) {
  agent_->containers = false;
  Ready();
  const absl::Status refused = Ask(host().Pause(kId));
  EXPECT_TRUE(absl::IsUnimplemented(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("newer"));
  EXPECT_EQ(agent_->CountReceived(bridge::kPauseContainer), 0);
  auto started = Start(guest_->StartContainer(Init()));
  EXPECT_TRUE(absl::IsUnimplemented((*started)->status()));
}

TEST_F(GuestContainersTest, WithoutALinkItIsUnavailable) {
  EXPECT_TRUE(absl::IsUnavailable(Ask(host().Pause(kId))));
}

TEST_F(GuestContainersTest, TheInitIsAProcessLikeAllOthers) {
  Ready();
  const auto init = StartInit();
  const auto& request = agent_->processes.at(init->pid()).request;
  EXPECT_EQ(request.container_id, kId);
  EXPECT_EQ(request.parameters.oci_process, "");
  EXPECT_FALSE(request.parameters.create_in_utility_vm);
  EXPECT_NE(request.stdio.std_in, 0u);
  TestSink sink;
  const auto attachment = Attach(*init, sink);
  agent_->Write(init->pid(), false, "hello");
  agent_->EndOutput(init->pid());
  agent_->Exit(init->pid(), 3);
  Settle();
  EXPECT_EQ(sink.out, "hello");
  EXPECT_EQ(sink.exited, (ExitStatus{ExitStatus::Kind::kCode, 3}));
}

TEST_F(GuestContainersTest, AnotherProcessTellsTheRuntimeMore) {
  Ready();
  ProcessSpec spec = Init();
  auto process = Start(guest_->CreateProcess(spec, "", R"({"args":["serve"]})"));
  ASSERT_TRUE(process->has_value() && (*process)->ok());
  const auto& request = agent_->processes.at((***process)->pid()).request;
  EXPECT_EQ(request.container_id, kId);
  EXPECT_THAT(request.parameters.oci_process, HasSubstr("serve"));
  // Without it the agent would take it for the init, and with it the VM has no such process.
  auto init = Start(guest_->CreateProcess(spec));
  EXPECT_TRUE(absl::IsInvalidArgument((*init)->status()));
  spec.container_id.clear();
  auto in_vm = Start(guest_->CreateProcess(spec, "", "{}"));
  EXPECT_TRUE(absl::IsInvalidArgument((*in_vm)->status()));
  EXPECT_TRUE(absl::IsInvalidArgument((*Start(guest_->StartContainer(spec)))->status()));
}

TEST_F(GuestContainersTest, ProcessesComeBackInTheirContainerAfterAMove) {
  Ready();
  const uint32_t pid = StartInit()->pid();
  Migrate();
  const auto found = moved_->Find(pid);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->spec().container_id, kId);
}

TEST_F(GuestContainersTest, ARefusedStartLeavesNoProcess) {
  Ready();
  agent_->refusals[bridge::kExecuteProcess] = bridge::kHresultInvalidState;
  auto started = Start(guest_->StartContainer(Init()));
  EXPECT_TRUE(absl::IsFailedPrecondition((*started)->status())) << (*started)->status();
  EXPECT_TRUE(guest_->processes().empty());
}

}  // namespace
}  // namespace ferry::guest
