#include "vmmanager/service/container_service.h"

#include <grpcpp/channel.h>

#include "ferry/v1/container.grpc.pb.h"
#include "tests/unit/vmmanager/containers/containers_fixture.h"
#include "tests/unit/vmmanager/identity/test_authority.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/service/guest_service.h"

namespace ferry::vm {
namespace {

using ContainerAsync = v1::ContainerService::StubInterface::async_interface;
using GuestAsync = v1::GuestService::StubInterface::async_interface;

class ContainerServiceTest : public ContainersTest {
 protected:
  ContainerServiceTest() {
    rpc::ServerOptions options;
    options.unix_socket = folder_.path() + "/s";
    server_ = *rpc::Server::Start(options, {&service_, &guest_service_});
    const auto channel = *rpc::MakeChannel("unix:" + options.unix_socket, {});
    stub_ = v1::ContainerService::NewStub(channel);
    processes_ = v1::GuestService::NewStub(channel);
  }
  void TearDown() override {
    Await(server_->Shutdown(milliseconds(0)));
    ContainersTest::TearDown();
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(void (ContainerAsync::*method)(grpc::ClientContext*, const Request*,
                                                               Response*,
                                                               std::function<void(grpc::Status)>),
                                const std::type_identity_t<Request>& request) {
    return Await(rpc::CallUnary(stub_->async(), method, request, milliseconds(60'000)));
  }
  static v1::ContainerRef Ref(const std::string& container) {
    v1::ContainerRef ref;
    ref.set_container(container);
    return ref;
  }

  ContainerService service_{*containers_};
  GuestService guest_service_{*host_.inventory, containers_.get()};
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::ContainerService::Stub> stub_;
  std::unique_ptr<v1::GuestService::Stub> processes_;
};

TEST_F(ContainerServiceTest, CarriesAContainerThroughItsLife) {
  const auto vm = Boot("vm");
  auto made = Call(&ContainerAsync::CreateContainer, Request("vm", "one"));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->state(), v1::CONTAINER_STATE_CREATED);
  EXPECT_EQ(made->vm_id(), vm->id());
  EXPECT_EQ(Call(&ContainerAsync::StartContainer, Ref("one"))->state(),
            v1::CONTAINER_STATE_RUNNING);
  EXPECT_EQ(Call(&ContainerAsync::PauseContainer, Ref("one"))->state(), v1::CONTAINER_STATE_PAUSED);
  EXPECT_EQ(Call(&ContainerAsync::ResumeContainer, Ref(made->id().substr(0, 12)))->state(),
            v1::CONTAINER_STATE_RUNNING);
  v1::UpdateContainerRequest update;
  *update.mutable_ref() = Ref("one");
  update.mutable_limits()->set_pids(9);
  EXPECT_EQ(Call(&ContainerAsync::UpdateContainer, update)->spec().limits().pids(), 9u);
  FakeContainerGuest& guest = Guest(vm->id());
  guest.metrics.io = {{8, 0, 1, 2, 0, 0}, {8, 16, 10, 20, 0, 0}};
  guest.metrics.memory_limit = 5;
  const auto stats = Call(&ContainerAsync::GetContainerStats, Ref("one"));
  EXPECT_EQ(stats->read_bytes(), 11u);
  EXPECT_EQ(stats->written_bytes(), 22u);
  EXPECT_EQ(stats->memory_limit_bytes(), 5u);
  EXPECT_FALSE(stats->has_pids_limit());
  v1::StopContainerRequest stop;
  *stop.mutable_ref() = Ref("one");
  EXPECT_EQ(Call(&ContainerAsync::StopContainer, stop)->exit_status().signal(), 15u);
  EXPECT_EQ(Call(&ContainerAsync::GetContainer, Ref("one"))->layers_size(), 2);
  v1::RemoveContainerRequest remove;
  *remove.mutable_ref() = Ref("one");
  EXPECT_TRUE(Call(&ContainerAsync::RemoveContainer, remove).ok());
  EXPECT_EQ(Call(&ContainerAsync::GetContainer, Ref("one")).status().code(),
            absl::StatusCode::kNotFound);
  ExpectNothingLeft(vm->id());
}

TEST_F(ContainerServiceTest, ListsWhatRunsOrAllOfOneVmOrOfAll) {
  Boot("vm");
  Boot("vm2");
  Exit(*Run(Request("vm", "one")), 0);
  Run(Request("vm", "two"));
  Run(Request("vm2", "three"));
  const auto names = [&](const std::string& vm, bool all) {
    v1::ListContainersRequest request;
    request.set_vm(vm);
    request.set_all(all);
    std::vector<std::string> found;
    const auto list = Call(&ContainerAsync::ListContainers, request);
    EXPECT_TRUE(list.ok()) << list.status();
    for (const v1::Container& container : list->containers()) {
      EXPECT_EQ(container.layers_size(), 0);
      found.push_back(container.spec().name());
    }
    return found;
  };
  EXPECT_THAT(names("", false), testing::UnorderedElementsAre("two", "three"));
  EXPECT_THAT(names("", true), testing::UnorderedElementsAre("one", "two", "three"));
  EXPECT_THAT(names("vm", true), testing::UnorderedElementsAre("one", "two"));
  v1::ListContainersRequest unknown;
  unknown.set_vm("none");
  EXPECT_EQ(Call(&ContainerAsync::ListContainers, unknown).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ContainerServiceTest, AListTellsNothingThatMayBeLong) {
  Boot("vm");
  auto request = Request("vm", "one");
  request.mutable_spec()->add_command(std::string(10'000, 'c'));
  request.mutable_spec()->add_environment("A=" + std::string(5'000, 'e'));
  request.mutable_spec()->set_detached(true);
  (*request.mutable_spec()->mutable_labels())["team"] = "a";
  Make(request);
  const auto list = Call(&ContainerAsync::ListContainers, {});
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->containers_size(), 1);
  EXPECT_LT(list->ByteSizeLong(), 1'000u);
  EXPECT_EQ(list->containers(0).spec().image(), "web");
  EXPECT_TRUE(list->containers(0).spec().detached());
  const auto whole = Call(&ContainerAsync::GetContainer, Ref("one"));
  EXPECT_EQ(whole->spec().environment_size(), 1);
  EXPECT_EQ(whole->spec().labels().at("team"), "a");
}

TEST_F(ContainerServiceTest, WhoMayOnlyLookSeesNoEnvironment) {
  const auto vm = Boot("vm");
  auto create = Request("vm", "one");
  create.mutable_spec()->add_environment("PASSWORD=x");
  Make(create);
  v1::CreateProcessRequest exec;
  exec.set_vm("vm");
  exec.mutable_spec()->add_command("ls");
  (*exec.mutable_spec()->mutable_environment())["PASSWORD"] = "x";
  ASSERT_TRUE(Await(rpc::CallUnary(processes_->async(), &GuestAsync::CreateProcess, exec,
                                   milliseconds(60'000)))
                  .ok());
  identity::TestAuthority authority;
  ContainerService containers(*containers_);
  GuestService guests(*host_.inventory, containers_.get());
  rpc::ServerOptions options;
  options.tcp_addresses = {"127.0.0.1:0"};
  options.tls = *identity::CertificateFiles::Open(authority.Issue("host", {identity::Role::kPeer}));
  const auto server = *rpc::Server::Start(options, {&containers, &guests});
  for (const auto& [role, sees] :
       {std::pair(identity::Role::kViewer, false), std::pair(identity::Role::kOperator, true)}) {
    const auto channel =
        *rpc::MakeChannel(server->tcp_addresses()[0], authority.Issue("caller", {role}));
    const auto stub = v1::ContainerService::NewStub(channel);
    const auto told = Await(rpc::CallUnary(stub->async(), &ContainerAsync::GetContainer, Ref("one"),
                                           milliseconds(60'000)));
    ASSERT_TRUE(told.ok()) << told.status();
    EXPECT_EQ(told->spec().environment_size() == 1, sees);
    const auto processes = v1::GuestService::NewStub(channel);
    v1::ListProcessesRequest list;
    list.set_vm("vm");
    const auto listed = Await(
        rpc::CallUnary(processes->async(), &GuestAsync::ListProcesses, list, milliseconds(60'000)));
    ASSERT_TRUE(listed.ok()) << listed.status();
    EXPECT_EQ(listed->processes(0).spec().environment_size() == 1, sees);
  }
  Await(server->Shutdown(milliseconds(0)));
}

TEST_F(ContainerServiceTest, AProcessThatWasMadeIsFoundAgainWhenItsContainerHasStopped) {
  Boot("vm");
  const auto container = Run(Request("vm", "one"));
  v1::CreateProcessRequest request;
  request.set_vm("vm");
  request.mutable_spec()->add_command("ls");
  request.mutable_spec()->set_container("one");
  request.set_request_id("r1");
  const auto exec = [&] {
    return Await(rpc::CallUnary(processes_->async(), &GuestAsync::CreateProcess, request,
                                milliseconds(60'000)));
  };
  const auto process = exec();
  ASSERT_TRUE(process.ok()) << process.status();
  Exit(*container, 0);
  const auto again = exec();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->id(), process->id());
  request.set_request_id("r2");
  EXPECT_EQ(exec().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ContainerServiceTest, WhyAProgramWasNotRunIsTheReason) {
  const auto vm = Boot("vm");
  Run(Request("vm", "one"));
  v1::CreateProcessRequest request;
  request.set_vm("vm");
  request.mutable_spec()->add_command("ls");
  request.mutable_spec()->set_container("one");
  for (const auto& [number, reason] : {std::pair(bridge::kHresultNoProgram, "no_program"),
                                       std::pair(bridge::kHresultCannotRun, "cannot_run"),
                                       std::pair(bridge::kHresultFailed, "guest_failed")}) {
    guests_.Agent(vm->id()).refusals[bridge::kExecuteProcess] = number;
    const absl::Status refused =
        Await(rpc::CallUnary(processes_->async(), &GuestAsync::CreateProcess, request,
                             milliseconds(60'000)))
            .status();
    EXPECT_EQ(rpc::ReasonOf(refused), reason);
    EXPECT_FALSE(NextStepOf(refused).empty());
  }
}

TEST_F(ContainerServiceTest, ACallerThatLeavesCallsItOff) {
  const auto vm = Boot("vm");
  FakeContainerGuest& guest = Guest(vm->id());
  guest.blocks_at = "create";
  auto leave = [](ContainerAsync* stub, v1::CreateContainerRequest request,
                  FakeContainerGuest* guest) -> Task<bool> {
    using asio::experimental::awaitable_operators::operator||;
    auto creating = rpc::CallUnary(stub, &ContainerAsync::CreateContainer, std::move(request),
                                   milliseconds(60'000));
    auto first = co_await (std::move(creating) || guest->blocked.Wait());
    co_return first.index() == 1;
  };
  auto request = Request("vm", "one");
  request.set_request_id("r1");
  ASSERT_TRUE(Await(leave(stub_->async(), request, &guest)));
  // The server hears of it by itself.
  Until([&] { return !containers_->IsAwaited("r1"); });
  guest.go_on.Set();
  Until([&] { return guest.empty() && store_->Pins().empty(); });
  ExpectNothingLeft(vm->id());
}

TEST_F(ContainerServiceTest, ProcessesRunInRunningContainersOnly) {
  Boot("vm");
  Make(Request("vm", "one"));
  v1::CreateProcessRequest request;
  request.set_vm("vm");
  request.mutable_spec()->add_command("ls");
  request.mutable_spec()->set_container("one");
  const auto exec = [&] {
    return Await(rpc::CallUnary(processes_->async(), &GuestAsync::CreateProcess, request,
                                milliseconds(60'000)));
  };
  const absl::Status created = exec().status();
  EXPECT_EQ(created.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(NextStepOf(created), HasSubstr("ferryctl container start one"));
  request.mutable_spec()->set_container("two");
  EXPECT_EQ(exec().status().code(), absl::StatusCode::kNotFound);
  request.mutable_spec()->clear_container();
  request.mutable_spec()->set_user("root");
  EXPECT_EQ(exec().status().code(), absl::StatusCode::kInvalidArgument);
  request.mutable_spec()->set_container("one");
  ASSERT_TRUE(Await((*containers_->Find("one", ""))->Start()).ok());
  const auto process = exec();
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(process->spec().container(), (*containers_->Find("one", ""))->id());
  EXPECT_EQ(process->spec().user(), "root");
}

}  // namespace
}  // namespace ferry::vm
