#include "migration/service/migration_service.h"

#include <grpcpp/channel.h>

#include "migration/service/grpc_peer_client.h"
#include "tests/unit/migration/controller/controller_fixture.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/server.h"

namespace ferry::migration {
namespace {

using Async = v1::MigrationService::StubInterface::async_interface;

PeerFactory GrpcPeers() {
  return [](const std::string& address) { return MakeGrpcPeerClient(address, {}); };
}

// A host whose MigrationService is served on a Unix socket, which is its address.
struct ServedHost {
  ServedHost(Executor executor, const std::string& folder, vm::FakeGuests& guests)
      : inner(executor, "unix:" + folder + "/s", folder, guests, GrpcPeers()),
        preflight(*inner.deps, *inner.sessions, {}),
        service(*inner.sessions, preflight, executor) {
    rpc::ServerOptions options;
    options.unix_socket = folder + "/s";
    server = *rpc::Server::Start(options, {&service});
    stub = v1::MigrationService::NewStub(*rpc::MakeChannel(address(), {}));
  }
  const std::string& address() const { return inner.host.settings.advertised_address; }

  MigrationHost inner;
  Preflight preflight;
  MigrationService service;
  std::unique_ptr<rpc::Server> server;
  std::unique_ptr<v1::MigrationService::Stub> stub;
};

class MigrationServiceTest : public TaskTest {
 protected:
  void TearDown() override {
    for (ServedHost* host : {&a_, &b_}) Await(host->inner.sessions->Shutdown());
    for (ServedHost* host : {&a_, &b_}) {
      host->inner.listener->Close();
      host->inner.handoff->Close();
      Await(host->inner.host.Stop());
      Await(host->server->Shutdown(milliseconds(0)));
    }
    Settle();
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(ServedHost& host,
                                void (Async::*method)(grpc::ClientContext*, const Request*,
                                                      Response*, std::function<void(grpc::Status)>),
                                const std::type_identity_t<Request>& request) {
    return Await(rpc::CallUnary(host.stub->async(), method, request, milliseconds(60'000)));
  }

  template <typename Request>
  static Request For(const std::string& id) {
    Request request;
    request.set_session_id(id);
    return request;
  }

  absl::StatusOr<v1::Session> Migrate(const std::string& destination) {
    v1::MigrateRequest request;
    request.set_vm("web");
    request.set_destination(destination);
    return Call(a_, &Async::Migrate, request);
  }

  std::vector<v1::NotificationsResponse> Notifications(const std::string& id, uint32_t after) {
    auto request = For<v1::NotificationsRequest>(id);
    request.set_after_message_id(after);
    auto stream =
        rpc::OpenRead(io_.get_executor(), a_.stub->async(), &Async::Notifications, request);
    std::vector<v1::NotificationsResponse> all;
    while (auto message = Await(stream->Read())) all.push_back(*std::move(message));
    EXPECT_TRUE(Await(stream->Finish()).ok());
    return all;
  }

  TestFolder folder_;
  vm::FakeGuests guests_{io_.get_executor()};
  ServedHost a_{io_.get_executor(), folder_.Make("a"), guests_};
  ServedHost b_{io_.get_executor(), folder_.Make("b"), guests_};
};

TEST_F(MigrationServiceTest, MigratesBetweenTwoDaemonsAndNotifiesToTheEnd) {
  ASSERT_TRUE(Await(a_.inner.host.Boot("web")).ok());
  auto session = Migrate(b_.address());
  ASSERT_TRUE(session.ok()) << session.status();
  const auto all = Notifications(session->session_id(), 0);
  ASSERT_GE(all.size(), 5u);
  EXPECT_EQ(all.back().notification().phase(), v1::MIGRATION_PHASE_DONE);
  EXPECT_EQ(Notifications(session->session_id(), 3).front().message_id(), 4u);
  auto shown = Call(a_, &Async::GetSession, For<v1::GetSessionRequest>(session->session_id()));
  ASSERT_TRUE(shown.ok()) << shown.status();
  EXPECT_EQ(shown->vm_location(), b_.address());
  EXPECT_TRUE(shown->done());
  EXPECT_TRUE(b_.inner.host.inventory->Find("web").ok());
  EXPECT_EQ(Call(a_, &Async::ListSessions, {})->sessions_size(), 1);
  v1::ListSessionsRequest other;
  other.set_vm("db");
  EXPECT_EQ(Call(a_, &Async::ListSessions, other)->sessions_size(), 0);
}

TEST_F(MigrationServiceTest, ASubscriberThatDoesNotReadIsToldSoAndLosesNothing) {
  ASSERT_TRUE(Await(a_.inner.host.Boot("web")).ok());
  auto prepare = For<v1::PrepareAndExportSandboxRequest>("s1");
  prepare.set_vm("web");
  prepare.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  ASSERT_TRUE(Call(a_, &Async::PrepareAndExportSandbox, prepare).ok());
  auto notifier = *Await(a_.inner.sessions->Notifications("s1"));
  auto request = For<v1::NotificationsRequest>("s1");
  auto stream = rpc::OpenRead(io_.get_executor(), a_.stub->async(), &Async::Notifications, request);
  Until([&] { return notifier->has_subscribers(); });
  // Nobody reads; publishing goes on all the same, until the daemon has enough of it.
  v1::Notification large;
  large.set_message(std::string(4096, 'x'));
  uint32_t published = 0;
  while (notifier->has_subscribers() && published < 100'000) {
    published = notifier->Publish(large);
    Settle();
  }
  ASSERT_FALSE(notifier->has_subscribers()) << "after " << published;
  uint32_t seen = 0;
  while (auto message = Await(stream->Read())) {
    EXPECT_EQ(message->message_id(), ++seen);
  }
  const absl::Status ended = Await(stream->Finish());
  EXPECT_EQ(ended.code(), absl::StatusCode::kResourceExhausted) << ended;
  auto info = rpc::GetErrorInfo(ended);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "subscriber_too_slow");
  EXPECT_NE(info->next_step(), "");
  ASSERT_LT(seen, published);
  // It comes back with the last id that it saw.
  request.set_after_message_id(seen);
  auto again = rpc::OpenRead(io_.get_executor(), a_.stub->async(), &Async::Notifications, request);
  while (seen < published) {
    auto message = Await(again->Read());
    ASSERT_TRUE(message.has_value());
    EXPECT_EQ(message->message_id(), ++seen);
  }
  again->Cancel();
  (void)Await(again->Finish());
}

TEST_F(MigrationServiceTest, NotificationsOfASessionThatIsARecordAreTheSame) {
  ASSERT_TRUE(Await(a_.inner.host.Boot("web")).ok());
  const std::string id = Migrate(b_.address())->session_id();
  const auto lively = Notifications(id, 0);
  ASSERT_TRUE(Call(a_, &Async::Cleanup, For<v1::CleanupRequest>(id)).ok());
  const auto kept = Notifications(id, 0);
  ASSERT_EQ(kept.size(), lively.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i].SerializeAsString(), lively[i].SerializeAsString());
  }
}

TEST_F(MigrationServiceTest, CarriesEachCallOfADrivenMigration) {
  ASSERT_TRUE(Await(a_.inner.host.Boot("web")).ok());
  auto prepare = For<v1::PrepareAndExportSandboxRequest>("s1");
  prepare.set_vm("web");
  prepare.set_destination(b_.address());
  prepare.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  auto plan = Call(a_, &Async::PrepareAndExportSandbox, prepare);
  ASSERT_TRUE(plan.ok()) << plan.status();
  auto import = For<v1::ImportSandboxRequest>("s1");
  import.set_config(plan->config());
  ASSERT_TRUE(Call(b_, &Async::ImportSandbox, import).ok());
  auto there = For<v1::PrepareSandboxRequest>("s1");
  *there.mutable_init_options() = prepare.options();
  auto prepared = Call(b_, &Async::PrepareSandbox, there);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  auto transfer = For<v1::TransferSandboxRequest>("s1");
  ASSERT_TRUE(Call(b_, &Async::TransferSandbox, transfer).ok());
  transfer.set_session_address(prepared->session_address());
  transfer.set_session_token(prepared->session_token());
  ASSERT_TRUE(Call(a_, &Async::TransferSandbox, transfer).ok());
  Until([&] {
    return a_.inner.sessions->Describe("s1")->state() == v1::SESSION_STATE_TRANSFER_COMPLETED;
  });
  auto finalize = For<v1::FinalizeSandboxRequest>("s1");
  finalize.set_action(v1::FINALIZE_ACTION_STOP);
  auto go = Call(a_, &Async::FinalizeSandbox, finalize);
  ASSERT_TRUE(go.ok()) << go.status();
  auto resume = For<v1::FinalizeSandboxRequest>("s1");
  resume.set_action(v1::FINALIZE_ACTION_RESUME);
  resume.set_proof(go->proof());
  auto done = Call(b_, &Async::FinalizeSandbox, resume);
  ASSERT_TRUE(done.ok()) << done.status();
  finalize.set_proof(done->proof());
  EXPECT_TRUE(Call(a_, &Async::FinalizeSandbox, finalize).ok());
  for (ServedHost* host : {&a_, &b_}) {
    EXPECT_TRUE(Call(*host, &Async::Cleanup, For<v1::CleanupRequest>("s1")).ok());
  }
}

TEST_F(MigrationServiceTest, ErrorsCarryTheirCodeAndWhatToDo) {
  EXPECT_EQ(Migrate(b_.address()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Call(a_, &Async::Cancel, For<v1::CancelRequest>("s1")).status().code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE(Await(a_.inner.host.Boot("web")).ok());
  EXPECT_EQ(Migrate("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Migrate("not an address").status().code(), absl::StatusCode::kInvalidArgument);
  auto prepare = For<v1::PrepareAndExportSandboxRequest>("s1");
  prepare.set_vm("web");
  prepare.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  ASSERT_TRUE(Call(a_, &Async::PrepareAndExportSandbox, prepare).ok());
  auto finalize = For<v1::FinalizeSandboxRequest>("s1");
  EXPECT_EQ(Call(a_, &Async::FinalizeSandbox, finalize).status().code(),
            absl::StatusCode::kInvalidArgument);
  finalize.set_action(v1::FINALIZE_ACTION_STOP);
  const absl::Status early = Call(a_, &Async::FinalizeSandbox, finalize).status();
  EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition);
  auto info = rpc::GetErrorInfo(early);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->side(), v1::ErrorInfo::SIDE_SOURCE);
  EXPECT_EQ(info->session_id(), "s1");
  EXPECT_EQ(info->vm_location(), a_.address());
  auto socket = For<v1::CreateDuplicateSocketRequest>("s1");
  socket.set_protocol_info("short");
  EXPECT_EQ(Call(a_, &Async::CreateDuplicateSocket, socket).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Call(a_, &Async::Cancel, For<v1::CancelRequest>("s1")).ok());
}

TEST_F(MigrationServiceTest, UnreachableDestinationLeavesTheVmRunning) {
  auto vm = *Await(a_.inner.host.Boot("web"));
  auto session = Migrate("unix:" + folder_.path() + "/nobody");
  ASSERT_TRUE(session.ok()) << session.status();
  Notifications(session->session_id(), 0);
  auto shown = Call(a_, &Async::GetSession, For<v1::GetSessionRequest>(session->session_id()));
  EXPECT_NE(shown->error(), "");
  EXPECT_EQ(shown->vm_location(), a_.address());
  EXPECT_EQ(vm->state(), v1::VM_STATE_RUNNING);
}

TEST_F(MigrationServiceTest, AProcesssSocketIsNamedOnlyOnTheDaemonsHost) {
  ASSERT_TRUE(Await(a_.inner.host.Boot("web")).ok());
  auto prepare = For<v1::PrepareAndExportSandboxRequest>("s1");
  prepare.set_vm("web");
  prepare.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  ASSERT_TRUE(Call(a_, &Async::PrepareAndExportSandbox, prepare).ok());
  auto duplicate = For<v1::CreateDuplicateSocketRequest>("s1");
  duplicate.mutable_process_socket()->set_pid(::getppid());
  duplicate.mutable_process_socket()->set_fd(99999);
  EXPECT_EQ(Call(a_, &Async::CreateDuplicateSocket, duplicate).status().code(),
            absl::StatusCode::kNotFound);
  duplicate.set_protocol_info("ticket");
  EXPECT_EQ(Call(a_, &Async::CreateDuplicateSocket, duplicate).status().code(),
            absl::StatusCode::kInvalidArgument);
  duplicate.clear_protocol_info();

  rpc::ServerOptions options;
  options.tcp_addresses = {"127.0.0.1:0"};
  options.insecure_tcp = true;
  auto server = *rpc::Server::Start(options, {&a_.service});
  auto stub = v1::MigrationService::NewStub(*rpc::MakeChannel(server->tcp_addresses()[0], {}));
  const auto refused = Await(rpc::CallUnary(stub->async(), &Async::CreateDuplicateSocket, duplicate,
                                            milliseconds(60'000)));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kPermissionDenied) << refused.status();
  Await(server->Shutdown(milliseconds(0)));
  ASSERT_TRUE(Call(a_, &Async::Cancel, For<v1::CancelRequest>("s1")).ok());
}

}  // namespace
}  // namespace ferry::migration
