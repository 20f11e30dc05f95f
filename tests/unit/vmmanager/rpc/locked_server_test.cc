// The server as others see it: who gets in, who may call what, and what is written about it.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <cstring>
#include <fstream>
#include <functional>
#include <future>

#include "bridge/runtime/host_port.h"
#include "bridge/runtime/unique_fd.h"
#include "ferry/v1/guest.grpc.pb.h"
#include "ferry/v1/migration.grpc.pb.h"
#include "ferry/v1/vm.grpc.pb.h"
#include "tests/unit/vmmanager/identity/test_authority.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::rpc {
namespace {

using identity::Role;
using identity::Roles;
using VmAsync = v1::VmService::StubInterface::async_interface;
using GuestAsync = v1::GuestService::StubInterface::async_interface;

constexpr milliseconds kCallLimit(30'000);

// Answers with the caller's name, and counts.
class EchoVms final : public v1::VmService::CallbackService {
 public:
  explicit EchoVms(Executor executor) : executor_(std::move(executor)) {}

  grpc::ServerUnaryReactor* GetVm(grpc::CallbackServerContext* context, const v1::VmRef* request,
                                  v1::Vm* response) override {
    return Answer(context, request, response);
  }
  grpc::ServerUnaryReactor* StopVm(grpc::CallbackServerContext* context,
                                   const v1::StopVmRequest* request, v1::Vm* response) override {
    return Answer(context, request, response);
  }
  grpc::ServerUnaryReactor* DeleteVm(grpc::CallbackServerContext* context,
                                     const v1::DeleteVmRequest* request,
                                     v1::DeleteVmResponse* response) override {
    auto handler =
        [this](const v1::DeleteVmRequest&) -> Task<absl::StatusOr<v1::DeleteVmResponse>> {
      ++calls;
      co_return absl::NotFoundError("no such VM");
    };
    return ServeUnary(context, executor_, request, response, handler);
  }

  int calls = 0;                          // io thread
  std::function<void()> on_call = [] {};  // io thread

 private:
  template <typename Request>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const Request* request,
                                   v1::Vm* response) {
    auto handler = [this, who = CallerOf(*context).ToString()](
                       const Request&) -> Task<absl::StatusOr<v1::Vm>> {
      ++calls;
      on_call();
      v1::Vm vm;
      vm.set_name(who);
      co_return vm;
    };
    return ServeUnary(context, executor_, request, response, handler);
  }

  const Executor executor_;
};

class EchoGuests final : public v1::GuestService::CallbackService {
 public:
  explicit EchoGuests(Executor executor) : executor_(std::move(executor)) {}

  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* context) override {
    using Stream = BidiStream<v1::AttachRequest, v1::AttachResponse>;
    auto handler = [](std::shared_ptr<Stream> stream) -> Task<absl::Status> {
      while (co_await stream->Read()) {
      }
      co_return absl::OkStatus();
    };
    return ServeBidi<v1::AttachRequest, v1::AttachResponse>(context, executor_, handler);
  }

 private:
  const Executor executor_;
};

class LockedServerTest : public testing::Test {
 protected:
  void SetUp() override {
    log_path_ = authority_ / "audit.log";
    audit_ = *AuditLog::Open(log_path_);
    auto files = identity::CertificateFiles::Open(authority_.Issue("host", {Role::kPeer}));
    ASSERT_TRUE(files.ok()) << files.status();
    ServerOptions options;
    options.unix_socket = authority_ / "d.sock";
    options.tcp_addresses = {"127.0.0.1:0", "127.0.0.1:0"};
    options.tls = *std::move(files);
    options.audit = audit_.get();
    auto started = Server::Start(options, {&vms_, &guests_, &migrations_});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    address_ = server_->tcp_addresses()[0];
  }

  void TearDown() override {
    if (server_) Await(server_->Shutdown(milliseconds(0)));
  }

  template <typename T>
  T Await(Task<T> task) {
    auto result = asio::co_spawn(io_, std::move(task), asio::use_future);
    io_.restart();
    io_.run();
    return result.get();
  }

  std::unique_ptr<v1::VmService::Stub> Stub(const identity::TlsFiles& files,
                                            const std::string& address = "") {
    auto channel = MakeChannel(address.empty() ? address_ : address, files);
    EXPECT_TRUE(channel.ok()) << channel.status();
    return v1::VmService::NewStub(*channel);
  }

