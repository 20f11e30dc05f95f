#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "bridge/runtime/async.h"
#include "migration/connection/session_connection.h"
#include "tests/unit/migration/connection/test_params.h"

namespace ferry::migration {

// A folder of the test's own, removed with it.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "ferry-conn-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string Noise(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

inline std::pair<UniqueFd, UniqueFd> SocketPair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) std::abort();
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// Runs a test's coroutine to its end, and everything that it started as well.
// Its members are public for the coroutines of the tests.
class ConnectionFixture : public testing::Test {
 public:
  using Connection = std::shared_ptr<SessionConnection>;

  void Run(Task<void> body) {
    bool done = false;
    std::exception_ptr failure;
    asio::co_spawn(context_, std::move(body), [&](std::exception_ptr e) {
      done = true;
      failure = e;
    });
    context_.run();
    if (failure) std::rethrow_exception(failure);
    EXPECT_TRUE(done) << "nothing was left to do, yet the test had not ended";
  }

  // A source and a destination over a socket pair.
  static Task<void> Connect(Connection* source, Connection* destination,
                            SessionLimits limits = {}) {
    auto [a, b] = SocketPair();
    HandshakeParams source_params = TestParams(Role::kSource);
    HandshakeParams destination_params = TestParams(Role::kDestination);
    co_await ConnectOver(std::move(a), std::move(b), source_params, destination_params, limits,
                         source, destination);
  }

  static Task<void> ConnectOver(UniqueFd a, UniqueFd b, HandshakeParams source_params,
                                HandshakeParams destination_params, SessionLimits limits,
                                Connection* source, Connection* destination) {
    using asio::experimental::awaitable_operators::operator&&;
    auto source_side = SessionConnection::Handshake(std::move(a), source_params, limits);
    auto destination_side = SessionConnection::Handshake(std::move(b), destination_params, limits);
    auto [s, d] = co_await (std::move(source_side) && std::move(destination_side));
    EXPECT_TRUE(s.ok()) << s.status();
    EXPECT_TRUE(d.ok()) << d.status();
    if (s.ok()) *source = *s;
    if (d.ok()) *destination = *d;
  }

  asio::io_context context_{1};
};

}  // namespace ferry::migration
