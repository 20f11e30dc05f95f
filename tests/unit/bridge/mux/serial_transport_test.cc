#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <string>
#include <utility>

#include "bridge/mux/serial_guest_transport.h"
#include "bridge/mux/serial_host_transport.h"
#include "bridge/runtime/async.h"
#include "tests/unit/bridge/run_task.h"

namespace ferry::bridge {
namespace {

std::pair<UniqueFd, UniqueFd> SocketPair() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 1;
  for (char& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

// Reads until the end, an error, or `limit` bytes.
Task<absl::StatusOr<std::string>> ReadUpTo(Connection* connection, size_t limit) {
  std::string all;
  std::string buffer(64 * 1024, '\0');
  while (all.size() < limit) {
    std::span<char> space(buffer.data(), std::min(buffer.size(), limit - all.size()));
    absl::StatusOr<size_t> count = co_await connection->Read(space);
    if (!count.ok()) co_return count.status();
    if (*count == 0) break;
    all.append(buffer.data(), *count);
  }
  co_return all;
}

Task<void> WriteInto(Connection* connection, std::string data, absl::Status* result) {
  *result = co_await connection->Write(data);
}

Task<void> AcceptInto(Listener* listener, absl::StatusOr<std::unique_ptr<Connection>>* result) {
  *result = co_await listener->Accept();
}

Task<void> ReadInto(Connection* connection, absl::StatusOr<size_t>* result) {
  char buffer[100];
  *result = co_await connection->Read(buffer);
}

struct Ends {
  std::unique_ptr<Connection> host;
  std::unique_ptr<Connection> guest;
};

class SerialTransportTest : public testing::Test {
 public:
  SerialTransportTest() {
    auto [host_fd, guest_fd] = SocketPair();
    host = std::make_unique<SerialHostTransport>(io.get_executor());
    listener = host->Listen(kPort).value();
    host->AttachLink(std::move(host_fd));
    guest = std::make_unique<SerialGuestTransport>(io.get_executor(), std::move(guest_fd));
  }

  Task<uint64_t> Up() { return guest->WaitForLink(0); }

  Task<Ends> Open() {
    Ends ends;
    co_await Up();
    absl::StatusOr<std::unique_ptr<Connection>> dialed = co_await guest->Dial(kPort);
    EXPECT_TRUE(dialed.ok()) << dialed.status();
    ends.guest = *std::move(dialed);
    absl::StatusOr<std::unique_ptr<Connection>> accepted = co_await listener->Accept();
    EXPECT_TRUE(accepted.ok()) << accepted.status();
    ends.host = *std::move(accepted);
    co_return ends;
  }

  Ends OpenNow() {
    Ends ends;
    auto task = [](SerialTransportTest* self, Ends* out) -> Task<void> {
      *out = co_await self->Open();
    };
    RunTask(io, task(this, &ends));
    return ends;
  }

  static constexpr uint32_t kPort = 0x40000000;
  asio::io_context io;
  std::unique_ptr<SerialHostTransport> host;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<SerialGuestTransport> guest;
};

TEST_F(SerialTransportTest, CarriesMuchDataBothWaysAtOnceAndItsEnd) {
  Ends ends = OpenNow();
  const std::string data = Pattern(8 * 1024 * 1024 + 17);
  absl::Status up = absl::UnknownError("");
  absl::Status down = absl::UnknownError("");
  Spawn(io.get_executor(), WriteInto(ends.guest.get(), data, &up));
  Spawn(io.get_executor(), WriteInto(ends.host.get(), data, &down));
  auto task = [](Ends* ends, const std::string* data) -> Task<void> {
    absl::StatusOr<std::string> at_host = co_await ReadUpTo(ends->host.get(), data->size());
    EXPECT_TRUE(at_host.ok() && *at_host == *data);
    absl::StatusOr<std::string> at_guest = co_await ReadUpTo(ends->guest.get(), data->size());
    EXPECT_TRUE(at_guest.ok() && *at_guest == *data);
    EXPECT_TRUE((co_await ends->guest->CloseWrite()).ok());
    absl::StatusOr<std::string> rest = co_await ReadUpTo(ends->host.get(), 1);
    EXPECT_TRUE(rest.ok() && rest->empty());
    EXPECT_TRUE((co_await ends->host->Write("after the half-close")).ok());
    EXPECT_TRUE((co_await ends->host->CloseWrite()).ok());
    rest = co_await ReadUpTo(ends->guest.get(), 1000);
    EXPECT_EQ(rest.value_or("error"), "after the half-close");
  };
  RunTask(io, task(&ends, &data));
  EXPECT_TRUE(up.ok()) << up;
  EXPECT_TRUE(down.ok()) << down;
}

TEST_F(SerialTransportTest, HelloSentBeforeTheGuestOpensThePortIsEnough) {
  auto [host_fd, guest_fd] = SocketPair();
  host->AttachLink(std::move(host_fd));
  RunReady(io);
  SerialGuestTransport late(io.get_executor(), std::move(guest_fd));
  auto task = [](SerialGuestTransport* late) -> Task<void> {
    uint64_t count = co_await late->WaitForLink(0);
    EXPECT_EQ(count, 1u);
  };
  RunTask(io, task(&late));
}

TEST_F(SerialTransportTest, PausedItSendsNothingOverANewLinkUntilItResumes) {
  auto [host_fd, guest_fd] = SocketPair();
  host->PauseReading();
  host->AttachLink(std::move(host_fd));
  RunReady(io);
  char byte = 0;
  EXPECT_EQ(::recv(guest_fd.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK), -1);
  host->ResumeReading();
  RunReady(io);
  EXPECT_EQ(::recv(guest_fd.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK), 1);
}

TEST_F(SerialTransportTest, CountsTheLinksAndKnowsThatThereIsNone) {
  EXPECT_EQ(guest->links(), 0u);
  const Ends ends = OpenNow();
  EXPECT_EQ(guest->links(), 1u);
  host->DetachLink();
  RunReady(io);
  EXPECT_EQ(guest->links(), 0u);
}

TEST_F(SerialTransportTest, ARefusedPortIsUnavailable) {
  auto task = [](SerialGuestTransport* guest) -> Task<void> {
    co_await guest->WaitForLink(0);
    absl::StatusOr<std::unique_ptr<Connection>> dialed = co_await guest->Dial(99);
    EXPECT_TRUE(absl::IsUnavailable(dialed.status())) << dialed.status();
  };
  RunTask(io, task(guest.get()));
}

TEST_F(SerialTransportTest, DialWithoutALinkIsUnavailableAtOnce) {
  auto [host_fd, guest_fd] = SocketPair();
  SerialGuestTransport lonely(io.get_executor(), std::move(guest_fd));
  auto task = [](SerialGuestTransport* lonely) -> Task<void> {
    absl::StatusOr<std::unique_ptr<Connection>> dialed = co_await lonely->Dial(1);
    EXPECT_TRUE(absl::IsUnavailable(dialed.status())) << dialed.status();
  };
  RunTask(io, task(&lonely));
}

TEST_F(SerialTransportTest, APortIsListenedOnOnce) {
  EXPECT_TRUE(absl::IsAlreadyExists(host->Listen(kPort).status()));
  listener->Close();
  EXPECT_TRUE(host->Listen(kPort).ok());
}

TEST_F(SerialTransportTest, ClosingTheListenerEndsAccept) {
  absl::StatusOr<std::unique_ptr<Connection>> result;
  Spawn(io.get_executor(), AcceptInto(listener.get(), &result));
  RunReady(io);
  listener->Close();
  RunReady(io);
  EXPECT_TRUE(absl::IsCancelled(result.status())) << result.status();
}

TEST_F(SerialTransportTest, ClosingAConnectionCancelsItsReadAndResetsThePeer) {
  Ends ends = OpenNow();
  absl::StatusOr<size_t> own = 0;
  absl::StatusOr<size_t> peer = 0;
  Spawn(io.get_executor(), ReadInto(ends.host.get(), &own));
  Spawn(io.get_executor(), ReadInto(ends.guest.get(), &peer));
  RunReady(io);
  ends.host->Close();
  ends.host->Close();
  RunReady(io);
  EXPECT_TRUE(absl::IsCancelled(own.status())) << own.status();
  EXPECT_TRUE(absl::IsUnavailable(peer.status())) << peer.status();
}

TEST_F(SerialTransportTest, AStalledStreamBlocksNoOther) {
  Ends stalled = OpenNow();
  Ends other = OpenNow();
  absl::Status stuck = absl::UnknownError("still writing");
  const std::string data = Pattern(3 * 1024 * 1024);
  Spawn(io.get_executor(), WriteInto(stalled.guest.get(), data, &stuck));
  absl::Status written;
  Spawn(io.get_executor(), WriteInto(other.guest.get(), data, &written));
  auto read = [](Connection* from, const std::string* data) -> Task<void> {
    absl::StatusOr<std::string> got = co_await ReadUpTo(from, data->size());
    EXPECT_TRUE(got.ok() && *got == *data);
  };
  RunTask(io, read(other.host.get(), &data));
  EXPECT_TRUE(absl::IsUnknown(stuck)) << "the stalled one waits for its own reader";
  RunTask(io, read(stalled.host.get(), &data));
  RunReady(io);
  EXPECT_TRUE(stuck.ok()) << stuck;
}

TEST_F(SerialTransportTest, ReplacingTheStreamFailsAllConnectionsAndRedialWorks) {
  Ends ends = OpenNow();
  absl::StatusOr<size_t> reading = 0;
  Spawn(io.get_executor(), ReadInto(ends.host.get(), &reading));
  absl::Status writing;
  Spawn(io.get_executor(), WriteInto(ends.host.get(), Pattern(4 * 1024 * 1024), &writing));
  RunReady(io);
  bool lost = false;
  host->set_on_link_lost([&] { lost = true; });
  auto [host_fd, guest_fd] = SocketPair();
  host->AttachLink(std::move(host_fd));
  RunReady(io);
  EXPECT_TRUE(absl::IsUnavailable(reading.status())) << reading.status();
  EXPECT_TRUE(absl::IsUnavailable(writing)) << writing;
  EXPECT_FALSE(lost) << "a replaced stream is not a lost one";
  guest = std::make_unique<SerialGuestTransport>(io.get_executor(), std::move(guest_fd));
  Ends again = OpenNow();
  EXPECT_NE(again.guest, nullptr);
}

TEST_F(SerialTransportTest, TheStreamsEndIsReported) {
  Ends ends = OpenNow();
  absl::StatusOr<size_t> reading = 0;
  Spawn(io.get_executor(), ReadInto(ends.host.get(), &reading));
  bool lost = false;
  host->set_on_link_lost([&] { lost = true; });
  guest.reset();
  auto wait = [](Executor executor, bool* lost) -> Task<void> {
    while (!*lost) co_await asio::post(executor, asio::use_awaitable);
  };
  RunTask(io, wait(io.get_executor(), &lost));
  RunReady(io);
  EXPECT_TRUE(absl::IsUnavailable(reading.status())) << reading.status();
  EXPECT_FALSE(host->established());
}

TEST_F(SerialTransportTest, TheTransportMayBeDestroyedWhenItsLinkIsLost) {
  OpenNow();
  host->set_on_link_lost([&] {
    listener.reset();
    host.reset();
  });
  guest.reset();
  auto wait = [](Executor executor, std::unique_ptr<SerialHostTransport>* host) -> Task<void> {
    while (*host != nullptr) co_await asio::post(executor, asio::use_awaitable);
  };
  RunTask(io, wait(io.get_executor(), &host));
}

TEST_F(SerialTransportTest, PauseHoldsBytesWithoutLoss) {
  Ends ends = OpenNow();
  host->PauseReading();
  absl::Status up = absl::UnknownError("still writing");
  absl::Status down = absl::UnknownError("still writing");
  const std::string data = Pattern(2 * 1024 * 1024);
  absl::StatusOr<size_t> at_host = 12345;
  absl::StatusOr<size_t> at_guest = 12345;
  Spawn(io.get_executor(), WriteInto(ends.guest.get(), data, &up));
  Spawn(io.get_executor(), WriteInto(ends.host.get(), data, &down));
  RunReady(io);
  RunReady(io);
  // The first bytes that a reader gets show that nothing came through before.
  Spawn(io.get_executor(), ReadInto(ends.host.get(), &at_host));
  Spawn(io.get_executor(), ReadInto(ends.guest.get(), &at_guest));
  RunReady(io);
  EXPECT_EQ(at_host.value_or(0), 12345u);
  EXPECT_EQ(at_guest.value_or(0), 12345u);
  host->ResumeReading();
  auto read = [](Connection* from, const std::string* data,
                 const absl::StatusOr<size_t>* first) -> Task<void> {
    while (first->value_or(0) == 12345) {
      Executor executor = co_await asio::this_coro::executor;
      co_await asio::post(executor, asio::use_awaitable);
    }
    size_t rest = data->size() - first->value();
    absl::StatusOr<std::string> got = co_await ReadUpTo(from, rest);
    EXPECT_TRUE(got.ok() && *got == data->substr(first->value()));
  };
  RunTask(io, read(ends.host.get(), &data, &at_host));
  RunTask(io, read(ends.guest.get(), &data, &at_guest));
  RunReady(io);
  EXPECT_TRUE(up.ok()) << up;
  EXPECT_TRUE(down.ok()) << down;
}

TEST_F(SerialTransportTest, ACancelledDialTakesItselfBack) {
  RunReady(io);
  auto task = [](SerialTransportTest* self) -> Task<void> { co_await self->Up(); };
  RunTask(io, task(this));
  host->PauseReading();
  auto dial = [](SerialGuestTransport* guest, bool* unwound) -> Task<void> {
    struct Note {
      bool* flag;
      ~Note() { *flag = true; }
    } note{unwound};
    absl::StatusOr<std::unique_ptr<Connection>> dialed = co_await guest->Dial(kPort);
    ADD_FAILURE() << "dialed although the host does not read";
  };
  bool unwound = false;
  TaskScope scope(io.get_executor());
  scope.Spawn(dial(guest.get(), &unwound));
  RunReady(io);
  EXPECT_FALSE(unwound);
  RunTask(io, scope.CancelAndJoin());
  EXPECT_TRUE(unwound);
  host->ResumeReading();
  Ends ends;
  auto open = [](SerialTransportTest* self, Ends* out, Listener* listener) -> Task<void> {
    absl::StatusOr<std::unique_ptr<Connection>> taken_back = co_await listener->Accept();
    absl::StatusOr<std::string> nothing = co_await ReadUpTo(taken_back->get(), 1);
    EXPECT_TRUE(absl::IsUnavailable(nothing.status())) << nothing.status();
    *out = co_await self->Open();
  };
  RunTask(io, open(this, &ends, listener.get()));
  EXPECT_NE(ends.guest, nullptr);
}

TEST_F(SerialTransportTest, CloseIsFinalAndIdempotent) {
  Ends ends = OpenNow();
  host->Close();
  host->Close();
  EXPECT_TRUE(absl::IsCancelled(host->Listen(5).status()));
  absl::StatusOr<std::unique_ptr<Connection>> accepted;
  absl::StatusOr<size_t> reading = 0;
  Spawn(io.get_executor(), AcceptInto(listener.get(), &accepted));
  Spawn(io.get_executor(), ReadInto(ends.host.get(), &reading));
  RunReady(io);
  EXPECT_TRUE(absl::IsCancelled(accepted.status()));
  EXPECT_TRUE(absl::IsUnavailable(reading.status()));
}

// The guest's port stays open while the host behind it is exchanged, as QEMU's port does over a
// migration: a switch carries bytes between the port and the present host.
class PortSwitch {
 public:
  explicit PortSwitch(UniqueFd port) : port_(std::move(port)) { SetNonBlocking(port_.get()); }

  void Connect(UniqueFd host) {
    host_ = std::move(host);
    SetNonBlocking(host_.get());
  }

  // Carries at most `limit` bytes each way, so that frames are cut anywhere.
  void Carry(size_t limit) {
    Move(port_.get(), host_.get(), limit);
    Move(host_.get(), port_.get(), limit);
  }

 private:
  static void SetNonBlocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }
  static void Move(int from, int to, size_t limit) {
    std::string buffer(limit, '\0');
    ssize_t count = ::recv(from, buffer.data(), buffer.size(), 0);
    if (count > 0) {
      EXPECT_EQ(::send(to, buffer.data(), static_cast<size_t>(count), MSG_NOSIGNAL), count);
    }
  }

  UniqueFd port_;
  UniqueFd host_;
};

TEST(SerialMigrationTest, GuestGoesOnWithTheNewHostWhereverTheCutFalls) {
  for (size_t cut = 1; cut < 200; cut += 3) {
    asio::io_context io;
    auto [switch_port, guest_port] = SocketPair();
    PortSwitch wire(std::move(switch_port));
    SerialGuestTransport guest(io.get_executor(), std::move(guest_port));
    auto carry = [&] {
      for (int i = 0; i < 20; ++i) {
        RunReady(io);
        wire.Carry(4096);
      }
    };
    auto open = [&](SerialHostTransport& host, std::unique_ptr<Listener>& listener) {
      auto [wire_end, host_end] = SocketPair();
      wire.Connect(std::move(wire_end));
      listener = host.Listen(7).value();
      host.AttachLink(std::move(host_end));
    };
    auto dial = [](SerialGuestTransport* guest, std::unique_ptr<Connection>* out) -> Task<void> {
      absl::StatusOr<std::unique_ptr<Connection>> dialed = co_await guest->Dial(7);
      if (dialed.ok()) *out = *std::move(dialed);
    };

    SerialHostTransport source(io.get_executor());
    std::unique_ptr<Listener> source_listener;
    open(source, source_listener);
    carry();
    std::unique_ptr<Connection> at_guest;
    Spawn(io.get_executor(), dial(&guest, &at_guest));
    carry();
    ASSERT_NE(at_guest, nullptr);
    absl::StatusOr<std::unique_ptr<Connection>> at_source;
    Spawn(io.get_executor(), AcceptInto(source_listener.get(), &at_source));
    RunReady(io);
    ASSERT_TRUE(at_source.ok());
    absl::Status up, down;
    Spawn(io.get_executor(), WriteInto(at_guest.get(), Pattern(1000), &up));
    Spawn(io.get_executor(), WriteInto(at_source->get(), Pattern(1000), &down));
    absl::StatusOr<size_t> reading = 0;
    RunReady(io);
    wire.Carry(cut);

    SerialHostTransport destination(io.get_executor());
    std::unique_ptr<Listener> destination_listener;
    open(destination, destination_listener);
    carry();
    ASSERT_TRUE(destination.established()) << cut;
    Spawn(io.get_executor(), ReadInto(at_guest.get(), &reading));
    std::unique_ptr<Connection> again;
    Spawn(io.get_executor(), dial(&guest, &again));
    carry();
    EXPECT_TRUE(absl::IsUnavailable(reading.status())) << cut;
    EXPECT_NE(again, nullptr) << cut;
  }
}

}  // namespace
}  // namespace ferry::bridge