  absl::StatusOr<v1::Vm> GetVm(v1::VmService::Stub& stub) {
    return Await(
        CallUnary<VmAsync, v1::VmRef, v1::Vm>(stub.async(), &VmAsync::GetVm, {}, kCallLimit));
  }
  absl::StatusOr<v1::Vm> GetVm(const identity::TlsFiles& files, const std::string& address = "") {
    return GetVm(*Stub(files, address));
  }
  absl::StatusOr<v1::Vm> StopVm(const identity::TlsFiles& files, const std::string& address = "") {
    v1::StopVmRequest request;
    request.set_vm("web");
    request.set_force(true);
    return Await(CallUnary<VmAsync, v1::StopVmRequest, v1::Vm>(
        Stub(files, address)->async(), &VmAsync::StopVm, request, kCallLimit));
  }
  absl::Status DeleteVm(const identity::TlsFiles& files) {
    v1::DeleteVmRequest request;
    request.set_vm("web");
    return Await(CallUnary<VmAsync, v1::DeleteVmRequest, v1::DeleteVmResponse>(
                     Stub(files)->async(), &VmAsync::DeleteVm, request, kCallLimit))
        .status();
  }

  std::vector<boost::json::object> Audit() const {
    std::vector<boost::json::object> lines;
    std::ifstream file(log_path_);
    for (std::string line; std::getline(file, line);) {
      lines.push_back(boost::json::parse(line).as_object());
    }
    return lines;
  }

  asio::io_context io_;
  identity::TestAuthority authority_;
  std::string log_path_;
  std::unique_ptr<AuditLog> audit_;
  EchoVms vms_{io_.get_executor()};
  EchoGuests guests_{io_.get_executor()};
  v1::MigrationService::CallbackService migrations_;  // does nothing
  std::unique_ptr<Server> server_;
  std::string address_;
};

TEST_F(LockedServerTest, RolesDecideAndTheNameComesFromTheCertificate) {
  const auto viewer = authority_.Issue("alice", {Role::kViewer});
  const auto operates = authority_.Issue("bob", {Role::kOperator});
  auto seen = GetVm(viewer);
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_EQ(seen->name(), "alice");
  // Every address has the lock.
  EXPECT_TRUE(GetVm(viewer, server_->tcp_addresses()[1]).ok());
  EXPECT_EQ(StopVm(viewer, server_->tcp_addresses()[1]).status().code(),
            absl::StatusCode::kPermissionDenied);
  const int calls = vms_.calls;
  const absl::Status refused = StopVm(viewer).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("alice may not call"));
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("use a certificate with"));
  EXPECT_EQ(vms_.calls, calls) << "the handler never saw it";
  EXPECT_TRUE(StopVm(operates).ok());
  EXPECT_EQ(DeleteVm(operates).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(DeleteVm(authority_.Issue("root", {Role::kAdmin})).code(), absl::StatusCode::kNotFound);
}

