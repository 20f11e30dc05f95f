#include "vmmanager/rpc/server.h"

#include <grpc/grpc.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "bridge/runtime/unique_fd.h"
#include "ferry/v1/guest.grpc.pb.h"
#include "ferry/v1/host.grpc.pb.h"
#include "ferry/v1/vm.grpc.pb.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/error_info.h"
#include "vmmanager/rpc/stream_reactor.h"
#include "vmmanager/rpc/unary_reactor.h"

namespace ferry::rpc {
namespace {

using VmAsync = v1::VmService::StubInterface::async_interface;
using HostAsync = v1::HostService::StubInterface::async_interface;
using GuestAsync = v1::GuestService::StubInterface::async_interface;
using AttachStream = BidiStream<v1::AttachRequest, v1::AttachResponse>;

constexpr milliseconds kTimeout(30000);

class VmServer final : public v1::VmService::CallbackService {
 public:
  explicit VmServer(Executor executor)
      : executor_(executor), entered(executor), release(executor), ended(executor) {}

  // Answers after `release`; says when it came and went.
  grpc::ServerUnaryReactor* StopVm(grpc::CallbackServerContext* context,
                                   const v1::StopVmRequest* request, v1::Vm* response) override {
    auto handler = [this](const v1::StopVmRequest& r) -> Task<absl::StatusOr<v1::Vm>> {
      entered.Set();
      co_await release.Wait();
      v1::Vm vm;
      vm.set_name(r.vm());
      ended.Set();
      co_return vm;
    };
    return ServeUnary(context, executor_, request, response, handler);
  }

  // Waits for ever, until it is cancelled.
  grpc::ServerUnaryReactor* GetVm(grpc::CallbackServerContext* context, const v1::VmRef* request,
                                  v1::Vm* response) override {
    auto handler = [this](const v1::VmRef&) -> Task<absl::StatusOr<v1::Vm>> {
      struct Unwound {
        AsyncEvent* event;
        ~Unwound() { event->Set(); }
      } unwound{&ended};
      entered.Set();
      AsyncEvent never(executor_);
      co_await never.Wait();
      co_await never.Wait();
      co_return v1::Vm();
    };
    return ServeUnary(context, executor_, request, response, handler, OnCallerGone::kCancel);
  }

  grpc::ServerUnaryReactor* StartVm(grpc::CallbackServerContext* context,
                                    const v1::StartVmRequest* request, v1::Vm* response) override {
    auto handler = [](const v1::StartVmRequest& r) -> Task<absl::StatusOr<v1::Vm>> {
      if (r.vm() == "throws") throw std::runtime_error("broken invariant");
      co_return ErrorWithReason(absl::StatusCode::kNotFound, "no VM named " + r.vm(),
                                "vm_not_found", "List VMs.");
    };
    return ServeUnary(context, executor_, request, response, handler);
  }

 private:
  Executor executor_;

 public:
  AsyncEvent entered, release, ended;
};

class HostServer final : public v1::HostService::CallbackService {
 public:
  explicit HostServer(Executor executor) : executor_(executor), over(executor) {}

  grpc::ServerWriteReactor<v1::Event>* WatchEvents(grpc::CallbackServerContext* context,
                                                   const v1::WatchEventsRequest* request) override {
    auto handler = [this](const v1::WatchEventsRequest& r,
                          std::shared_ptr<ServerStream<v1::Event>> stream) -> Task<absl::Status> {
      return Serve(r.since(), r.follow(), std::move(stream));
    };
    return ServeStream<v1::Event>(context, executor_, request, handler);
  }

 private:
  Task<absl::Status> Serve(uint64_t since, bool follow,
                           std::shared_ptr<ServerStream<v1::Event>> stream) {
    struct Over {
      AsyncEvent* event;
      ~Over() { event->Set(); }
    } guard{&over};
    for (uint64_t id = since + 1; id <= since + 100; ++id) {
      v1::Event event;
      event.set_id(id);
      stream->Write(event);
      if (!co_await stream->WaitWritable()) co_return absl::CancelledError("gone");
    }
    if (follow) co_await stream->WaitGone();
    co_return absl::OkStatus();
  }

  Executor executor_;

