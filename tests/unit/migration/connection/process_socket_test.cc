#include "migration/connection/process_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "migration/connection/byte_stream.h"
#include "tests/unit/migration/connection/connection_fixture.h"
#include "tests/unit/migration/connection/other_process.h"

namespace ferry::migration {
namespace {

using testing::HasSubstr;

UniqueFd Listener() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(fd.get(), 1), 0);
  return fd;
}

TEST(ProcessSocketTest, OutlivesTheProcessThatItWasTakenFrom) {
  auto [near, far] = SocketPair();
  OtherProcess holder;
  const int number = far.get();
  far = UniqueFd();
  auto taken = TakeProcessSocket({holder.pid(), number}, ::geteuid());
  ASSERT_TRUE(taken.ok()) << taken.status();
  holder.End();
  ASSERT_EQ(::send(near.get(), "alive", 5, MSG_NOSIGNAL), 5);
  char bytes[8];
  EXPECT_EQ(::recv(taken->get(), bytes, sizeof bytes, 0), 5);
  near = UniqueFd();
  EXPECT_EQ(::recv(taken->get(), bytes, sizeof bytes, 0), 0);
}

TEST(ProcessSocketTest, OnlyAConnectedStreamSocketIsTaken) {
  UniqueFd unconnected(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  UniqueFd datagram(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  UniqueFd packets(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const UniqueFd listener = Listener();
  OtherProcess holder;
  const std::pair<int, const char*> cases[] = {{unconnected.get(), "is not connected"},
                                               {datagram.get(), "not a stream socket"},
                                               {packets.get(), "not a stream socket"},
                                               {STDERR_FILENO, "not a stream socket"},
                                               {listener.get(), "listens for connections"}};
  for (const auto& [fd, text] : cases) {
    auto taken = TakeProcessSocket({holder.pid(), fd}, ::geteuid());
    EXPECT_EQ(taken.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(taken.status().message()), HasSubstr(text));
  }
}

TEST(ProcessSocketTest, WhatIsNotThereIsNamed) {
  OtherProcess holder;
  EXPECT_EQ(TakeProcessSocket({holder.pid(), 99999}, ::geteuid()).status().code(),
            absl::StatusCode::kNotFound);
  holder.End();
  for (const uid_t caller : {uid_t{0}, uid_t{12345}}) {
    EXPECT_EQ(TakeProcessSocket({holder.pid(), 0}, caller).status().code(),
              absl::StatusCode::kNotFound);
  }
  for (const ProcessSocket& wrong :
       {ProcessSocket{0, 1}, ProcessSocket{-1, 1}, ProcessSocket{1, -1}}) {
    EXPECT_EQ(TakeProcessSocket(wrong, 0).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ProcessSocketTest, OtherUsersProcessesAndTheDaemonItselfAreRefused) {
  auto [near, far] = SocketPair();
  OtherProcess holder;
  auto taken = TakeProcessSocket({holder.pid(), far.get()}, ::geteuid() + 1);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr("another user"));
  EXPECT_EQ(TakeProcessSocket({::getpid(), far.get()}, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ferry::migration
