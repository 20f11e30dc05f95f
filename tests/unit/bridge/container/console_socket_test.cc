#include "bridge/container/console_socket.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>

namespace ferry::bridge {
namespace {

class ConsoleSocketTest : public testing::Test {
 protected:
  ConsoleSocketTest() {
    char name[] = "/tmp/ferry-console-XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~ConsoleSocketTest() override { std::filesystem::remove_all(folder_); }

  std::string path() const { return folder_ + "/socket"; }

  // What the runtime does; -1 sends a text alone.
  void Send(int fd) {
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, path().c_str());
    const UniqueFd peer(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(peer.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)),
              0);
    char text[] = "/dev/ptmx";
    struct iovec part = {text, sizeof(text)};
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      struct cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    }
    ASSERT_GT(sendmsg(peer.get(), &message, 0), 0);
  }

  std::string folder_;
};

TEST_F(ConsoleSocketTest, TakesTheDescriptorOfASenderThatHasEnded) {
  auto socket = ConsoleSocket::Listen(path());
  ASSERT_TRUE(socket.ok()) << socket.status();
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const UniqueFd read_end(pipe_ends[0]);
  UniqueFd write_end(pipe_ends[1]);
  Send(write_end.get());
  write_end.Reset();
  auto master = socket->TakeMaster();
  ASSERT_TRUE(master.ok()) << master.status();
  EXPECT_EQ(write(master->get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
}

TEST_F(ConsoleSocketTest, NobodyAndNothingAreErrors) {
  auto socket = ConsoleSocket::Listen(path());
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_FALSE(socket->TakeMaster().ok());
  Send(-1);
  EXPECT_FALSE(socket->TakeMaster().ok());
}

TEST_F(ConsoleSocketTest, LeavesNoFileBehind) {
  { const auto socket = ConsoleSocket::Listen(path()); }
  struct stat info;
  EXPECT_NE(stat(path().c_str(), &info), 0);
  EXPECT_FALSE(ConsoleSocket::Listen("/" + std::string(200, 'a')).ok());
}

}  // namespace
}  // namespace ferry::bridge