 public:
  AsyncEvent over;
};

class GuestServer final : public v1::GuestService::CallbackService {
 public:
  explicit GuestServer(Executor executor) : executor_(executor), gate(executor), over(executor) {
    gate.Set();
  }

  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* context) override {
    return ServeBidi<v1::AttachRequest, v1::AttachResponse>(
        context, executor_,
        [this](std::shared_ptr<AttachStream> stream) { return Echo(std::move(stream)); });
  }

 private:
  // Sends stdin back as stdout while `gate` is open.
  Task<absl::Status> Echo(std::shared_ptr<AttachStream> stream) {
    struct Over {
      AsyncEvent* event;
      ~Over() { event->Set(); }
    } guard{&over};
    while (true) {
      co_await gate.Wait();
      std::optional<v1::AttachRequest> request = co_await stream->Read();
      if (!request) break;
      ++messages;
      v1::AttachResponse response;
      *response.mutable_output()->mutable_data() =
          std::move(*request->mutable_stdin_data()->mutable_data());
      response.mutable_output()->set_offset(request->stdin_data().offset());
      stream->Write(std::move(response));
      if (!co_await stream->WaitWritable()) break;
    }
    co_return absl::OkStatus();
  }

  Executor executor_;

 public:
  AsyncEvent gate, over;
  int messages = 0;
};

class RpcTest : public testing::Test {
 public:
  RpcTest() : vms(io.get_executor()), hosts(io.get_executor()), guests(io.get_executor()) {
    char pattern[] = "/tmp/ferry-rpc-XXXXXX";
    folder = ::mkdtemp(pattern);
    options.unix_socket = folder + "/d.sock";
  }
  ~RpcTest() override {
    ::unlink(options.unix_socket.c_str());
    ::rmdir(folder.c_str());
  }

  // Whoever lets go of gRPC last waits for its background poller, up to 10 s after a stream that
  // was held back; so that nobody here is the last.
  static void SetUpTestSuite() { grpc_init(); }

  // Runs `test` against a live server and ends everything.
  void Run(Task<void> test) {
    auto started = Server::Start(options, {&vms, &hosts, &guests});
    ASSERT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    channel = *MakeChannel("unix:" + options.unix_socket, TlsFiles());
    vm_stub = v1::VmService::NewStub(channel);
    host_stub = v1::HostService::NewStub(channel);
    guest_stub = v1::GuestService::NewStub(channel);
    Spawn(io.get_executor(), RunAndStop(std::move(test)));
    io.run();
    EXPECT_TRUE(finished);
  }

  Task<void> RunAndStop(Task<void> test) {
    co_await std::move(test);
    co_await server->Shutdown(milliseconds(0));
    finished = true;
  }

