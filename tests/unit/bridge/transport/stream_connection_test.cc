#include "bridge/transport/stream_connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>

#include "tests/unit/bridge/run_task.h"

namespace ferry::bridge {
namespace {

Task<void> ReadInto(Connection* connection, absl::StatusOr<std::string>* result) {
  char buffer[100];
  absl::StatusOr<size_t> count = co_await connection->Read(buffer);
  if (count.ok()) {
    *result = std::string(buffer, *count);
  } else {
    *result = count.status();
  }
}

Task<void> WriteInto(Connection* connection, std::string data, absl::Status* result) {
  *result = co_await connection->Write(data);
}

class StreamConnectionTest : public testing::Test {
 protected:
  StreamConnectionTest() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    gate = std::make_shared<ReadGate>(io.get_executor());
    a = std::make_unique<StreamSocketConnection>(io.get_executor(), UniqueFd(fds[0]), gate);
    b = std::make_unique<StreamSocketConnection>(io.get_executor(), UniqueFd(fds[1]));
  }

  asio::io_context io;
  std::shared_ptr<ReadGate> gate;
  std::unique_ptr<StreamSocketConnection> a;
  std::unique_ptr<StreamSocketConnection> b;
  absl::StatusOr<std::string> got = absl::UnknownError("pending");
  absl::Status written = absl::UnknownError("pending");
};

TEST_F(StreamConnectionTest, ReadsWhatTheOtherSideWritesAndThenItsEnd) {
  RunTask(io, WriteInto(b.get(), "hello", &written));
  EXPECT_TRUE(written.ok());
  RunTask(io, ReadInto(a.get(), &got));
  EXPECT_EQ(got.value_or("error"), "hello");
  auto end = [](Connection* b) -> Task<void> { EXPECT_TRUE((co_await b->CloseWrite()).ok()); };
  RunTask(io, end(b.get()));
  RunTask(io, ReadInto(a.get(), &got));
  EXPECT_EQ(got.value_or("error"), "");
  RunTask(io, WriteInto(a.get(), "still", &written));
  RunTask(io, ReadInto(b.get(), &got));
  EXPECT_EQ(got.value_or("error"), "still");
}

TEST_F(StreamConnectionTest, AWriteWaitsUntilAllIsTaken) {
  const std::string data(4 * 1024 * 1024, 'x');
  Spawn(io.get_executor(), WriteInto(b.get(), data, &written));
  RunReady(io);
  EXPECT_TRUE(absl::IsUnknown(written)) << "the socket cannot hold that much";
  auto take = [](Connection* a, size_t size) -> Task<void> {
    std::string buffer(64 * 1024, '\0');
    size_t taken = 0;
    while (taken < size) {
      std::span<char> space(buffer);
      absl::StatusOr<size_t> count = co_await a->Read(space);
      if (!count.ok() || *count == 0) break;
      taken += *count;
    }
    EXPECT_EQ(taken, size);
  };
  RunTask(io, take(a.get(), data.size()));
  RunReady(io);
  EXPECT_TRUE(written.ok()) << written;
}

TEST_F(StreamConnectionTest, CloseCancelsPendingOperationsAndEndsThePeer) {
  Spawn(io.get_executor(), ReadInto(a.get(), &got));
  Spawn(io.get_executor(), WriteInto(a.get(), std::string(4 * 1024 * 1024, 'x'), &written));
  RunReady(io);
  a->Close();
  a->Close();
  RunReady(io);
  EXPECT_TRUE(absl::IsCancelled(got.status())) << got.status();
  EXPECT_TRUE(absl::IsCancelled(written)) << written;
  RunTask(io, WriteInto(b.get(), "x", &written));
  EXPECT_TRUE(absl::IsUnavailable(written)) << written;
}

TEST_F(StreamConnectionTest, APeerThatIsGoneIsUnavailable) {
  b.reset();
  RunTask(io, WriteInto(a.get(), "x", &written));
  EXPECT_TRUE(absl::IsUnavailable(written)) << written;
}

TEST_F(StreamConnectionTest, TheGateHoldsReadsWithoutLoss) {
  Spawn(io.get_executor(), ReadInto(a.get(), &got));
  RunReady(io);
  gate->Pause();
  RunTask(io, WriteInto(b.get(), "held", &written));
  RunReady(io);
  EXPECT_TRUE(absl::IsUnknown(got.status())) << "also a read that waited already is held";
  gate->Resume();
  RunReady(io);
  EXPECT_EQ(got.value_or("error"), "held");
}

TEST_F(StreamConnectionTest, ACancelledReadTakesNoBytes) {
  TaskScope scope(io.get_executor());
  scope.Spawn(ReadInto(a.get(), &got));
  RunReady(io);
  scope.Cancel();
  RunTask(io, WriteInto(b.get(), "kept", &written));
  RunTask(io, scope.CancelAndJoin());
  EXPECT_TRUE(absl::IsUnknown(got.status()));
  RunTask(io, ReadInto(a.get(), &got));
  EXPECT_EQ(got.value_or("error"), "kept");
}

}  // namespace
}  // namespace ferry::bridge
