#include "migration/connection/socket_handoff.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>

#include "migration/connection/byte_stream.h"
#include "tests/unit/migration/connection/connection_fixture.h"

namespace ferry::migration {
namespace {

constexpr milliseconds kPatience{10000};

// Its members are public for the coroutines of the tests.
class SocketHandoffTest : public ConnectionFixture {
 public:
  void Listen(HandoffOptions options = {}) {
    options.path = path();
    auto handoff = SocketHandoff::Listen(context_.get_executor(), std::move(options));
    ASSERT_TRUE(handoff.ok()) << handoff.status();
    handoff_ = *std::move(handoff);
  }
  std::string path() const { return folder_ / "handoff"; }

  // Speaks the protocol by hand: a line and any descriptors; returns the daemon's line.
  Task<std::string> Say(std::string line, std::vector<int> descriptors) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path().c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    iovec vector{line.data(), line.size()};
    std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
      std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size() * sizeof(int));
    }
    EXPECT_EQ(::sendmsg(fd.get(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(line.size()));
    auto stream = MakeSocketStream(context_.get_executor(), std::move(fd));
    (*stream)->ShutdownWrite();
    std::string answer;
    std::vector<char> buffer(4096);
    while (true) {
      auto size = co_await (*stream)->ReadSome(buffer);
      if (!size.ok() || *size == 0) break;
      answer.append(buffer.data(), *size);
    }
    co_return answer;
  }

  TempFolder folder_;
  std::unique_ptr<SocketHandoff> handoff_;
};

TEST_F(SocketHandoffTest, HandedOverSocketCarriesASession) {
  Listen();
  auto body = [](SocketHandoffTest* t) -> Task<void> {
    auto [a, b] = SocketPair();
    auto ticket = co_await HandOverSocket(t->path(), std::move(b), kPatience);
    EXPECT_TRUE(ticket.ok()) << ticket.status();
    EXPECT_EQ(ticket->size(), kTicketSize);
    auto socket = t->handoff_->Redeem(*ticket);
    EXPECT_TRUE(socket.ok()) << socket.status();
    EXPECT_EQ(t->handoff_->Redeem(*ticket).status().code(), absl::StatusCode::kNotFound)
        << "a ticket works once";
    HandshakeParams source_params = TestParams(Role::kSource);
    HandshakeParams destination_params = TestParams(Role::kDestination);
    source_params.token.clear();
    destination_params.token.clear();
    Connection source;
    Connection destination;
    co_await t->ConnectOver(std::move(a), *std::move(socket), source_params, destination_params,
                            SessionLimits{}, &source, &destination);
    if (source) {
      EXPECT_TRUE((co_await source->Ping()).ok());
    }
    t->handoff_->Close();
    EXPECT_FALSE(std::filesystem::exists(t->path()));
  };
  Run(body(this));
}

TEST_F(SocketHandoffTest, OnlyTheDaemonsUserCanReachIt) {
  Listen();
  struct stat info {};
  ASSERT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(SocketHandoffTest, TicketsThatAreNoneAreRefused) {
  Listen();
  EXPECT_EQ(handoff_->Redeem("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(handoff_->Redeem(std::string(kTicketSize - 1, 'a')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(handoff_->Redeem(std::string(kTicketSize + 1, 'a')).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(handoff_->Redeem(std::string(kTicketSize, 'a')).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(SocketHandoffTest, OnlyOneConnectedStreamSocketIsTaken) {
  Listen();
  auto body = [](SocketHandoffTest* t) -> Task<void> {
    auto [a, b] = SocketPair();
    UniqueFd datagram(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    UniqueFd unconnected(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    const std::string good = "{\"version\":1}\n";
    std::vector<int> none;
    std::vector<int> two = {a.get(), b.get()};
    std::vector<int> wrong_type = {datagram.get()};
    std::vector<int> not_connected = {unconnected.get()};
    std::vector<int> listening = {listener.get()};
    std::vector<int> one = {a.get()};
    for (const auto& descriptors : {none, two, wrong_type, not_connected, listening}) {
      const std::string answer = co_await t->Say(good, descriptors);
      EXPECT_NE(answer.find("error"), std::string::npos) << answer;
    }
    for (const std::string line :
         {"{\"version\":2}\n", "[]\n", "nonsense\n", "{\"version\":1}", "\n"}) {
      const std::string answer = co_await t->Say(line, one);
      EXPECT_NE(answer.find("error"), std::string::npos) << line << answer;
    }
    const std::string endless(10000, 'x');
    EXPECT_NE((co_await t->Say(endless, one)).find("\"ticket\""), 0u);
    const std::string answer = co_await t->Say(good, one);
    EXPECT_NE(answer.find("ticket"), std::string::npos) << answer;
    t->handoff_->Close();
  };
  Run(body(this));
}

TEST_F(SocketHandoffTest, UnclaimedSocketsAreBounded) {
  HandoffOptions options;
  options.max_unclaimed = 1;
  Listen(options);
  auto body = [](SocketHandoffTest* t) -> Task<void> {
    auto [a, b] = SocketPair();
    auto [c, d] = SocketPair();
    auto first = co_await HandOverSocket(t->path(), std::move(b), kPatience);
    EXPECT_TRUE(first.ok()) << first.status();
    auto second = co_await HandOverSocket(t->path(), std::move(d), kPatience);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
    EXPECT_TRUE(t->handoff_->Redeem(*first).ok());
    auto third = co_await HandOverSocket(t->path(), std::move(c), kPatience);
    EXPECT_TRUE(third.ok()) << third.status();
    t->handoff_->Close();
  };
  Run(body(this));
}

TEST_F(SocketHandoffTest, UnclaimedSocketIsClosedWhenItsTimeIsOver) {
  HandoffOptions options;
  options.lifetime = milliseconds(20);
  Listen(options);
  auto body = [](SocketHandoffTest* t) -> Task<void> {
    auto [a, b] = SocketPair();
    auto ticket = co_await HandOverSocket(t->path(), std::move(b), kPatience);
    EXPECT_TRUE(ticket.ok()) << ticket.status();
    auto stream = MakeSocketStream(t->context_.get_executor(), std::move(a));
    std::vector<char> buffer(16);
    auto size = co_await (*stream)->ReadSome(buffer);
    EXPECT_TRUE(size.ok() && *size == 0);
    EXPECT_EQ(t->handoff_->Redeem(*ticket).status().code(), absl::StatusCode::kNotFound);
    t->handoff_->Close();
  };
  Run(body(this));
}

TEST_F(SocketHandoffTest, NobodyThereIsUnavailable) {
  auto body = [](SocketHandoffTest* t) -> Task<void> {
    auto [a, b] = SocketPair();
    auto ticket = co_await HandOverSocket(t->path(), std::move(b), kPatience);
    EXPECT_EQ(ticket.status().code(), absl::StatusCode::kUnavailable);
  };
  Run(body(this));
}

}  // namespace
}  // namespace ferry::migration
