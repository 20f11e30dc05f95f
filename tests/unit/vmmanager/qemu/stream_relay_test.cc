#include "vmmanager/qemu/stream_relay.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <csignal>
#include <string>
#include <thread>
#include <utility>

namespace ferry::vm {
namespace {

constexpr size_t kManyBytes = 4 << 20;

struct RelayPipe {
  RelayPipe() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read.Reset(ends[0]);
    write.Reset(ends[1]);
  }
  UniqueFd read;
  UniqueFd write;
};

std::thread WriteMany(UniqueFd to) {
  return std::thread([to = std::move(to)] {
    const std::string bytes(kManyBytes, 'x');
    size_t written = 0;
    while (written < bytes.size()) {
      const ssize_t count = ::write(to.get(), bytes.data() + written, bytes.size() - written);
      EXPECT_GT(count, 0);
      if (count <= 0) return;
      written += static_cast<size_t>(count);
    }
  });
}

// Reads up to `most` bytes, and closes its end then.
std::thread ReadSome(UniqueFd from, size_t most, size_t* taken) {
  return std::thread([from = std::move(from), most, taken] {
    std::array<char, 4096> buffer;
    while (*taken < most) {
      const ssize_t count = ::read(from.get(), buffer.data(), buffer.size());
      if (count <= 0) return;
      *taken += static_cast<size_t>(count);
    }
  });
}

absl::Status RelayMany(size_t most, size_t* taken) {
  std::signal(SIGPIPE, SIG_IGN);
  asio::io_context io;
  RelayPipe in;
  RelayPipe out;
  std::thread writer = WriteMany(std::move(in.write));
  std::thread reader = ReadSome(std::move(out.read), most, taken);
  StreamRelay relay(io.get_executor(), std::move(in.read), std::move(out.write));
  relay.Start();
  absl::Status result = absl::UnknownError("it did not end");
  auto await_end = [](StreamRelay* what, absl::Status* into) -> Task<void> {
    *into = co_await what->AwaitEnd();
  };
  Spawn(io.get_executor(), await_end(&relay, &result));
  io.run();
  writer.join();
  reader.join();
  return result;
}

TEST(StreamRelayTest, CarriesAllOfIt) {
  size_t taken = 0;
  const absl::Status result = RelayMany(2 * kManyBytes, &taken);
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(taken, kManyBytes);
}

// Whoever writes must not be held up, nor see an error.
TEST(StreamRelayTest, ThrowsTheRestAway) {
  size_t taken = 0;
  EXPECT_FALSE(RelayMany(kManyBytes / 4, &taken).ok());
  EXPECT_LT(taken, kManyBytes);
}

}  // namespace
}  // namespace ferry::vm
