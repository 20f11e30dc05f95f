#pragma once

#include <gmock/gmock.h>
#include <grpcpp/channel.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ferry/v1/guest.grpc.pb.h"
#include "ferry/v1/host.grpc.pb.h"
#include "ferry/v1/vm.grpc.pb.h"
#include "tests/unit/bridge/task_test.h"
#include "tests/unit/vmmanager/next_step.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/sandbox/fake_host.h"
#include "vmmanager/service/guest_service.h"
#include "vmmanager/service/host_service.h"
#include "vmmanager/service/vm_service.h"

namespace ferry::vm {

using ::testing::HasSubstr;
using VmAsync = v1::VmService::StubInterface::async_interface;
using GuestAsync = v1::GuestService::StubInterface::async_interface;
using HostAsync = v1::HostService::StubInterface::async_interface;
using AttachClient = rpc::StreamOwner<rpc::ClientBidiStream<v1::AttachRequest, v1::AttachResponse>>;

// The host's services on a Unix socket, and clients of them.
class ServiceTest : public TaskTest {
 protected:
  ServiceTest() { Serve("s", {&vm_service_, &guest_service_, &host_service_}); }

  // From now on calls go to these; what served before was shut down.
  void Serve(const std::string& socket, const std::vector<grpc::Service*>& services) {
    rpc::ServerOptions options;
    options.unix_socket = folder_.path() + "/" + socket;
    auto server = rpc::Server::Start(options, services);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto channel = *rpc::MakeChannel("unix:" + options.unix_socket, {});
    vms_ = v1::VmService::NewStub(channel);
    processes_ = v1::GuestService::NewStub(channel);
    hosts_ = v1::HostService::NewStub(channel);
  }

  void TearDown() override {
    Await(host_.Stop());
    Await(server_->Shutdown(milliseconds(0)));
    // gRPC's threads tell the io context how these ended, perhaps long after their server is gone.
    for (const auto& ended : calls_) Await(ended());
    Settle();
  }

  // Has the test wait for the end of this call before it ends itself.
  template <typename Stream>
  rpc::StreamOwner<Stream> Remember(rpc::StreamOwner<Stream> call) {
    calls_.push_back([stream = call.shared()]() -> Task<void> {
      stream->Cancel();
      (void)co_await stream->Finish();
    });
    return call;
  }

  template <typename Async, typename Request, typename Response>
  absl::StatusOr<Response> Call(std::type_identity_t<Async>* async,
                                void (Async::*method)(grpc::ClientContext*, const Request*,
                                                      Response*, std::function<void(grpc::Status)>),
                                const std::type_identity_t<Request>& request) {
    return Await(rpc::CallUnary(async, method, request, milliseconds(60'000)));
  }

  absl::StatusOr<v1::Vm> Create(const std::string& name) {
    v1::CreateVmRequest request;
    request.mutable_spec()->set_name(name);
    return Call(vms_->async(), &VmAsync::CreateVm, request);
  }
  absl::StatusOr<v1::Vm> Start(const std::string& name) {
    v1::StartVmRequest request;
    request.set_vm(name);
    return Call(vms_->async(), &VmAsync::StartVm, request);
  }
  absl::StatusOr<v1::Vm> Stop(const std::string& name, bool force = false,
                              uint32_t timeout_ms = 0) {
    v1::StopVmRequest request;
    request.set_vm(name);
    request.set_force(force);
    request.set_timeout_ms(timeout_ms);
    return Call(vms_->async(), &VmAsync::StopVm, request);
  }
  static v1::DeleteVmRequest Removal(const std::string& name) {
    v1::DeleteVmRequest request;
    request.set_vm(name);
    return request;
  }
  static v1::VmRef Ref(const std::string& name) {
    v1::VmRef ref;
    ref.set_vm(name);
    return ref;
  }

  absl::StatusOr<v1::Process> Exec(const std::vector<std::string>& command) {
    v1::CreateProcessRequest request;
    request.set_vm("web");
    for (const std::string& word : command) request.mutable_spec()->add_command(word);
    request.mutable_spec()->set_has_stdin(true);
    return Call(processes_->async(), &GuestAsync::CreateProcess, request);
  }
  // A running VM and a process in it that wants stdin.
  v1::Process BootWithProcess() {
    EXPECT_TRUE(Create("web").ok());
    EXPECT_TRUE(Start("web").ok());
    auto process = Exec({"cat"});
    EXPECT_TRUE(process.ok()) << process.status();
    return *process;
  }
  std::shared_ptr<UtilityVm> Vm() { return *host_.inventory->Find("web"); }
  guest::FakeAgent& Agent() { return guests_.Agent(Vm()->id()); }

  AttachClient OpenAttach() {
    return Remember(rpc::OpenBidi(io_.get_executor(), processes_->async(), &GuestAsync::Attach));
  }
  // Opens and says what is wanted.
  AttachClient Attach(uint32_t pid, const std::string& attachment_id = "client-1",
                      bool steal = false) {
    AttachClient client = OpenAttach();
    v1::AttachRequest request;
    request.mutable_open()->set_vm("web");
    request.mutable_open()->set_process_id(pid);
    request.mutable_open()->set_attachment_id(attachment_id);
    request.mutable_open()->set_steal(steal);
    client->Write(request);
    return client;
  }
  std::optional<v1::AttachResponse> Read(AttachClient& client) { return Await(client->Read()); }
  // Reads until a message of that kind; the others are dropped.
  v1::AttachResponse ReadUntil(AttachClient& client, v1::AttachResponse::MessageCase kind) {
    while (auto message = Read(client)) {
      if (message->message_case() == kind) return *message;
    }
    ADD_FAILURE() << "the call ended: " << Await(client->Finish());
    return {};
  }
  // How a call ends that nobody ends from here.
  absl::Status End(AttachClient& client) {
    while (Read(client).has_value()) {
    }
    return Await(client->Finish());
  }

  TestFolder folder_;
  FakeGuests guests_{io_.get_executor()};
  FakeHost host_{io_.get_executor(), "host-a:1", folder_.path(), guests_};
  ImageDigests digests_{host_.reads};
  SavedStates saves_{*host_.inventory,
                     nullptr,
                     digests_,
                     {.folder = folder_.path() + "/saved", .socket_folder = folder_.path()}};
  VmService vm_service_{*host_.inventory, saves_};
  GuestService guest_service_{*host_.inventory};
  HostService host_service_{*host_.inventory, {"1.2.3", {{"bridge", 4}}}};
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::VmService::Stub> vms_;
  std::unique_ptr<v1::GuestService::Stub> processes_;
  std::unique_ptr<v1::HostService::Stub> hosts_;

 private:
  std::vector<std::function<Task<void>()>> calls_;
};

}  // namespace ferry::vm
