// What it costs that the daemons carry the migration stream: 1 GiB through
//   Unix socket -> SessionConnection -> TCP loopback -> SessionConnection -> Unix socket
// with each daemon on a thread of its own, in the clear and over TLS, against a direct TCP
// connection and against two relays that only splice. Read the ratio; the absolute numbers are the
// machine's.
#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "bridge/runtime/async.h"
#include "migration/connection/session_connection.h"
#include "migration/connection/tls_stream.h"
#include "vmmanager/identity/authority.h"

namespace ferry::migration {
namespace {

constexpr size_t kTotal = size_t{1} << 30;
constexpr size_t kPiece = 256 * 1024;  // what QEMU writes at once is of this order

void Check(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::abort();
}

// Two ends of one TCP connection over loopback.
std::pair<UniqueFd, UniqueFd> TcpPair() {
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  Check(::bind(listener.get(), generic, size) == 0, "bind");
  Check(::listen(listener.get(), 1) == 0, "listen");
  Check(::getsockname(listener.get(), generic, &size) == 0, "getsockname");
  UniqueFd a(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Check(::connect(a.get(), generic, size) == 0, "connect");
  UniqueFd b(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Check(b.valid(), "accept");
  const int on = 1;
  for (const int fd : {a.get(), b.get()}) {
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  return {std::move(a), std::move(b)};
}

std::pair<UniqueFd, UniqueFd> UnixPair() {
  int fds[2];
  Check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

void WriteTotal(int fd) {
  std::string piece(kPiece, '\0');
  for (size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<char>(i * 31);
  for (size_t sent = 0; sent < kTotal;) {
    const ssize_t n = ::send(fd, piece.data(), std::min(kPiece, kTotal - sent), MSG_NOSIGNAL);
    Check(n > 0, "send");
    sent += static_cast<size_t>(n);
  }
}

void ReadTotal(int fd) {
  std::vector<char> buffer(kPiece);
  for (size_t got = 0; got < kTotal;) {
    const ssize_t n = ::recv(fd, buffer.data(), buffer.size(), 0);
    Check(n > 0, "recv");
    got += static_cast<size_t>(n);
  }
}

double Seconds(int from, int to) {
  const auto start = std::chrono::steady_clock::now();
  std::thread writer(WriteTotal, from);
  ReadTotal(to);
  writer.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double DirectTcp() {
  auto [a, b] = TcpPair();
  return Seconds(a.get(), b.get());
}

// Moves everything from one socket to another without looking at it.
void SpliceAll(int from, int to) {
  int pipe_fds[2];
  Check(::pipe2(pipe_fds, O_CLOEXEC) == 0, "pipe2");
  UniqueFd out(pipe_fds[0]);
  UniqueFd in(pipe_fds[1]);
  ::fcntl(in.get(), F_SETPIPE_SZ, 1024 * 1024);
  for (size_t moved = 0; moved < kTotal;) {
    ssize_t size = ::splice(from, nullptr, in.get(), nullptr, 1024 * 1024, SPLICE_F_MOVE);
    Check(size > 0, "splice in");
    moved += static_cast<size_t>(size);
    while (size > 0) {
      const ssize_t n = ::splice(out.get(), nullptr, to, nullptr, size, SPLICE_F_MOVE);
      Check(n > 0, "splice out");
      size -= n;
    }
  }
}

double TwoSplices() {
  auto [vmm_a, relay_a] = UnixPair();
  auto [tcp_a, tcp_b] = TcpPair();
  auto [relay_b, vmm_b] = UnixPair();
  std::thread first(SpliceAll, relay_a.get(), tcp_a.get());
  std::thread second(SpliceAll, tcp_b.get(), relay_b.get());
  const double seconds = Seconds(vmm_a.get(), vmm_b.get());
  first.join();
  second.join();
  return seconds;
}

// A folder that goes away with its owner.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / "ferry-bench-XXXXXX") {
    Check(::mkdtemp(path_.data()) != nullptr, "mkdtemp");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string Path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// The certificate with which both daemons speak TLS.
identity::TlsFiles MakeCertificate(const Folder& folder) {
  const auto authority = identity::MakeAuthority("bench", 86'400);
  Check(authority.ok(), "authority");
  identity::CertificateOrder order;
  order.name = "host";
  order.roles = {identity::Role::kPeer};
  order.addresses = {"DNS:host"};
  order.lifetime = 3'600;
  const auto issued = identity::Issue(*authority, order);
  Check(issued.ok(), "issue");
  const identity::TlsFiles files{folder.Path("ca"), folder.Path("cert"), folder.Path("key")};
  std::ofstream(files.ca) << authority->certificate;
  std::ofstream(files.cert) << issued->certificate;
  std::ofstream(files.key) << issued->key;
  return files;
}

std::shared_ptr<TlsContext> ContextOf(const identity::TlsFiles& files) {
  if (files.empty()) return nullptr;
  auto opened = identity::CertificateFiles::Open(files);
  Check(opened.ok(), "certificate files");
  return MakeTlsContext(*std::move(opened));
}

// One daemon: a context with its thread, and its end of the session connection.
class Daemon {
 public:
  Daemon(UniqueFd tcp, Role role, std::shared_ptr<TlsContext> tls) : tls_(std::move(tls)) {
    HandshakeParams params;
    params.role = role;
    params.session_id = "bench";
    params.token = std::string(kSessionTokenSize, 'b');
    connected_ = asio::co_spawn(context_, Open(this, std::move(tcp), params), asio::use_future);
    thread_ = std::thread([this] { context_.run(); });
  }
  ~Daemon() {
    auto closing = [](Daemon* self) -> Task<void> {
      self->connection_->Close();
      self->connection_.reset();
      co_return;
    };
    asio::co_spawn(context_, closing(this), asio::use_future).get();
    work_.reset();
    thread_.join();
  }

  void WaitConnected() { connected_.get(); }
  void Relay(bool listen, const std::string& path) {
    auto start = [](Daemon* self, bool l, std::string p) -> Task<void> {
      const absl::Status status =
          l ? self->connection_->RelayFromListener(p) : self->connection_->RelayToPath(p);
      Check(status.ok(), "relay");
      co_return;
    };
    asio::co_spawn(context_, start(this, listen, path), asio::use_future).get();
  }

 private:
  static Task<void> Open(Daemon* self, UniqueFd tcp, HandshakeParams params) {
    if (self->tls_ == nullptr) {
      auto connection = co_await SessionConnection::Handshake(std::move(tcp), params);
      Check(connection.ok(), "handshake");
      self->connection_ = *connection;
      co_return;
    }
    absl::StatusOr<std::unique_ptr<ByteStream>> stream;
    if (params.role == Role::kSource) {
      stream = co_await MakeTlsClientStream(std::move(tcp), self->tls_, "host", kHandshakeDeadline);
    } else {
      stream = co_await MakeTlsServerStream(std::move(tcp), self->tls_, kHandshakeDeadline);
    }
    Check(stream.ok(), "TLS");
    auto connection = co_await SessionConnection::Handshake(*std::move(stream), params);
    Check(connection.ok(), "handshake");
    self->connection_ = *connection;
  }

  const std::shared_ptr<TlsContext> tls_;  // or nullptr

  asio::io_context context_{1};
  // The other daemon's goodbye must not end the thread before the destructor has used it.
  asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
  std::shared_ptr<SessionConnection> connection_;
  std::future<void> connected_;
  std::thread thread_;
};

UniqueFd UnixSocket(const std::string& path, bool listen) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (listen) {
    Check(::bind(fd.get(), generic, sizeof address) == 0, "bind");
    Check(::listen(fd.get(), 4) == 0, "listen");
  } else {
    Check(::connect(fd.get(), generic, sizeof address) == 0, "connect");
  }
  return fd;
}

double ThroughSession(bool encrypted) {
  const Folder folder;
  auto [a, b] = TcpPair();
  const identity::TlsFiles files = encrypted ? MakeCertificate(folder) : identity::TlsFiles();
  Daemon source(std::move(a), Role::kSource, ContextOf(files));
  Daemon destination(std::move(b), Role::kDestination, ContextOf(files));
  source.WaitConnected();
  destination.WaitConnected();
  const UniqueFd vmm = UnixSocket(folder.Path("to"), true);
  destination.Relay(false, folder.Path("to"));
  source.Relay(true, folder.Path("from"));
  const UniqueFd from = UnixSocket(folder.Path("from"), false);
  const UniqueFd to(::accept4(vmm.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Check(to.valid(), "accept");
  return Seconds(from.get(), to.get());
}

// The ways in turn, so that the machine's moods meet all of them alike.
void BM_SessionRelay(benchmark::State& state) {
  std::vector<double> direct, splice, session, encrypted;
  for (auto _ : state) {
    direct.push_back(DirectTcp());
    splice.push_back(TwoSplices());
    session.push_back(ThroughSession(false));
    encrypted.push_back(ThroughSession(true));
    state.SetIterationTime(session.back());
  }
  const auto median = [](std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  };
  const double gib = static_cast<double>(kTotal) / (size_t{1} << 30);
  state.counters["direct_GiB/s"] = gib / median(direct);
  state.counters["splice_GiB/s"] = gib / median(splice);
  state.counters["session_GiB/s"] = gib / median(session);
  state.counters["tls_GiB/s"] = gib / median(encrypted);
  state.counters["session/direct_time"] = median(session) / median(direct);
  state.counters["session/splice_time"] = median(session) / median(splice);
  state.counters["tls/session_time"] = median(encrypted) / median(session);
}

}  // namespace
}  // namespace ferry::migration

// How often each way is measured is the argument beside the library's own.
int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  int rounds = 9;
  if (argc > 2 || (argc == 2 && (!absl::SimpleAtoi(argv[1], &rounds) || rounds < 1))) {
    std::fprintf(stderr, "usage: ferry_bench_relay [ROUNDS] [--benchmark_OPTION=VALUE]...\n");
    return 2;
  }
  benchmark::RegisterBenchmark("BM_SessionRelay", ferry::migration::BM_SessionRelay)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(rounds);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
