#include "migration/connection/session_connection.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/write.hpp>
#include <filesystem>

#include "tests/unit/migration/connection/connection_fixture.h"

namespace ferry::migration {
namespace {

using Local = asio::local::stream_protocol;
using asio::experimental::awaitable_operators::operator&&;

Task<void> WriteAndClose(Local::socket* socket, const std::string* bytes) {
  boost::system::error_code ec;
  const auto buffer = asio::buffer(*bytes);
  co_await asio::async_write(*socket, buffer, asio::redirect_error(asio::use_awaitable, ec));
  EXPECT_FALSE(ec) << ec.message();
  socket->shutdown(Local::socket::shutdown_send, ec);
}

Task<void> ReadAll(Local::socket* socket, std::string* bytes) {
  std::vector<char> buffer(256 * 1024);
  while (true) {
    boost::system::error_code ec;
    const auto target = asio::buffer(buffer);
    const size_t size =
        co_await socket->async_read_some(target, asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return;
    bytes->append(buffer.data(), size);
  }
}

// Its members are public for the coroutines of the tests.
class SessionConnectionTest : public ConnectionFixture {
 public:
  // One channel from a "source VMM" to a "destination VMM" through both daemons.
  Task<void> OpenChannel(Local::acceptor* vmm, Local::socket* from, Local::socket* to) {
    boost::system::error_code ec;
    const Local::endpoint endpoint(folder_ / "source");
    co_await from->async_connect(endpoint, asio::redirect_error(asio::use_awaitable, ec));
    EXPECT_FALSE(ec) << ec.message();
    co_await vmm->async_accept(*to, asio::redirect_error(asio::use_awaitable, ec));
    EXPECT_FALSE(ec) << ec.message();
  }

  Task<void> StartRelay(std::optional<Local::acceptor>* vmm, SessionLimits limits = {}) {
    co_await Connect(&source_, &destination_, limits);
    vmm->emplace(context_, Local::endpoint(folder_ / "destination"));
    EXPECT_TRUE(source_->RelayFromListener(folder_ / "source").ok());
    EXPECT_TRUE(destination_->RelayToPath(folder_ / "destination").ok());
  }

  TempFolder folder_;
  Connection source_;
  Connection destination_;
};

TEST_F(SessionConnectionTest, MessagesGoBothWaysAndCloseIsOrderly) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    co_await t->Connect(&t->source_, &t->destination_);
    EXPECT_EQ(t->source_->peer_journal_id(), "destination-journal");
    EXPECT_EQ(t->destination_->peer_journal_id(), "source-journal");
    const std::string cut = Noise(3'000'000, 1);
    EXPECT_TRUE(t->source_->SendMessage(MessageKind::kCut, cut).ok());
    EXPECT_TRUE(t->destination_->SendMessage(MessageKind::kProof, "yes").ok());
    const auto at_destination = co_await t->destination_->NextMessage();
    EXPECT_TRUE(at_destination && at_destination->bytes == cut);
    const auto at_source = co_await t->source_->NextMessage();
    EXPECT_TRUE(at_source && at_source->kind == MessageKind::kProof && at_source->bytes == "yes");
    EXPECT_TRUE(t->source_->SendMessage(MessageKind::kProof, "go").ok());
    t->source_->Close();
    const auto proof = co_await t->destination_->NextMessage();
    EXPECT_TRUE(proof && proof->bytes == "go");
    EXPECT_FALSE((co_await t->destination_->NextMessage()).has_value());
    EXPECT_TRUE((co_await t->destination_->WaitClosed()).ok());
    EXPECT_TRUE((co_await t->source_->WaitClosed()).ok());
    EXPECT_TRUE(t->destination_->closed());
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, WrongTokenIsRefusedOnBothSides) {
  auto body = [](SessionConnectionTest* /*t*/) -> Task<void> {
    auto [a, b] = SocketPair();
    HandshakeParams wrong = TestParams(Role::kSource);
    wrong.token[0] = 'x';
    HandshakeParams right = TestParams(Role::kDestination);
    auto one = SessionConnection::Handshake(std::move(a), wrong);
    auto other = SessionConnection::Handshake(std::move(b), right);
    auto [s, d] = co_await (std::move(one) && std::move(other));
    EXPECT_EQ(s.status().code(), absl::StatusCode::kPermissionDenied) << s.status();
    EXPECT_EQ(d.status().code(), absl::StatusCode::kPermissionDenied) << d.status();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, PeerThatNeverSpeaksMeetsTheDeadline) {
  auto body = [](SessionConnectionTest* /*t*/) -> Task<void> {
    auto [a, b] = SocketPair();
    HandshakeParams params = TestParams(Role::kDestination);
    auto s = co_await SessionConnection::Handshake(std::move(a), params, SessionLimits{},
                                                   milliseconds(20));
    EXPECT_EQ(s.status().code(), absl::StatusCode::kDeadlineExceeded) << s.status();
    b.Reset();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, PeerThatDiesIsNoticedAtOnceAndWithoutGoodbyeIsAnError) {
  auto body = [](SessionConnectionTest* /*t*/) -> Task<void> {
    auto [a, b] = SocketPair();
    HandshakeParams params = TestParams(Role::kDestination);
    const Executor executor = co_await asio::this_coro::executor;
    auto handshake = SessionConnection::Handshake(std::move(a), params);
    // The peer speaks its hello and then is gone.
    SessionCore peer(Role::kSource, SessionLimits{}, std::chrono::steady_clock::now());
    peer.SendHello(TestParams(Role::kSource));
    const auto frame = peer.NextOutput(std::chrono::steady_clock::now());
    const std::string bytes =
        std::string(frame->header.data(), frame->header.size()) + std::string(frame->payload);
    EXPECT_EQ(::send(b.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    auto connection = co_await std::move(handshake);
    EXPECT_TRUE(connection.ok()) << connection.status();
    b.Reset();
    EXPECT_EQ((co_await (*connection)->WaitClosed()).code(), absl::StatusCode::kUnavailable);
    EXPECT_FALSE((co_await (*connection)->NextMessage()).has_value());
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, SilentPeerIsLost) {
  auto body = [](SessionConnectionTest* /*t*/) -> Task<void> {
    auto [a, b] = SocketPair();
    HandshakeParams params = TestParams(Role::kDestination);
    SessionLimits limits;
    limits.ping_interval = milliseconds(10);
    limits.silence_limit = milliseconds(50);
    SessionCore peer(Role::kSource, SessionLimits{}, std::chrono::steady_clock::now());
    peer.SendHello(TestParams(Role::kSource));
    const auto frame = peer.NextOutput(std::chrono::steady_clock::now());
    const std::string bytes =
        std::string(frame->header.data(), frame->header.size()) + std::string(frame->payload);
    EXPECT_EQ(::send(b.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    auto connection = co_await SessionConnection::Handshake(std::move(a), params, limits);
    EXPECT_TRUE(connection.ok()) << connection.status();
    const absl::Status status = co_await (*connection)->WaitClosed();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    b.Reset();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, PingMeasuresAndSmooths) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    co_await t->Connect(&t->source_, &t->destination_);
    EXPECT_FALSE(t->source_->rtt().has_value());
    const auto rtt = co_await t->source_->Ping();
    EXPECT_TRUE(rtt.ok() && rtt->count() > 0);
    EXPECT_TRUE(t->source_->rtt().has_value());
    t->source_->Close();
    EXPECT_EQ((co_await t->source_->Ping()).status().code(), absl::StatusCode::kUnavailable);
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, RelayCarriesBothDirectionsByteExact) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    Local::socket from(t->context_);
    Local::socket to(t->context_);
    co_await t->OpenChannel(&*vmm, &from, &to);
    const std::string there = Noise(64 * 1024 * 1024, 2);
    const std::string back = Noise(64 * 1024 * 1024, 3);
    std::string got_there;
    std::string got_back;
    auto w1 = WriteAndClose(&from, &there);
    auto w2 = WriteAndClose(&to, &back);
    auto r1 = ReadAll(&to, &got_there);
    auto r2 = ReadAll(&from, &got_back);
    co_await (std::move(w1) && std::move(w2) && std::move(r1) && std::move(r2));
    EXPECT_TRUE(got_there == there);
    EXPECT_TRUE(got_back == back);
    const auto channels = t->source_->channels();
    EXPECT_EQ(channels.size(), 1u);
    EXPECT_EQ(channels, t->destination_->channels());
    const auto sent = t->source_->SentDigest(channels[0]);
    EXPECT_TRUE(sent.has_value() && sent->bytes == there.size());
    EXPECT_EQ(sent, t->destination_->ReceivedDigest(channels[0]));
    EXPECT_EQ(t->destination_->SentDigest(channels[0]), t->source_->ReceivedDigest(channels[0]));
    EXPECT_EQ(t->source_->statistics().bulk_bytes_sent, there.size());
    EXPECT_EQ(t->source_->statistics().bulk_bytes_received, back.size());
    t->source_->Close();
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, ManyChannelsKeepTheirBytesApart) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    constexpr size_t kChannels = 9;
    std::vector<Local::socket> from;
    std::vector<Local::socket> to;
    for (size_t i = 0; i < kChannels; ++i) {
      from.emplace_back(t->context_);
      to.emplace_back(t->context_);
      co_await t->OpenChannel(&*vmm, &from[i], &to[i]);
    }
    std::vector<std::string> bytes;
    std::vector<std::string> got(kChannels);
    TaskScope scope(t->context_.get_executor());
    for (size_t i = 0; i < kChannels; ++i) bytes.push_back(Noise(1'000'000 + i, i));
    for (size_t i = 0; i < kChannels; ++i) scope.Spawn(WriteAndClose(&from[i], &bytes[i]));
    for (size_t i = 0; i < kChannels; ++i) co_await ReadAll(&to[i], &got[i]);
    for (size_t i = 0; i < kChannels; ++i) EXPECT_TRUE(got[i] == bytes[i]) << i;
    t->source_->Close();
    t->destination_->Close();
    co_await scope.CancelAndJoin();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, StuckVmmHoldsUpNoMessage) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    Local::socket from(t->context_);
    Local::socket to(t->context_);
    co_await t->OpenChannel(&*vmm, &from, &to);
    // Far more than the window and all socket buffers, and nobody reads it.
    const std::string bulk(64 * 1024 * 1024, 's');
    TaskScope scope(t->context_.get_executor());
    auto push = [](Local::socket* socket, const std::string* bytes) -> Task<void> {
      boost::system::error_code ec;
      const auto buffer = asio::buffer(*bytes);
      co_await asio::async_write(*socket, buffer, asio::redirect_error(asio::use_awaitable, ec));
    };
    scope.Spawn(push(&from, &bulk));
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(t->source_->SendMessage(MessageKind::kCut, Noise(500'000, i)).ok());
      const auto message = co_await t->destination_->NextMessage();
      EXPECT_TRUE(message && message->bytes == Noise(500'000, i));
      EXPECT_TRUE((co_await t->destination_->Ping()).ok());
    }
    EXPECT_LE(t->source_->statistics().bulk_bytes_sent, 8u * 1024 * 1024);
    t->source_->Close();
    t->destination_->Close();
    co_await scope.CancelAndJoin();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, VmmThatDiesEndsTheChannelOnTheOtherSide) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    Local::socket from(t->context_);
    Local::socket to(t->context_);
    co_await t->OpenChannel(&*vmm, &from, &to);
    const std::string bulk(16 * 1024 * 1024, 's');
    TaskScope scope(t->context_.get_executor());
    auto push = [](Local::socket* socket, const std::string* bytes) -> Task<void> {
      boost::system::error_code ec;
      const auto buffer = asio::buffer(*bytes);
      co_await asio::async_write(*socket, buffer, asio::redirect_error(asio::use_awaitable, ec));
      EXPECT_TRUE(ec) << "the writer learns that its peer is gone";
    };
    auto writing = push(&from, &bulk);
    to.close();
    co_await std::move(writing);
    // The connection lives on.
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    t->source_->Close();
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, ChannelToAMissingVmmIsReset) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    co_await t->Connect(&t->source_, &t->destination_);
    EXPECT_TRUE(t->source_->RelayFromListener(t->folder_ / "source").ok());
    EXPECT_TRUE(t->destination_->RelayToPath(t->folder_ / "nobody").ok());
    Local::socket from(t->context_);
    from.connect(Local::endpoint(t->folder_ / "source"));
    std::string got;
    co_await ReadAll(&from, &got);
    EXPECT_TRUE(got.empty());
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    t->source_->Close();
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, ChannelOpenedBeforeTheDestinationIsReadyWaits) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    co_await t->Connect(&t->source_, &t->destination_);
    EXPECT_TRUE(t->source_->RelayFromListener(t->folder_ / "source").ok());
    Local::socket from(t->context_);
    from.connect(Local::endpoint(t->folder_ / "source"));
    const std::string bytes = Noise(100'000, 5);
    co_await WriteAndClose(&from, &bytes);
    EXPECT_TRUE((co_await t->source_->Ping()).ok());  // the bytes have arrived by now
    Local::acceptor vmm(t->context_, Local::endpoint(t->folder_ / "destination"));
    EXPECT_TRUE(t->destination_->RelayToPath(t->folder_ / "destination").ok());
    boost::system::error_code ec;
    Local::socket to(t->context_);
    co_await vmm.async_accept(to, asio::redirect_error(asio::use_awaitable, ec));
    std::string got;
    co_await ReadAll(&to, &got);
    EXPECT_TRUE(got == bytes);
    t->source_->Close();
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, ResetChannelsKeepsTheConnection) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    Local::socket from(t->context_);
    Local::socket to(t->context_);
    co_await t->OpenChannel(&*vmm, &from, &to);
    t->source_->ResetChannels("the migration was cancelled");
    std::string got;
    co_await ReadAll(&from, &got);
    co_await ReadAll(&to, &got);
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    t->source_->Close();
    t->destination_->Close();
  };
  Run(body(this));
}

// The flags are set when WaitReceived() has returned, by what it said.
Task<void> NoteReceived(SessionConnection* connection, std::optional<absl::Status>* status) {
  *status = co_await connection->WaitReceived();
}

TEST_F(SessionConnectionTest, AllIsReceivedOnlyWhenEveryChannelHasEnded) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    std::optional<absl::Status> received;
    Spawn(t->context_.get_executor(), NoteReceived(t->destination_.get(), &received));
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    EXPECT_FALSE(received.has_value());  // nothing was sent yet
    Local::socket from(t->context_);
    Local::socket to(t->context_);
    co_await t->OpenChannel(&*vmm, &from, &to);
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    EXPECT_FALSE(received.has_value());
    const std::string bytes = Noise(100'000, 6);
    co_await WriteAndClose(&from, &bytes);
    std::string got;
    co_await ReadAll(&to, &got);
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    EXPECT_TRUE(received.has_value() && received->ok());
    t->source_->Close();
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, WhatIsCutOffIsNeverReceived) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    std::optional<Local::acceptor> vmm;
    co_await t->StartRelay(&vmm);
    std::optional<absl::Status> received;
    Spawn(t->context_.get_executor(), NoteReceived(t->destination_.get(), &received));
    Local::socket from(t->context_);
    Local::socket to(t->context_);
    co_await t->OpenChannel(&*vmm, &from, &to);
    t->source_->ResetChannels("the migration was cancelled");
    EXPECT_TRUE((co_await t->source_->Ping()).ok());
    EXPECT_TRUE(received.has_value() && received->code() == absl::StatusCode::kAborted);
    t->source_->Close();
    const absl::Status later = co_await t->destination_->WaitReceived();
    EXPECT_EQ(later.code(), absl::StatusCode::kAborted);
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, CloseRemovesTheListenerAndItsPath) {
  auto body = [](SessionConnectionTest* t) -> Task<void> {
    co_await t->Connect(&t->source_, &t->destination_);
    const std::string path = t->folder_ / "source";
    EXPECT_TRUE(t->source_->RelayFromListener(path).ok());
    EXPECT_EQ(t->source_->RelayFromListener(path).code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(std::filesystem::exists(path));
    t->source_->Close();
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_EQ(t->destination_->RelayToPath(std::string(200, 'p')).code(),
              absl::StatusCode::kInvalidArgument);
    t->destination_->Close();
  };
  Run(body(this));
}

TEST_F(SessionConnectionTest, SocketsAreNotInheritedByPrograms) {
  auto [a, b] = SocketPair();
  const int fd = a.get();
  ::fcntl(fd, F_SETFD, 0);
  const auto stream = MakeSocketStream(context_.get_executor(), std::move(a));
  ASSERT_TRUE(stream.ok()) << stream.status();
  EXPECT_EQ(::fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(SessionConnectionTest, HandshakeOverWhatIsNoStreamSocketIsRefused) {
  auto body = [](SessionConnectionTest* /*t*/) -> Task<void> {
    HandshakeParams params = TestParams(Role::kSource);
    UniqueFd unconnected(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto one = co_await SessionConnection::Handshake(std::move(unconnected), params);
    EXPECT_EQ(one.status().code(), absl::StatusCode::kInvalidArgument);
    UniqueFd datagram(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    auto other = co_await SessionConnection::Handshake(std::move(datagram), params);
    EXPECT_EQ(other.status().code(), absl::StatusCode::kInvalidArgument);
  };
  Run(body(this));
}

}  // namespace
}  // namespace ferry::migration
