// Which host may speak of which session, by the certificate that it comes with.
#include <grpcpp/channel.h>

#include "migration/service/grpc_peer_client.h"
#include "migration/service/migration_service.h"
#include "tests/unit/migration/controller/controller_fixture.h"
#include "tests/unit/vmmanager/identity/test_authority.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {
namespace {

using Async = v1::MigrationService::StubInterface::async_interface;
using identity::Role;

PeerFactory NoPeers() {
  return [](const std::string& address) { return MakeGrpcPeerClient(address, {}); };
}

class PeerBindingTest : public TaskTest {
 protected:
  void SetUp() override {
    auto files = identity::CertificateFiles::Open(authority_.Issue("host-b", {Role::kPeer}));
    ASSERT_TRUE(files.ok()) << files.status();
    rpc::ServerOptions options;
    options.tcp_addresses = {"127.0.0.1:0"};
    options.tls = *std::move(files);
    auto started = rpc::Server::Start(options, {&service_});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    for (const char* host : {"host-a", "host-c"}) Connect(host, {Role::kPeer});
    Connect("alice", {Role::kOperator});
  }

  void TearDown() override {
    for (MigrationHost* host : {&a_, &b_}) Await(host->sessions->Shutdown());
    for (MigrationHost* host : {&a_, &b_}) {
      host->listener->Close();
      host->handoff->Close();
      Await(host->host.Stop());
    }
    Await(server_->Shutdown(milliseconds(0)));
    Settle();
  }

  void Connect(const std::string& who, identity::Roles roles) {
    auto channel = rpc::MakeChannel(server_->tcp_addresses()[0], authority_.Issue(who, roles));
    ASSERT_TRUE(channel.ok()) << channel.status();
    stubs_[who] = v1::MigrationService::NewStub(*channel);
  }