  asio::io_context io;
  std::string folder;
  ServerOptions options;
  VmServer vms;
  HostServer hosts;
  GuestServer guests;
  std::unique_ptr<Server> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::VmService::Stub> vm_stub;
  std::unique_ptr<v1::HostService::Stub> host_stub;
  std::unique_ptr<v1::GuestService::Stub> guest_stub;
  bool finished = false;
};

TEST_F(RpcTest, UnaryAnswersAndCarriesErrorInfo) {
  vms.release.Set();
  auto test = [this]() -> Task<void> {
    v1::StopVmRequest stop;
    stop.set_vm("web");
    auto vm = co_await CallUnary(vm_stub->async(), &VmAsync::StopVm, stop, kTimeout);
    EXPECT_TRUE(vm.ok() && vm->name() == "web") << vm.status();
    v1::StartVmRequest start;
    start.set_vm("db");
    auto error = co_await CallUnary(vm_stub->async(), &VmAsync::StartVm, start, kTimeout);
    EXPECT_EQ(error.status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(error.status().message(), "no VM named db");
    EXPECT_EQ(GetErrorInfo(error.status()).value_or(v1::ErrorInfo()).next_step(), "List VMs.");
  };
  Run(test());
}

TEST_F(RpcTest, AnExceptionInAHandlerBecomesInternal) {
  auto test = [this]() -> Task<void> {
    v1::StartVmRequest start;
    start.set_vm("throws");
    auto error = co_await CallUnary(vm_stub->async(), &VmAsync::StartVm, start, kTimeout);
    EXPECT_EQ(error.status().code(), absl::StatusCode::kInternal);
  };
  Run(test());
}

TEST_F(RpcTest, AHandlerThatChangesStateSurvivesItsCaller) {
  auto test = [this]() -> Task<void> {
    TaskScope caller(io.get_executor());
    auto call = [](RpcTest* self) -> Task<void> {
      v1::StopVmRequest request;
      (void)co_await CallUnary(self->vm_stub->async(), &VmAsync::StopVm, request, kTimeout);
    };
    caller.Spawn(call(this));
    co_await vms.entered.Wait();
    co_await caller.CancelAndJoin();
    EXPECT_FALSE(vms.ended.is_set());
    vms.release.Set();
    co_await vms.ended.Wait();
  };
  Run(test());
}

TEST_F(RpcTest, AWaitingHandlerEndsWithItsCaller) {
  auto test = [this]() -> Task<void> {
    TaskScope caller(io.get_executor());
    auto call = [](RpcTest* self) -> Task<void> {
      v1::VmRef request;
      (void)co_await CallUnary(self->vm_stub->async(), &VmAsync::GetVm, request, kTimeout);
    };
    caller.Spawn(call(this));
    co_await vms.entered.Wait();
    co_await caller.CancelAndJoin();
    co_await vms.ended.Wait();
  };
  Run(test());
}

TEST_F(RpcTest, ServerStreamDeliversAllInOrder) {
  auto test = [this]() -> Task<void> {
    v1::WatchEventsRequest request;
    request.set_since(7);
    auto stream = OpenRead(io.get_executor(), host_stub->async(), &HostAsync::WatchEvents, request);
    uint64_t expected = 7;
    while (auto event = co_await stream->Read()) EXPECT_EQ(event->id(), ++expected);
    EXPECT_EQ(expected, 107u);
    const absl::Status status = co_await stream->Finish();
    EXPECT_TRUE(status.ok()) << status;
  };
  Run(test());
}

TEST_F(RpcTest, ServerStreamNoticesThatItsCallerIsGone) {
  auto test = [this]() -> Task<void> {
    v1::WatchEventsRequest request;
    request.set_follow(true);
    {
      auto stream =
          OpenRead(io.get_executor(), host_stub->async(), &HostAsync::WatchEvents, request);
      (void)co_await stream->Read();
    }
    co_await hosts.over.Wait();
  };
  Run(test());
}

// Writes `count` messages of `size` bytes, numbered by offset, then ends the direction.
Task<void> Feed(std::shared_ptr<ClientBidiStream<v1::AttachRequest, v1::AttachResponse>> stream,
                int count, size_t size) {
  uint64_t offset = 0;
  for (int i = 0; i < count; ++i) {
    v1::AttachRequest request;
    request.mutable_stdin_data()->set_offset(offset);
    request.mutable_stdin_data()->set_data(std::string(size, static_cast<char>('a' + i % 26)));
    offset += size;
    stream->Write(std::move(request));
    if (!co_await stream->WaitWritable()) co_return;
  }
  stream->WritesDone();
}

TEST_F(RpcTest, BidiEchoKeepsOrderAndEveryByte) {
  auto test = [this]() -> Task<void> {
    constexpr int kMessages = 256;
    constexpr size_t kSize = 256 * 1024;
    auto stream = OpenBidi(io.get_executor(), guest_stub->async(), &GuestAsync::Attach);
    Spawn(io.get_executor(), Feed(stream.shared(), kMessages, kSize));
    uint64_t offset = 0;
    while (auto response = co_await stream->Read()) {
      EXPECT_EQ(response->output().offset(), offset);
      EXPECT_EQ(response->output().data(),
                std::string(kSize, static_cast<char>('a' + offset / kSize % 26)));
      offset += response->output().data().size();
    }
    EXPECT_EQ(offset, kMessages * kSize);
    const absl::Status status = co_await stream->Finish();
    EXPECT_TRUE(status.ok()) << status;
  };
  Run(test());
}

TEST_F(RpcTest, AServerThatDoesNotReadHoldsItsClientBack) {
  auto test = [this]() -> Task<void> {
    guests.gate.Reset();
    constexpr size_t kSize = 256 * 1024;
    auto stream = OpenBidi(io.get_executor(), guest_stub->async(), &GuestAsync::Attach);
    bool fed = false;
    auto feed = [](std::shared_ptr<ClientBidiStream<v1::AttachRequest, v1::AttachResponse>> to,
                   bool* done) -> Task<void> {
      co_await Feed(std::move(to), 400, kSize);
      *done = true;
    };
    Spawn(io.get_executor(), feed(stream.shared(), &fed));
    // 100 MB do not fit into the windows between the two, however long the connection works.
    vms.release.Set();
    for (int i = 0; i < 100; ++i) {
      v1::StopVmRequest request;
      (void)co_await CallUnary(vm_stub->async(), &VmAsync::StopVm, request, kTimeout);
    }
    EXPECT_FALSE(fed);
    EXPECT_EQ(guests.messages, 0);
    guests.gate.Set();
    uint64_t bytes = 0;
    while (auto response = co_await stream->Read()) bytes += response->output().data().size();
    EXPECT_EQ(bytes, 400 * kSize);
  };
  Run(test());
}

TEST_F(RpcTest, BidiHandlerEndsWhenItsClientIsGoneInMidStream) {
  auto test = [this]() -> Task<void> {
    {
      auto stream = OpenBidi(io.get_executor(), guest_stub->async(), &GuestAsync::Attach);
      v1::AttachRequest request;
      request.mutable_stdin_data()->set_data("x");
      stream->Write(request);
      (void)co_await stream->Read();
    }
    co_await guests.over.Wait();
  };
  Run(test());
}

TEST_F(RpcTest, AClientSeesAServerThatShutsDown) {
  auto test = [this]() -> Task<void> {
    auto stream = OpenBidi(io.get_executor(), guest_stub->async(), &GuestAsync::Attach);
    v1::AttachRequest request;
    request.mutable_stdin_data()->set_data("x");
    stream->Write(request);
    (void)co_await stream->Read();
    co_await server->Shutdown(milliseconds(0));
    auto next = co_await stream->Read();
    EXPECT_FALSE(next.has_value());
    const absl::Status status = co_await stream->Finish();
    EXPECT_FALSE(status.ok());
    EXPECT_FALSE(stream->Write(request));
  };
  Run(test());
}

TEST_F(RpcTest, AnUnreachableServerIsUnavailable) {
  auto test = [this]() -> Task<void> {
    auto nobody = v1::VmService::NewStub(*MakeChannel("unix:" + folder + "/none", TlsFiles()));
    v1::VmRef ref;
    auto vm = co_await CallUnary(nobody->async(), &VmAsync::GetVm, ref, kTimeout);
    EXPECT_EQ(vm.status().code(), absl::StatusCode::kUnavailable);
  };
  Run(test());
}

TEST_F(RpcTest, TheSocketIsPrivateAndAnAnsweringOneIsNotReplaced) {
  auto test = [this]() -> Task<void> {
    struct stat info {};
    EXPECT_EQ(::stat(options.unix_socket.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    auto second = Server::Start(options, {});
    EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
    co_return;
  };
  Run(test());
}

TEST_F(RpcTest, AStaleSocketIsReplaced) {
  {
    UniqueFd stale(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, options.unix_socket.c_str());
    ASSERT_EQ(::bind(stale.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  auto test = []() -> Task<void> { co_return; };
  Run(test());
}

TEST_F(RpcTest, AFileInTheSocketsPlaceIsKept) {
  std::ofstream(options.unix_socket) << "precious";
  EXPECT_EQ(Server::Start(options, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  struct stat info {};
  EXPECT_EQ(::stat(options.unix_socket.c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 8);
}

TEST_F(RpcTest, TcpNeedsCertificatesOrConsentAndAFreePort) {
  options.tcp_addresses = {"127.0.0.1:0"};
  EXPECT_EQ(Server::Start(options, {}).status().code(), absl::StatusCode::kInvalidArgument);
  options.insecure_tcp = true;
  auto test = [this]() -> Task<void> {
    EXPECT_EQ(server->tcp_addresses().size(), 1u);
    ServerOptions same = options;
    same.unix_socket.clear();
    same.tcp_addresses = server->tcp_addresses();
    const absl::Status taken = Server::Start(same, {}).status();
    EXPECT_EQ(taken.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(GetErrorInfo(taken).value_or(v1::ErrorInfo()).next_step().find("--listen"),
              std::string::npos);
    vms.release.Set();
    auto stub = v1::VmService::NewStub(*MakeChannel(server->tcp_addresses()[0], TlsFiles()));
    v1::StopVmRequest request;
    auto vm = co_await CallUnary(stub->async(), &VmAsync::StopVm, request, kTimeout);
    EXPECT_TRUE(vm.ok()) << vm.status();
  };
  Run(test());
}

}  // namespace
}  // namespace ferry::rpc
