#include "vmmanager/qemu/qmp_client.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <optional>

namespace ferry::vm {
namespace {

namespace json = boost::json;

// A client whose peer is the test itself, at the other end of a socket pair.
class QmpClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    peer_.Reset(ends[1]);
    client_.emplace(context_.get_executor(), UniqueFd(ends[0]));
  }

  void TearDown() override {
    client_.reset();
    context_.restart();
    context_.run_for(std::chrono::seconds(10));
  }

  void Say(std::string_view text) {
    ASSERT_EQ(::send(peer_.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  template <typename T>
  T Run(Task<T> task) {
    std::optional<T> result;
    auto store = [](Task<T> inner, std::optional<T>* into) -> Task<void> {
      into->emplace(co_await std::move(inner));
    };
    Spawn(context_.get_executor(), store(std::move(task), &result));
    context_.restart();
    while (!result && context_.run_one_for(std::chrono::seconds(30)) > 0) {
    }
    EXPECT_TRUE(result.has_value());
    return *std::move(result);
  }

  void MakeReady() {
    Say("{\"QMP\": {\"capabilities\": []}}\n{\"return\": {}, \"id\": 0}\n");
    const absl::Status ready = Run(client_->WaitReady(milliseconds(20'000)));
    ASSERT_TRUE(ready.ok()) << ready;
  }

  asio::io_context context_;
  UniqueFd peer_;
  std::optional<QmpClient> client_;
};

TEST_F(QmpClientTest, ReturnsTheAnswerAndDeliversEvents) {
  MakeReady();
  Say("{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}, \"id\": 1}\n");
  auto answer = Run(client_->Execute("query-status"));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->at("status").as_string(), "paused");
  const std::optional<QmpEvent> event = Run(client_->events().Pop());
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->name, "STOP");
}

TEST_F(QmpClientTest, DeadlineNamesTheCommand) {
  MakeReady();
  const QmpCallOptions options{.deadline = milliseconds(1)};
  auto answer = Run(client_->Execute("query-block", json::object(), options));
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer.status())) << answer.status();
  EXPECT_NE(answer.status().message().find("query-block"), absl::string_view::npos);
}

TEST_F(QmpClientTest, LossOfTheConnectionFailsTheCommand) {
  MakeReady();
  ASSERT_EQ(::shutdown(peer_.get(), SHUT_RDWR), 0);
  auto answer = Run(client_->Execute("stop"));
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
  EXPECT_FALSE(client_->connected());
  EXPECT_FALSE(Run(client_->events().Pop()).has_value());
}

TEST_F(QmpClientTest, GarbageInsteadOfAGreetingIsAnError) {
  Say("SSH-2.0-OpenSSH\n");
  EXPECT_FALSE(Run(client_->WaitReady(milliseconds(20'000))).ok());
}

TEST_F(QmpClientTest, SilenceIsAnError) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(Run(client_->WaitReady(milliseconds(1)))));
}

TEST_F(QmpClientTest, PassesADescriptorWithItsCommand) {
  MakeReady();
  Say("{\"return\": {}, \"id\": 1}\n");
  QmpCallOptions options;
  options.send_fd = peer_.get();
  ASSERT_TRUE(Run(client_->Execute("getfd", json::object(), options)).ok());
  std::array<char, 256> bytes{};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec piece{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ASSERT_GT(::recvmsg(peer_.get(), &message, MSG_CMSG_CLOEXEC), 0);
  // The greeting's answer may come first, in a read of its own.
  if (CMSG_FIRSTHDR(&message) == nullptr) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ASSERT_GT(::recvmsg(peer_.get(), &message, MSG_CMSG_CLOEXEC), 0);
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  ASSERT_NE(header, nullptr);
  EXPECT_EQ(header->cmsg_type, SCM_RIGHTS);
  int received = -1;
  std::memcpy(&received, CMSG_DATA(header), sizeof(received));
  const UniqueFd owned(received);
  EXPECT_TRUE(owned.valid());
}

}  // namespace
}  // namespace ferry::vm