TEST_F(LockedServerTest, WhoHasNoRoleOrIsOnlyAPeerMayNotEvenLook) {
  EXPECT_EQ(GetVm(authority_.Issue("carl", {})).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(GetVm(authority_.Issue("host-b", {Role::kPeer})).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(vms_.calls, 0);
}

TEST_F(LockedServerTest, StrangersDoNotGetAsFarAsACall) {
  const auto good = authority_.Issue("alice", {Role::kViewer});
  identity::TestAuthority others;
  identity::TlsFiles foreign = others.Issue("alice", {Role::kViewer});
  foreign.ca = good.ca;
  identity::TlsFiles doubting = good;
  doubting.ca = others / "ca.pem";
  for (const identity::TlsFiles& files :
       {foreign, doubting, authority_.Issue("old", {Role::kViewer}, -60), identity::TlsFiles()}) {
    const absl::Status status = GetVm(files).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  }
  EXPECT_EQ(vms_.calls, 0);
  EXPECT_TRUE(GetVm(good).ok());
}

TEST_F(LockedServerTest, AServerOfAnotherNameIsNotTalkedTo) {
  const auto viewer = authority_.Issue("alice", {Role::kViewer});
  identity::CertificateOrder order;
  order.name = "host";
  order.roles = {Role::kPeer};
  order.addresses = {"DNS:elsewhere", "IP:192.0.2.1"};
  authority_.Issue(order);  // replaces the server's
  EXPECT_EQ(GetVm(viewer).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LockedServerTest, ReplacedFilesCountFromTheNextConnectionOn) {
  const auto viewer = authority_.Issue("alice", {Role::kViewer});
  const auto before = Stub(viewer);
  ASSERT_TRUE(GetVm(*before).ok());
  // A new authority for everybody: who trusts only the old one is out, and the other way round.
  identity::TestAuthority next;
  const auto successor = next.Issue("host", {Role::kPeer});
  const auto text = [](const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  authority_.Write("host.key", text(successor.key));
  authority_.Write("host.pem", text(successor.cert));
  const std::string old_ca = authority_.authority().certificate;
  authority_.Write("ca.pem", text(successor.ca));
  EXPECT_TRUE(GetVm(next.Issue("alice", {Role::kViewer})).ok());
  authority_.Write("old-ca.pem", old_ca);
  identity::TlsFiles former = viewer;
  former.ca = authority_ / "old-ca.pem";
  EXPECT_EQ(GetVm(former).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(GetVm(*before).ok()) << "what was open stays open";
}

// The version that a client with only these gets, 0 if none.
int Handshake(const std::string& address, const identity::TlsFiles& files, int lowest,
              int highest) {
  const auto where = ParseHostPort(address);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(where->port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  // This process only speaks 1.3 by itself; a stranger's is not so particular.
  SSL_CTX_clear_options(context, SSL_OP_NO_TLSv1_2);
  SSL_CTX_set_min_proto_version(context, lowest);
  SSL_CTX_set_max_proto_version(context, highest);
  SSL_CTX_use_certificate_file(context, files.cert.c_str(), SSL_FILETYPE_PEM);
  SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM);
  const unsigned char h2[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context, h2, sizeof h2);
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, fd.get());
  const int version = SSL_connect(ssl) == 1 ? SSL_version(ssl) : 0;
  SSL_free(ssl);
  SSL_CTX_free(context);
  return version;
}

TEST_F(LockedServerTest, NothingBelowTls13IsSpoken) {
  const auto viewer = authority_.Issue("alice", {Role::kViewer});
  EXPECT_EQ(Handshake(address_, viewer, TLS1_2_VERSION, TLS1_2_VERSION), 0);
  EXPECT_EQ(Handshake(address_, viewer, TLS1_2_VERSION, TLS1_3_VERSION), TLS1_3_VERSION);
}

TEST_F(LockedServerTest, ChangesAndRefusalsAreWrittenAndLooksAreNot) {
  const auto viewer = authority_.Issue("alice", {Role::kViewer});
  ASSERT_TRUE(GetVm(viewer).ok());
  (void)StopVm(viewer);
  (void)StopVm(authority_.Issue("bob", {Role::kOperator, Role::kViewer}));
  (void)DeleteVm(authority_.Issue("root", {Role::kAdmin}));
  (void)StopVm({}, "unix:" + authority_ / "d.sock");
  const auto lines = Audit();
  ASSERT_EQ(lines.size(), 7u);
  EXPECT_EQ(lines[0].at("name").as_string(), "alice");
  EXPECT_EQ(lines[0].at("method").as_string(), "VmService/StopVm");
  EXPECT_EQ(lines[0].at("outcome").as_string(), "PERMISSION_DENIED");
  EXPECT_EQ(lines[0].at("reason").as_string(), "role_missing");
  EXPECT_FALSE(lines[0].contains("address"));
  for (int i : {1, 2}) {
    EXPECT_EQ(lines[i].at("name").as_string(), "bob");
    EXPECT_EQ(lines[i].at("request").at("vm").as_string(), "web");
    EXPECT_EQ(lines[i].at("request").at("force").as_string(), "true");
    EXPECT_EQ(lines[i].at("outcome").as_string(), i == 1 ? "begun" : "OK");
    EXPECT_THAT(std::string(lines[i].at("address").as_string()), testing::HasSubstr("127.0.0.1"));
  }
  EXPECT_EQ(lines[1].at("time"), lines[2].at("time"));
  EXPECT_EQ(lines[4].at("method").as_string(), "VmService/DeleteVm");
  EXPECT_EQ(lines[4].at("outcome").as_string(), "NOT_FOUND");
  EXPECT_EQ(lines[6].at("uid").as_int64(), ::geteuid());
  EXPECT_FALSE(lines[6].contains("name"));
}

TEST_F(LockedServerTest, AChangeIsWrittenBeforeItTakesEffect) {
  size_t lines_then = 0;
  vms_.on_call = [&] { lines_then = Audit().size(); };
  ASSERT_TRUE(StopVm(authority_.Issue("bob", {Role::kOperator})).ok());
  EXPECT_EQ(lines_then, 1u);
  EXPECT_EQ(Audit().at(0).at("outcome").as_string(), "begun");
}

TEST_F(LockedServerTest, WhosSocketIsTakenIsWritten) {
  using Async = v1::MigrationService::StubInterface::async_interface;
  auto stub = v1::MigrationService::NewStub(
      *MakeChannel(address_, authority_.Issue("bob", {Role::kOperator})));
  v1::CreateDuplicateSocketRequest request;
  request.set_session_id("s1");
  request.mutable_process_socket()->set_pid(4711);
  request.mutable_process_socket()->set_fd(7);
  (void)Await(CallUnary<Async, v1::CreateDuplicateSocketRequest, v1::CreateDuplicateSocketResponse>(
      stub->async(), &Async::CreateDuplicateSocket, request, kCallLimit));
  const auto lines = Audit();
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0].at("request").at("pid").as_string(), "4711");
  EXPECT_EQ(lines[0].at("request").at("fd").as_string(), "7");
}

TEST_F(LockedServerTest, CallsOfWhatIsNotThereFillNoLog) {
  auto stub = grpc::GenericStub(*MakeChannel(address_, authority_.Issue("carl", {})));
  const std::string method = "/ferry.v1.Nothing/\n\"" + std::string(8000, 'x');
  constexpr int kCalls = 40;
  for (int i = 0; i < kCalls; ++i) {
    grpc::ClientContext context;
    const grpc::Slice nothing;
    grpc::ByteBuffer request(&nothing, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> ended;
    stub.UnaryCall(&context, method, {}, &request, &response,
                   [&ended](grpc::Status status) { ended.set_value(std::move(status)); });
    const grpc::Status status = ended.get_future().get();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << status.error_message();
    EXPECT_LT(status.error_message().size(), 300u);
  }
  Await(server_->Shutdown(milliseconds(0)));
  server_.reset();
  audit_.reset();  // and with it the last line is written
  const auto lines = Audit();
  ASSERT_GT(lines.size(), 1u);
  EXPECT_LT(lines.size(), 20u);
  int told = 0;
  for (const auto& line : lines) {
    EXPECT_LT(boost::json::serialize(line).size(), 400u);
    const auto* left_out = line.at("request").as_object().if_contains("left_out");
    told += left_out == nullptr ? 1 : std::stoi(std::string(left_out->as_string()));
    if (left_out == nullptr) {
      EXPECT_THAT(std::string(line.at("method").as_string()),
                  testing::StartsWith("unlisted /ferry.v1.Nothing/\\n\\\"xxx"));
    }
  }
  EXPECT_EQ(told, kCalls);
}

TEST_F(LockedServerTest, AStreamIsWrittenWhenItIsKnownWhatItIsAboutAndWhenItEnds) {
  auto channel = MakeChannel(address_, authority_.Issue("bob", {Role::kOperator}));
  auto stub = v1::GuestService::NewStub(*channel);
  auto attach = [this, &stub]() -> Task<absl::Status> {
    auto stream = OpenBidi(io_.get_executor(), stub->async(), &GuestAsync::Attach);
    v1::AttachRequest open;
    open.mutable_open()->set_vm("web");
    open.mutable_open()->set_process_id(42);
    stream->Write(open);
    v1::AttachRequest data;
    data.mutable_stdin_data()->set_data("secret");
    stream->Write(data);
    stream->WritesDone();
    while (co_await stream->Read()) {
    }
    co_return co_await stream->Finish();
  };
  ASSERT_TRUE(Await(attach()).ok());
  const auto lines = Audit();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].at("outcome").as_string(), "begun");
  EXPECT_EQ(lines[1].at("outcome").as_string(), "OK");
  for (const auto& line : lines) {
    EXPECT_EQ(line.at("name").as_string(), "bob");
    EXPECT_EQ(line.at("request").at("vm").as_string(), "web");
    EXPECT_EQ(line.at("request").at("process_id").as_string(), "42");
    EXPECT_EQ(boost::json::serialize(line).find("secret"), std::string::npos);
  }
}

TEST_F(LockedServerTest, TheLocalSocketNeedsNoCertificateAndKnowsWhoCalls) {
  auto vm = GetVm({}, "unix:" + authority_ / "d.sock");
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ(vm->name(), "uid " + std::to_string(::geteuid()));
}

TEST_F(LockedServerTest, AnotherUserIsShownTheDoor) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  const std::string path = authority_ / "d.sock";
  // Even if the modes were opened to all.
  ASSERT_EQ(::chmod((authority_ / "").c_str(), 0755), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::strncpy(to.sun_path, path.c_str(), sizeof to.sun_path - 1);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::syscall(SYS_setresuid, 65534, 65534, 65534) != 0) ::_exit(2);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) ::_exit(3);
    char byte;
    ::_exit(::read(fd, &byte, 1) == 0 ? 0 : 4);  // a served client would read settings of HTTP/2
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
  const auto lines = Audit();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].at("uid").as_int64(), 65534);
  EXPECT_EQ(lines[0].at("outcome").as_string(), "PERMISSION_DENIED");
}

}  // namespace
}  // namespace ferry::rpc
