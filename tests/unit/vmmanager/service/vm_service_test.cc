#include "vmmanager/service/vm_service.h"

#include "tests/unit/vmmanager/service/service_fixture.h"

namespace ferry::vm {
namespace {

class VmServiceTest : public ServiceTest {};

TEST_F(VmServiceTest, CarriesTheLifeOfAVm) {
  auto created = Create("web");
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_EQ(created->state(), v1::VM_STATE_STOPPED);
  EXPECT_EQ(created->spec().memory_mb(), 256u);
  EXPECT_FALSE(created->machine_document_json().empty());
  auto started = Start(created->id());
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(Call(vms_->async(), &VmAsync::PauseVm, Ref("web"))->state(), v1::VM_STATE_PAUSED);
  EXPECT_EQ(Call(vms_->async(), &VmAsync::ResumeVm, Ref("web"))->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(Stop("web")->state(), v1::VM_STATE_STOPPED);
  EXPECT_TRUE(Call(vms_->async(), &VmAsync::DeleteVm, Removal("web")).ok());
  EXPECT_EQ(Call(vms_->async(), &VmAsync::GetVm, Ref("web")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(VmServiceTest, ListsWithoutDocuments) {
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("b").ok());
  auto list = Call(vms_->async(), &VmAsync::ListVms, {});
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->vms_size(), 2);
  EXPECT_TRUE(list->vms(0).machine_document_json().empty());
}

TEST_F(VmServiceTest, OneVmIsToldWithWhatItsGuestHasByDhcp) {
  v1::CreateVmRequest request;
  request.mutable_spec()->set_name("web");
  v1::NicSpec* nic = request.mutable_spec()->add_nics();
  nic->set_bridge("br0");
  nic->set_dhcp(true);
  ASSERT_TRUE(Call(vms_->async(), &VmAsync::CreateVm, request).ok());
  const auto leases = [this] { return Call(vms_->async(), &VmAsync::GetVm, Ref("web"))->leases(); };
  EXPECT_EQ(leases().size(), 0);
  ASSERT_TRUE(Start("web").ok());
  EXPECT_EQ(leases().size(), 0) << "the agent says something else";
  Agent().properties =
      R"({"NetworkLeases":[{"ID":"eth0","Address":"192.0.2.50/24","Gateway":"192.0.2.1",)"
      R"("NameServers":["192.0.2.2"],"Server":"192.0.2.1"}]})";
  ASSERT_EQ(leases().size(), 1);
  EXPECT_EQ(leases()[0].address(), "192.0.2.50/24");
  EXPECT_EQ(leases()[0].name_servers(0), "192.0.2.2");
  // A guest that is slow to tell loses nothing by it.
  Agent().ignored.insert(bridge::kGetProperties);
  EXPECT_EQ(leases().size(), 0);
  EXPECT_EQ(Agent().CountReceived(bridge::kNegotiateProtocol), 1);
  EXPECT_TRUE(Vm()->guest()->ready());
}

TEST_F(VmServiceTest, RestartBootsAgain) {
  BootWithProcess();
  EXPECT_EQ(Call(vms_->async(), &VmAsync::GetVm, Ref("web"))->processes(), 1u);
  v1::StopVmRequest request;
  request.set_vm("web");
  auto vm = Call(vms_->async(), &VmAsync::RestartVm, request);
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
  EXPECT_EQ(vm->processes(), 0u);
}

TEST_F(VmServiceTest, ARestartNeverSaves) {
  BootWithProcess();
  v1::StopVmRequest request;
  request.set_vm("web");
  request.set_save(true);
  auto vm = Call(vms_->async(), &VmAsync::RestartVm, request);
  EXPECT_EQ(vm.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Call(vms_->async(), &VmAsync::GetVm, Ref("web"))->processes(), 1u);
}

TEST_F(VmServiceTest, NothingIsPausedForACallerThatLeftDuringASwitchover) {
  BootWithProcess();
  ASSERT_TRUE(Vm()->OpenMigration("session-1", "host-b:1").ok());
  Vm()->FreezeGuest();
  const auto late =
      Await(rpc::CallUnary(vms_->async(), &VmAsync::PauseVm, Ref("web"), milliseconds(50)));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  // One that comes now, over the same connection, is answered after the daemon has learnt that.
  const auto next =
      Await(rpc::CallUnary(vms_->async(), &VmAsync::ResumeVm, Ref("web"), milliseconds(50)));
  EXPECT_EQ(next.status().code(), absl::StatusCode::kDeadlineExceeded);
  Vm()->ReturnFromMigration(1);
  EXPECT_EQ(Call(vms_->async(), &VmAsync::GetVm, Ref("web"))->state(), v1::VM_STATE_RUNNING);
  Settle();
  EXPECT_EQ(Vm()->state(), v1::VM_STATE_RUNNING);
}

TEST_F(VmServiceTest, RefusalsKeepTheirCodes) {
  EXPECT_EQ(Create("not a name").status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Create("web").ok());
  EXPECT_EQ(Create("web").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Start("db").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Stop("db").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Call(vms_->async(), &VmAsync::PauseVm, Ref("web")).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Start("web").ok());
  const absl::Status running = Call(vms_->async(), &VmAsync::DeleteVm, Removal("web")).status();
  EXPECT_EQ(running.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(NextStepOf(running), HasSubstr("ferryctl stop web"));
  guests_.obey = false;
  const absl::Status late = Stop("web", false, 10).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Stop("web", true).ok());
}

TEST_F(VmServiceTest, PropertiesComeAsJson) {
  ASSERT_TRUE(Create("web").ok());
  ASSERT_TRUE(Start("web").ok());
  v1::GetPropertiesRequest request;
  request.set_vm("web");
  request.add_types("CompatibilityInfo");
  auto properties = Call(vms_->async(), &VmAsync::GetProperties, request);
  ASSERT_TRUE(properties.ok()) << properties.status();
  EXPECT_THAT(properties->properties_json(), HasSubstr("\"CompatibilityInfo\""));
  request.set_types(0, "Weight");
  const absl::Status unknown = Call(vms_->async(), &VmAsync::GetProperties, request).status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(unknown.message(), HasSubstr("\"Weight\""));
}

TEST_F(VmServiceTest, HostDescribesItself) {
  auto host = Call(hosts_->async(), &HostAsync::GetHost, {});
  ASSERT_TRUE(host.ok());
  EXPECT_EQ(host->version(), "1.2.3");
  EXPECT_EQ(host->advertised_address(), "host-a:1");
  EXPECT_EQ(host->backend(), "fake");
  EXPECT_EQ(host->journal_id(), host_.store.journal_id());
}

TEST_F(VmServiceTest, EventsGoOnAfterTheLastSeen) {
  ASSERT_TRUE(Create("web").ok());
  ASSERT_TRUE(Start("web").ok());
  auto types = [&](uint64_t since) {
    v1::WatchEventsRequest request;
    request.set_since(since);
    auto stream =
        rpc::OpenRead(io_.get_executor(), hosts_->async(), &HostAsync::WatchEvents, request);
    std::vector<std::string> seen;
    while (auto event = Await(stream->Read())) seen.push_back(event->type());
    EXPECT_TRUE(Await(stream->Finish()).ok());
    return seen;
  };
  EXPECT_THAT(types(0), ::testing::ElementsAre("vm.created", "vm.starting", "vm.started"));
  EXPECT_THAT(types(2), ::testing::ElementsAre("vm.started"));
}

TEST_F(VmServiceTest, EventsAreFollowed) {
  v1::WatchEventsRequest request;
  request.set_follow(true);
  auto stream = Remember(
      rpc::OpenRead(io_.get_executor(), hosts_->async(), &HostAsync::WatchEvents, request));
  auto first = Begin(stream->Read());
  ASSERT_TRUE(Create("web").ok());
  auto event = Finish(first);
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->type(), "vm.created");
  EXPECT_EQ(event->attributes().at("name"), "web");
}

}  // namespace
}  // namespace ferry::vm
