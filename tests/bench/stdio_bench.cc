// What stdio carries without a VM between the agent and the host: through the link to the guest and
// the relay, and from there on through gRPC over a Unix socket. At the link's other end is the real
// agent with real processes, or, where the host's half alone is to be measured, somebody who only
// feeds it. Agent or feeder, daemon and client have a thread each. The peer is a thread that only
// copies from one socket to another. Read the ratio; the absolute numbers are the machine's.
#include <benchmark/benchmark.h>
#include <grpcpp/channel.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/guest/guest_server.h"
#include "bridge/mux/serial_guest_transport.h"
#include "bridge/mux/serial_host_transport.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/fake_vsock_sockets.h"
#include "bridge/transport/vsock.h"
#include "ferry/v1/guest.grpc.pb.h"
#include "guestmanager/guest.h"
#include "tests/bench/output_feeder.h"
#include "vmmanager/rpc/channel.h"
#include "vmmanager/rpc/client_stream.h"
#include "vmmanager/rpc/server.h"
#include "vmmanager/sandbox/fake_host.h"
#include "vmmanager/service/guest_service.h"

namespace ferry::vm {
namespace {

using guest::Stream;

constexpr size_t kTotal = size_t{256} << 20;
constexpr size_t kAcknowledgeEach = 128 * 1024;

void Check(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

void Check(const absl::Status& status) { Check(status.ok(), status.ToString()); }

std::pair<UniqueFd, UniqueFd> SocketPair() {
  int fds[2];
  Check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// An io context with a thread of its own.
class IoThread {
 public:
  IoThread() : thread_([this] { io_.run(); }) {}
  ~IoThread() { Join(); }

  Executor executor() { return io_.get_executor(); }
  // Ends what runs on it, which is destroyed with the context.
  void Join() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }
  template <typename T>
  T Await(Task<T> task) {
    return asio::co_spawn(io_, std::move(task), asio::use_future).get();
  }
  template <typename F>
  void Do(F work) {
    asio::post(io_, asio::use_future(std::move(work))).get();
  }

 private:
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(io_);
  std::thread thread_;
};

// Who is at the other end, and over what: a socket for each stream, as with vsock, or all of them
// through the multiplexer of one virtio-serial port.
enum class Far { kFeederBySockets, kFeederBySerial, kAgentBySerial };

// The guest without a VM: its processes, if they are any, are this machine's.
class GuestSide {
 public:
  using MakeTransport = std::function<std::unique_ptr<bridge::GuestTransport>(Executor)>;
  GuestSide(bool has_agent, const MakeTransport& make) {
    thread_.Do([&] {
      transport_ = make(thread_.executor());
      if (!has_agent) {
        feeder_ = std::make_unique<bridge::OutputFeeder>(thread_.executor(), *transport_);
        return;
      }
      server_ = std::make_shared<bridge::GuestServer>(thread_.executor(), *transport_,
                                                      bridge::GuestServer::Options{});
      auto serve = [](std::shared_ptr<bridge::GuestServer> server) -> Task<void> {
        co_await server->Run();
      };
      Spawn(thread_.executor(), serve(server_));
    });
  }
  ~GuestSide() { thread_.Join(); }

 private:
  IoThread thread_;
  std::unique_ptr<bridge::GuestTransport> transport_;
  std::shared_ptr<bridge::GuestServer> server_;
  std::unique_ptr<bridge::OutputFeeder> feeder_;
};

class Folder {
 public:
  Folder() { Check(::mkdtemp(path_.data()) != nullptr, "mkdtemp"); }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = std::filesystem::temp_directory_path() / "ferry-bench-XXXXXX";
};

// A daemon with one VM whose VMM is a fake.
class Daemon {
 public:
  explicit Daemon(Far far) {
    auto guest_transport = far == Far::kFeederBySockets ? LinkBySockets() : LinkBySerial();
    thread_.Do([&] { host_.backend.script().guest_transport = transport_.get(); });
    guest_ = std::make_unique<GuestSide>(far == Far::kAgentBySerial, guest_transport);
    auto booted = thread_.Await(host_.Boot("bench"));
    Check(booted.status());
    vm_ = *std::move(booted);
    rpc::ServerOptions options;
    options.unix_socket = folder_.path() + "/s";
    auto server = rpc::Server::Start(options, {&service_});
    Check(server.status());
    server_ = *std::move(server);
  }
  ~Daemon() {
    thread_.Await(host_.Stop());
    thread_.Await(server_->Shutdown(milliseconds(0)));
    guest_.reset();
    thread_.Join();
  }

  std::string address() const { return absl::StrCat("unix:", folder_.path(), "/s"); }
  IoThread& thread() { return thread_; }

  // A process that writes so much text as soon as somebody takes it.
  std::shared_ptr<guest::Process> Write(size_t bytes) {
    guest::ProcessSpec spec;
    // The number comes last: that is what the feeder reads.
    spec.command = {"/bin/sh", "-c", "yes 'a line of text as programs print it' | head -c $0",
                    absl::StrCat(bytes)};
    auto process = thread_.Await(vm_->guest()->CreateProcess(std::move(spec)));
    Check(process.status());
    return *std::move(process);
  }

 private:
  static constexpr uint32_t kCid = 3;

  GuestSide::MakeTransport LinkBySerial() {
    auto [host_end, guest_end] = SocketPair();
    thread_.Do([&] {
      auto transport = std::make_unique<bridge::SerialHostTransport>(thread_.executor());
      transport->AttachLink(std::move(host_end));
      transport_ = std::move(transport);
    });
    auto port = std::make_shared<UniqueFd>(std::move(guest_end));
    return [port](Executor executor) {
      return std::make_unique<bridge::SerialGuestTransport>(executor, std::move(*port));
    };
  }
  GuestSide::MakeTransport LinkBySockets() {
    const std::string path = folder_.path();
    thread_.Do([&] {
      auto sockets = std::make_shared<bridge::FakeVsockSockets>(path, bridge::kVsockHostCid);
      auto registry = std::make_shared<bridge::VsockPortRegistry>(thread_.executor(), sockets);
      auto transport = registry->MakeTransport(kCid);
      Check(transport.status());
      transport_ = *std::move(transport);
    });
    return [path](Executor executor) {
      return std::make_unique<bridge::VsockGuestTransport>(
          executor, std::make_shared<bridge::FakeVsockSockets>(path, kCid));
    };
  }

  Folder folder_;
  IoThread thread_;
  std::unique_ptr<bridge::HostTransport> transport_;
  FakeGuests guests_{thread_.executor()};
  FakeHost host_{thread_.executor(), "bench:1", folder_.path(), guests_};
  GuestService service_{*host_.inventory};
  std::unique_ptr<GuestSide> guest_;
  std::shared_ptr<UtilityVm> vm_;
  std::unique_ptr<rpc::Server> server_;
};

Daemon& DaemonOf(Far far) {
  static std::map<Far, Daemon> daemons;
  return daemons.try_emplace(far, far).first->second;
}

// Takes everything at once, and says so now and then.
class Taker final : public guest::AttachSink {
 public:
  Taker(Executor executor, std::shared_ptr<guest::Process> process)
      : executor_(executor), process_(std::move(process)), exited_(executor) {
    auto attached = process_->Attach({.attachment_id = absl::StrCat(process_->pid())}, *this);
    Check(attached.status());
    attachment_ = *std::move(attached);
  }
  Task<size_t> AwaitEnd() {
    co_await exited_.Wait();
    co_return taken_;
  }

  bool writable() const override { return true; }
  void OnOutput(Stream stream, guest::StreamPosition, std::string_view data) override {
    taken_ += data.size();
    if (taken_ - acknowledged_ < kAcknowledgeEach) return;
    acknowledged_ = taken_;
    asio::post(executor_, [this, stream, to = taken_] {
      if (attachment_ != nullptr) attachment_->Acknowledge(stream, to, false);
    });
  }
  void OnOutputEnd(Stream stream, uint64_t offset) override {
    asio::post(executor_, [this, stream, offset] {
      if (attachment_ != nullptr) attachment_->Acknowledge(stream, offset, true);
    });
  }
  void OnOutputDropped(Stream, uint64_t, uint64_t) override { Check(false, "bytes were dropped"); }
  void OnStdinTaken(uint64_t, bool) override {}
  void OnStdinRewind(uint64_t) override {}
  void OnStdinClosed() override {}
  void OnExited(guest::ExitStatus) override {
    asio::post(executor_, [this] {
      if (attachment_ != nullptr) attachment_->ExitTaken();
      attachment_.reset();
      exited_.Set();
    });
  }
  void OnDetached(const absl::Status& reason) override { Check(reason); }

 private:
  Executor executor_;
  std::shared_ptr<guest::Process> process_;
  std::unique_ptr<guest::Attachment> attachment_;
  size_t taken_ = 0;
  size_t acknowledged_ = 0;
  AsyncEvent exited_;
};

// Runs `streams` processes and has `take` read each of them; both know them by place.
template <typename Take>
void Measure(benchmark::State& state, Daemon& daemon, Take take) {
  const size_t streams = state.range(0);
  for (auto _ : state) {
    std::vector<std::shared_ptr<guest::Process>> processes;
    for (size_t i = 0; i < streams; ++i) processes.push_back(daemon.Write(kTotal / streams));
    const auto begun = std::chrono::steady_clock::now();
    const size_t came = take(processes);
    state.SetIterationTime(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    Check(came == kTotal / streams * streams, absl::StrCat(came, " bytes came"));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kTotal));
}

void Relay(benchmark::State& state, Far far) {
  Daemon& daemon = DaemonOf(far);
  Measure(state, daemon, [&](const std::vector<std::shared_ptr<guest::Process>>& processes) {
    IoThread& thread = daemon.thread();
    std::vector<std::unique_ptr<Taker>> takers;
    thread.Do([&] {
      for (const auto& process : processes) {
        takers.push_back(std::make_unique<Taker>(thread.executor(), process));
      }
    });
    size_t came = 0;
    for (const auto& taker : takers) came += thread.Await(taker->AwaitEnd());
    thread.Do([&] { takers.clear(); });
    return came;
  });
}

// What a client does with a stream, but for writing it out.
Task<size_t> TakeAll(Executor executor, v1::GuestService::Stub* stub, uint32_t pid) {
  using Async = v1::GuestService::StubInterface::async_interface;
  auto call = rpc::OpenBidi(executor, stub->async(), &Async::Attach);
  v1::AttachRequest open;
  open.mutable_open()->set_vm("bench");
  open.mutable_open()->set_process_id(pid);
  open.mutable_open()->set_attachment_id(absl::StrCat(pid));
  call->Write(open);
  size_t taken = 0;
  size_t acknowledged = 0;
  while (auto message = co_await call->Read()) {
    if (message->has_exited()) break;
    v1::AttachRequest request;
    if (message->has_output()) {
      taken += message->output().data().size();
      if (taken - acknowledged < kAcknowledgeEach) continue;
      acknowledged = taken;
      request.mutable_ack()->set_stream(message->output().stream());
      request.mutable_ack()->set_offset(taken);
    } else if (message->has_output_end()) {
      request.mutable_ack()->set_stream(message->output_end().stream());
      request.mutable_ack()->set_offset(message->output_end().offset());
      request.mutable_ack()->set_end_taken(true);
    } else {
      continue;
    }
    call->Write(request);
  }
  v1::AttachRequest request;
  request.mutable_exit_taken();
  call->Write(request);
  call->WritesDone();
  while ((co_await call->Read()).has_value()) {
  }
  (void)co_await call->Finish();
  co_return taken;
}

void RelayAndGrpc(benchmark::State& state, Far far) {
  IoThread client;
  Daemon& daemon = DaemonOf(far);
  auto channel = rpc::MakeChannel(daemon.address(), {});
  Check(channel.status());
  const auto stub = v1::GuestService::NewStub(*channel);
  Measure(state, daemon, [&](const std::vector<std::shared_ptr<guest::Process>>& processes) {
    std::vector<std::future<size_t>> taken;
    for (const auto& process : processes) {
      taken.push_back(asio::co_spawn(client.executor(),
                                     TakeAll(client.executor(), stub.get(), process->pid()),
                                     asio::use_future));
    }
    size_t came = 0;
    for (auto& each : taken) came += each.get();
    return came;
  });
}

// One thread writes, one copies, one reads.
void BM_OnlyCopied(benchmark::State& state) {
  constexpr size_t kPiece = 32 * 1024;
  for (auto _ : state) {
    auto [from, in] = SocketPair();
    auto [out, to] = SocketPair();
    const auto begun = std::chrono::steady_clock::now();
    std::thread writer([fd = from.get()] {
      const std::string piece(kPiece, '\0');
      for (size_t sent = 0; sent < kTotal; sent += kPiece) {
        Check(::send(fd, piece.data(), kPiece, MSG_NOSIGNAL) == kPiece, "send");
      }
    });
    const auto take = [](int fd, const std::function<void(const char*, size_t)>& give) {
      std::string piece(kPiece, '\0');
      for (size_t taken = 0; taken < kTotal;) {
        const ssize_t size = ::recv(fd, piece.data(), kPiece, 0);
        Check(size > 0, "recv");
        give(piece.data(), size);
        taken += size;
      }
    };
    std::thread copier([&take, from_fd = in.get(), to_fd = out.get()] {
      take(from_fd, [&](const char* data, size_t size) {
        Check(::send(to_fd, data, size, MSG_NOSIGNAL) == static_cast<ssize_t>(size), "send");
      });
    });
    take(to.get(), [](const char*, size_t) {});
    state.SetIterationTime(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    writer.join();
    copier.join();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kTotal));
}

BENCHMARK(BM_OnlyCopied)->UseManualTime()->Unit(benchmark::kMillisecond);
#define FERRY_BENCHMARK(what, name, far) \
  BENCHMARK_CAPTURE(what, name, far)     \
      ->Arg(1)                           \
      ->Arg(64)                          \
      ->UseManualTime()                  \
      ->Unit(benchmark::kMillisecond)
FERRY_BENCHMARK(Relay, host_by_sockets, Far::kFeederBySockets);
FERRY_BENCHMARK(Relay, host_by_serial, Far::kFeederBySerial);
FERRY_BENCHMARK(Relay, agent_by_serial, Far::kAgentBySerial);
FERRY_BENCHMARK(RelayAndGrpc, host_by_sockets, Far::kFeederBySockets);
FERRY_BENCHMARK(RelayAndGrpc, host_by_serial, Far::kFeederBySerial);
FERRY_BENCHMARK(RelayAndGrpc, agent_by_serial, Far::kAgentBySerial);

}  // namespace
}  // namespace ferry::vm

BENCHMARK_MAIN();