  // A call to host B.
  template <typename Request, typename Response>
  absl::Status Call(const std::string& who,
                    void (Async::*method)(grpc::ClientContext*, const Request*, Response*,
                                          std::function<void(grpc::Status)>),
                    const std::type_identity_t<Request>& request) {
    return Await(rpc::CallUnary(stubs_[who]->async(), method, request, milliseconds(60'000)))
        .status();
  }

  template <typename Request>
  static Request For(const std::string& id) {
    Request request;
    request.set_session_id(id);
    return request;
  }

  // What VM "web" on host A looks like, for a session of that id.
  v1::ImportSandboxRequest ImportOf(const std::string& id) {
    v1::PrepareAndExportSandboxRequest prepare;
    prepare.set_session_id(id);
    prepare.set_vm("web");
    prepare.mutable_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
    auto plan = Await(a_.sessions->PrepareAndExport(prepare));
    EXPECT_TRUE(plan.ok()) << plan.status();
    auto import = For<v1::ImportSandboxRequest>(id);
    import.set_config(plan.value_or(""));
    return import;
  }

  TestFolder folder_;
  identity::TestAuthority authority_;
  vm::FakeGuests guests_{io_.get_executor()};
  MigrationHost a_{io_.get_executor(), "host-a:1", folder_.Make("a"), guests_, NoPeers()};
  MigrationHost b_{io_.get_executor(), "host-b:1", folder_.Make("b"), guests_, NoPeers()};
  Preflight preflight_{*b_.deps, *b_.sessions, {}};
  MigrationService service_{*b_.sessions, preflight_, io_.get_executor()};
  std::unique_ptr<rpc::Server> server_;
  std::map<std::string, std::unique_ptr<v1::MigrationService::Stub>> stubs_;
};

constexpr absl::StatusCode kDenied = absl::StatusCode::kPermissionDenied;

TEST_F(PeerBindingTest, ASessionIsItsImportersAndNoOtherHosts) {
  ASSERT_TRUE(Await(a_.host.Boot("web")).ok());
  const v1::ImportSandboxRequest import = ImportOf("s1");
  ASSERT_TRUE(Call("host-a", &Async::ImportSandbox, import).ok());

  auto prepare = For<v1::PrepareSandboxRequest>("s1");
  prepare.mutable_init_options()->set_memory_transport(v1::MEMORY_TRANSPORT_TCP);
  EXPECT_EQ(Call("host-c", &Async::PrepareSandbox, prepare).code(), kDenied);
  EXPECT_EQ(Call("host-c", &Async::TransferSandbox, For<v1::TransferSandboxRequest>("s1")).code(),
            kDenied);
  EXPECT_EQ(Call("host-c", &Async::Cancel, For<v1::CancelRequest>("s1")).code(), kDenied);
  EXPECT_EQ(Call("host-c", &Async::Cleanup, For<v1::CleanupRequest>("s1")).code(), kDenied);
  EXPECT_EQ(Call("host-c", &Async::SettleSession, For<v1::SettleSessionRequest>("s1")).code(),
            kDenied);
  const absl::Status refused = Call("host-c", &Async::GetSession, For<v1::GetSessionRequest>("s1"));
  EXPECT_EQ(refused.code(), kDenied);
  EXPECT_EQ(rpc::ReasonOf(refused), "not_your_session");

  EXPECT_TRUE(Call("host-a", &Async::GetSession, For<v1::GetSessionRequest>("s1")).ok());
  EXPECT_TRUE(Call("alice", &Async::GetSession, For<v1::GetSessionRequest>("s1")).ok());
  EXPECT_TRUE(Call("host-a", &Async::PrepareSandbox, prepare).ok());
  EXPECT_TRUE(Call("alice", &Async::Cancel, For<v1::CancelRequest>("s1")).ok());
}

TEST_F(PeerBindingTest, AnotherHostCannotImportASessionAgain) {
  ASSERT_TRUE(Await(a_.host.Boot("web")).ok());
  const v1::ImportSandboxRequest import = ImportOf("s1");
  ASSERT_TRUE(Call("host-a", &Async::ImportSandbox, import).ok());
  const absl::Status refused = Call("host-c", &Async::ImportSandbox, import);
  EXPECT_EQ(refused.code(), kDenied);
  EXPECT_EQ(rpc::ReasonOf(refused), "not_your_session");
  EXPECT_TRUE(Call("host-a", &Async::ImportSandbox, import).ok());
  EXPECT_TRUE(Call("alice", &Async::Cancel, For<v1::CancelRequest>("s1")).ok());
}

TEST_F(PeerBindingTest, AHostIsToldWhatIsKnownOfItsOwnSessionsOnly) {
  ASSERT_TRUE(Await(a_.host.Boot("web")).ok());
  ASSERT_TRUE(Call("host-a", &Async::ImportSandbox, ImportOf("s1")).ok());
  auto recover = For<v1::RecoverSessionRequest>("s1");
  EXPECT_EQ(rpc::ReasonOf(Call("host-a", &Async::RecoverSession, recover)), "role_missing");
  recover.set_local_only(true);
  EXPECT_TRUE(Call("host-a", &Async::RecoverSession, recover).ok());
  EXPECT_TRUE(Call("alice", &Async::RecoverSession, recover).ok());
  EXPECT_EQ(rpc::ReasonOf(Call("host-c", &Async::RecoverSession, recover)), "not_your_session");
}

TEST_F(PeerBindingTest, OnlyAnAdminMayForce) {
  ASSERT_TRUE(Await(a_.host.Boot("web")).ok());
  ASSERT_TRUE(Call("host-a", &Async::ImportSandbox, ImportOf("s1")).ok());
  Connect("root", {Role::kAdmin});
  auto force = For<v1::RecoverSessionRequest>("s1");
  force.set_local_only(true);
  force.set_force(true);
  force.set_vm_name("web");
  force.set_decision(v1::FORCED_DECISION_RUN_HERE);
  EXPECT_EQ(rpc::ReasonOf(Call("host-a", &Async::RecoverSession, force)), "role_missing");
  EXPECT_EQ(rpc::ReasonOf(Call("alice", &Async::RecoverSession, force)), "role_missing");
  // There is nothing to force at a destination.
  EXPECT_EQ(Call("root", &Async::RecoverSession, force).code(),
            absl::StatusCode::kFailedPrecondition);
}

// Whoever has the plan could make the source's word up, so it matters who brings it.
TEST_F(PeerBindingTest, ThatASourceWasForcedIsItsDaemonsOrAnAdminsToSay) {
  auto vm = Await(a_.host.Boot("web"));
  ASSERT_TRUE(vm.ok()) << vm.status();
  const v1::ImportSandboxRequest import = ImportOf("s1");
  ASSERT_TRUE(Call("host-a", &Async::ImportSandbox, import).ok());
  Connect("root", {Role::kAdmin});
  Proof forced;
  forced.kind = ProofKind::kForced;
  forced.session_id = "s1";
  forced.vm_id = (*vm)->id();
  forced.epoch = (*vm)->epoch() + 3;
  forced.plan_digest = vm::PlanDigest(import.config());
  forced.journal_id = a_.host.store.journal_id();
  auto settle = For<v1::SettleSessionRequest>("s1");
  settle.set_proof(EncodeProof(forced, forced.plan_digest));
  EXPECT_EQ(rpc::ReasonOf(Call("alice", &Async::SettleSession, settle)), "role_missing");
  EXPECT_EQ(rpc::ReasonOf(Call("host-c", &Async::SettleSession, settle)), "not_your_session");
  EXPECT_EQ(b_.host.store.journal().back().kind, "IMPORTED");
  EXPECT_TRUE(Call("root", &Async::SettleSession, settle).ok());
  EXPECT_TRUE(Call("host-a", &Async::SettleSession, settle).ok());
  EXPECT_EQ(b_.host.store.journal().back().kind, "REFUSED");
  // What does not force is theirs as well.
  forced.kind = ProofKind::kAbort;
  forced.epoch = (*vm)->epoch();
  settle.set_proof(EncodeProof(forced, forced.plan_digest));
  EXPECT_TRUE(Call("alice", &Async::SettleSession, settle).ok());
}

TEST_F(PeerBindingTest, AHostMayNotDriveWhatPeopleDrive) {
  ASSERT_TRUE(Await(a_.host.Boot("web")).ok());
  v1::MigrateRequest migrate;
  migrate.set_vm("web");
  EXPECT_EQ(Call("host-a", &Async::Migrate, migrate).code(), kDenied);
  EXPECT_EQ(Call("host-a", &Async::ListSessions, {}).code(), kDenied);
  // Imported by a person: no host has a part in it until one opens its session connection.
  ASSERT_TRUE(Call("alice", &Async::ImportSandbox, ImportOf("s1")).ok());
  EXPECT_EQ(Call("host-a", &Async::PrepareSandbox, For<v1::PrepareSandboxRequest>("s1")).code(),
            kDenied);
  EXPECT_EQ(Call("host-a", &Async::Cancel, For<v1::CancelRequest>("s1")).code(), kDenied);
  EXPECT_TRUE(Call("host-a", &Async::GetSession, For<v1::GetSessionRequest>("s1")).ok());
  EXPECT_TRUE(Call("alice", &Async::Cancel, For<v1::CancelRequest>("s1")).ok());
}

TEST_F(PeerBindingTest, WhatAHostHadRefusedItAloneIsToldAgain) {
  auto settle = For<v1::SettleSessionRequest>("s1");
  settle.set_vm_id("vm");
  settle.set_plan_sha256(std::string(32, 'p'));
  ASSERT_TRUE(Call("host-a", &Async::SettleSession, settle).ok());
  EXPECT_TRUE(Call("host-a", &Async::SettleSession, settle).ok());
  EXPECT_EQ(Call("host-c", &Async::SettleSession, settle).code(), kDenied);
}

TEST_F(PeerBindingTest, WhatIsOutOfBoundsIsNotRemembered) {
  auto good = For<v1::SettleSessionRequest>(std::string(128, 's'));
  good.set_vm_id(std::string(128, 'v'));
  good.set_plan_sha256(std::string(32, 'p'));
  std::vector<v1::SettleSessionRequest> bad(5, good);
  bad[0].set_session_id(std::string(129, 's'));
  bad[1].set_session_id("");
  bad[2].set_vm_id(std::string(129, 'v'));
  bad[3].set_plan_sha256(std::string(31, 'p'));
  bad[4].set_plan_sha256(std::string(33, 'p'));
  for (const char* who : {"host-a", "alice"}) {
    for (const v1::SettleSessionRequest& settle : bad) {
      EXPECT_EQ(Call(who, &Async::SettleSession, settle).code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_TRUE(b_.host.store.journal().empty());
  EXPECT_TRUE(Call("host-a", &Async::SettleSession, good).ok());
  EXPECT_EQ(b_.host.store.journal().size(), 1u);
}

TEST_F(PeerBindingTest, AHostCallsWithTheCertificateThatItHasNow) {
  auto files = identity::CertificateFiles::Open(authority_.Issue("host-a", {Role::kPeer}));
  ASSERT_TRUE(files.ok()) << files.status();
  auto peer = MakeGrpcPeerClient(server_->tcp_addresses()[0], *files);
  ASSERT_TRUE(peer.ok()) << peer.status();
  v1::SettleSessionRequest settle = For<v1::SettleSessionRequest>("s1");
  settle.set_vm_id("vm");
  settle.set_plan_sha256(std::string(32, 'p'));
  ASSERT_TRUE(Await((*peer)->Settle(settle)).ok());
  // Another name under the same files: the session is no longer its own.
  identity::CertificateOrder order;
  order.name = "host-a2";
  order.roles = {Role::kPeer};
  order.lifetime = 86'400;
  auto next = identity::Issue(authority_.authority(), order);
  ASSERT_TRUE(next.ok()) << next.status();
  authority_.Write("host-a.pem", next->certificate);
  authority_.Write("host-a.key", next->key);
  EXPECT_EQ(Await((*peer)->Settle(settle)).status().code(), kDenied);
}

TEST_F(PeerBindingTest, WhatIsNoAddressHasNoClient) {
  EXPECT_EQ(MakeGrpcPeerClient("nonsense", nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ferry::migration
