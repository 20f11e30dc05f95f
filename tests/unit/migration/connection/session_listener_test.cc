#include "migration/connection/session_listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <utility>
#include <vector>

#include "bridge/runtime/host_port.h"
#include "migration/connection/dialer.h"
#include "tests/unit/migration/connection/connection_fixture.h"
#include "tests/unit/vmmanager/identity/test_authority.h"

namespace ferry::migration {
namespace {

using asio::experimental::awaitable_operators::operator&&;

std::shared_ptr<TlsContext> Tls(const identity::TlsFiles& files) {
  auto opened = identity::CertificateFiles::Open(files);
  EXPECT_TRUE(opened.ok()) << opened.status();
  return MakeTlsContext(*std::move(opened));
}

// Its members are public for the coroutines of the tests.
class SessionListenerTest : public ConnectionFixture {
 public:
  void Listen(ListenerOptions options = {}) {
    auto listener = SessionListener::Listen(context_.get_executor(), std::move(options));
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    EXPECT_NE(ParseHostPort(listener_->address())->port, 0);
  }

  void ListenWithTls(const identity::TlsFiles& files) {
    ListenerOptions options;
    options.tls = Tls(files);
    options.refused = [this](const RefusedConnection& refused) { refused_.push_back(refused); };
    Listen(std::move(options));
  }

  std::unique_ptr<SessionListener::Expectation> Expect(const std::string& peer_name = "") {
    auto expected = listener_->Expect("session-1", TestParams(Role::kSource).token,
                                      "destination-journal", peer_name);
    EXPECT_TRUE(expected.ok()) << expected.status();
    return *std::move(expected);
  }

  DialOptions To(const std::string& address) const {
    DialOptions options;
    options.address = address;
    options.params = TestParams(Role::kSource);
    return options;
  }

  identity::TestAuthority authority_;
  std::unique_ptr<SessionListener> listener_;
  std::vector<RefusedConnection> refused_;
};

TEST_F(SessionListenerTest, DialReachesWhoExpectsTheSession) {
  Listen();
  auto body = [](SessionListenerTest* t) -> Task<void> {
    auto expected = t->Expect();
    auto waiting = expected->Wait(milliseconds(10000));
    auto dialling = Dial(t->To(t->listener_->address()));
    auto [d, s] = co_await (std::move(waiting) && std::move(dialling));
    EXPECT_TRUE(d.ok()) << d.status();
    EXPECT_TRUE(s.ok()) << s.status();
    EXPECT_EQ((*s)->peer_journal_id(), "destination-journal");
    EXPECT_EQ((*d)->peer_journal_id(), "source-journal");
    EXPECT_EQ((*s)->peer(), t->listener_->address());
    EXPECT_TRUE((*s)->SendMessage(MessageKind::kCut, "hello").ok());
    const auto message = co_await (*d)->NextMessage();
    EXPECT_TRUE(message && message->bytes == "hello");
    t->listener_->Close();
    EXPECT_TRUE((co_await (*s)->Ping()).ok()) << "handed-out connections outlive the listener";
  };
  Run(body(this));
}

TEST_F(SessionListenerTest, ConnectionMadeBeforeTheWaitIsKept) {
  Listen();
  auto body = [](SessionListenerTest* t) -> Task<void> {
    auto expected = t->Expect();
    auto s = co_await Dial(t->To(t->listener_->address()));
    EXPECT_TRUE(s.ok()) << s.status();
    auto second = co_await Dial(t->To(t->listener_->address()));
    EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
    auto d = co_await expected->Wait(milliseconds(10000));
    EXPECT_TRUE(d.ok()) << d.status();
    t->listener_->Close();
  };
  Run(body(this));
}

TEST_F(SessionListenerTest, StrangersAreRefusedWithTheReason) {
  Listen();
  auto body = [](SessionListenerTest* t) -> Task<void> {
    auto expected = t->Expect();
    DialOptions wrong_token = t->To(t->listener_->address());
    wrong_token.params.token[5] ^= 1;
    DialOptions no_token = t->To(t->listener_->address());
    no_token.params.token.clear();
    DialOptions wrong_session = t->To(t->listener_->address());
    wrong_session.params.session_id = "session-2";
    auto a = co_await Dial(wrong_token);
    EXPECT_EQ(a.status().code(), absl::StatusCode::kPermissionDenied) << a.status();
    auto b = co_await Dial(no_token);
    EXPECT_EQ(b.status().code(), absl::StatusCode::kPermissionDenied) << b.status();
    auto c = co_await Dial(wrong_session);
    EXPECT_EQ(c.status().code(), absl::StatusCode::kNotFound) << c.status();
    auto nobody = co_await expected->Wait(milliseconds(1));
    EXPECT_EQ(nobody.status().code(), absl::StatusCode::kDeadlineExceeded);
    expected.reset();
    auto d = co_await Dial(t->To(t->listener_->address()));
    EXPECT_EQ(d.status().code(), absl::StatusCode::kNotFound) << d.status();
    t->listener_->Close();
  };
  Run(body(this));
}

TEST_F(SessionListenerTest, TellsSourcesTheAdvertisedAddress) {
  struct Case {
    const char* advertised;
    const char* told;  // a trailing colon: the bound port follows
  };
  for (const Case& c : {Case{"", "127.0.0.1:"}, Case{"host-a", "host-a:"},
                        Case{"host-a:0", "host-a:"}, Case{"host-a:7701", "host-a:7701"},
                        Case{"2001:db8::1", ""}, Case{"[2001:db8::1]", "[2001:db8::1]:"}}) {
    ListenerOptions options;
    options.advertised = c.advertised;
    auto listener = SessionListener::Listen(context_.get_executor(), options);
    if (*c.told == '\0') {
      EXPECT_EQ(listener.status().code(), absl::StatusCode::kInvalidArgument) << c.advertised;
      continue;
    }
    ASSERT_TRUE(listener.ok()) << listener.status();
    std::string told = c.told;
    const uint16_t port = ParseHostPort((*listener)->bound_address())->port;
    EXPECT_NE(port, 0);
    if (told.back() == ':') told += std::to_string(port);
    EXPECT_EQ((*listener)->address(), told);
    EXPECT_EQ(ParseHostPort((*listener)->bound_address())->host, "127.0.0.1");
    (*listener)->Close();
  }
  context_.poll();
}

UniqueFd ConnectTo(const std::string& listener) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(ParseHostPort(listener)->port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

TEST_F(SessionListenerTest, ThoseWhoSayNothingKeepNobodyOut) {
  ListenerOptions options;
  options.max_unauthenticated = 2;
  options.hello_deadline = milliseconds(60000);
  Listen(options);
  auto body = [](SessionListenerTest* t) -> Task<void> {
    auto expected = t->Expect();
    std::vector<UniqueFd> silent;
    for (int i = 0; i < 2; ++i) silent.push_back(ConnectTo(t->listener_->address()));
    auto dialled = co_await Dial(t->To(t->listener_->address()));
    EXPECT_TRUE(dialled.ok()) << dialled.status();
    // The oldest had to go, and only it.
    auto first = MakeSocketStream(t->context_.get_executor(), std::move(silent[0]));
    std::vector<char> buffer(4096);
    auto size = co_await (*first)->ReadSome(buffer);
    while (size.ok() && *size > 0) size = co_await (*first)->ReadSome(buffer);
    (*first)->Close();
    char byte = 0;
    EXPECT_NE(::recv(silent[1].get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK), 0);
    t->listener_->Close();
  };
  Run(body(this));
}

TEST_F(SessionListenerTest, ConnectionThatSaysNothingIsDroppedAtItsDeadline) {
  ListenerOptions options;
  options.hello_deadline = milliseconds(20);
  Listen(options);
  auto body = [](SessionListenerTest* t) -> Task<void> {
    auto stream = MakeSocketStream(t->context_.get_executor(), ConnectTo(t->listener_->address()));
    std::vector<char> buffer(4096);
    bool ended = false;
    while (!ended) {
      auto size = co_await (*stream)->ReadSome(buffer);
      ended = !size.ok() || *size == 0;
    }
    (*stream)->Close();
    t->listener_->Close();
  };
  Run(body(this));
}

TEST_F(SessionListenerTest, ExpectationsAreChecked) {
  Listen();
  const std::string token = TestParams(Role::kSource).token;
  EXPECT_EQ(listener_->Expect("s", "short", "j").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(listener_->Expect("", token, "j").status().code(), absl::StatusCode::kInvalidArgument);
  const auto first = listener_->Expect("s", token, "j");
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(listener_->Expect("s", token, "j").status().code(), absl::StatusCode::kAlreadyExists);
  auto body = [](SessionListenerTest* t, SessionListener::Expectation* expected) -> Task<void> {
    auto waiting = expected->Wait(milliseconds(10000));
    auto closing = [](SessionListenerTest* test) -> Task<void> {
      test->listener_->Close();
      co_return;
    };
    auto close = closing(t);
    auto result = co_await (std::move(waiting) && std::move(close));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  };
  Run(body(this, first->get()));
}

TEST_F(SessionListenerTest, UnreachableDestinationIsUnavailable) {
  Listen();
  const std::string address = listener_->address();
  listener_->Close();
  auto body = [](SessionListenerTest* t, std::string to) -> Task<void> {
    auto s = co_await Dial(t->To(to));
    EXPECT_EQ(s.status().code(), absl::StatusCode::kUnavailable) << s.status();
    auto bad = co_await Dial(t->To("nonsense"));
    EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  };
  Run(body(this, address));
}

TEST_F(SessionListenerTest, WithoutAnAddressNothingIsAccepted) {
  ListenerOptions options;
  options.address = "";
  auto listener = SessionListener::Listen(context_.get_executor(), std::move(options));
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ((*listener)->address(), "");
  EXPECT_TRUE((*listener)->Expect("s", TestParams(Role::kSource).token, "j").ok());
  (*listener)->Close();
}

TEST_F(SessionListenerTest, MutualTlsCarriesTheSession) {
  ListenWithTls(authority_.Issue("host-b", {identity::Role::kPeer}));
  auto body = [](SessionListenerTest* t, std::shared_ptr<TlsContext> context) -> Task<void> {
    auto expected = t->Expect("host-a");
    DialOptions dial = t->To(t->listener_->address());
    dial.tls = context;
    auto waiting = expected->Wait(milliseconds(20000));
    auto dialling = Dial(dial);
    auto [d, s] = co_await (std::move(waiting) && std::move(dialling));
    EXPECT_TRUE(d.ok()) << d.status();
    EXPECT_TRUE(s.ok()) << s.status();
    if (!d.ok() || !s.ok()) co_return;
    EXPECT_EQ((*d)->peer_name(), "host-a");
    EXPECT_EQ((*s)->peer_name(), "host-b");
    const std::string cut = Noise(5'000'000, 8);
    EXPECT_TRUE((*s)->SendMessage(MessageKind::kCut, cut).ok());
    EXPECT_TRUE((*d)->SendMessage(MessageKind::kCut, cut).ok());
    const auto there = co_await (*d)->NextMessage();
    const auto back = co_await (*s)->NextMessage();
    EXPECT_TRUE(there && there->bytes == cut);
    EXPECT_TRUE(back && back->bytes == cut);
    (*s)->Close();
    EXPECT_TRUE((co_await (*d)->WaitClosed()).ok());
    t->listener_->Close();
  };
  Run(body(this, Tls(authority_.Issue("host-a", {identity::Role::kPeer}))));
}

TEST_F(SessionListenerTest, CertificateOfAnotherAuthorityIsRefused) {
  identity::TestAuthority strangers;
  const identity::TlsFiles good = authority_.Issue("host-b", {identity::Role::kPeer});
  identity::TlsFiles intruder = strangers.Issue("host-a", {identity::Role::kPeer});
  identity::TlsFiles distrusting = good;
  distrusting.ca = intruder.ca;  // does not trust the server
  intruder.ca = good.ca;         // trusts the server, is not trusted by it
  ListenWithTls(good);
  auto body = [](SessionListenerTest* t, std::shared_ptr<TlsContext> a,
                 std::shared_ptr<TlsContext> b) -> Task<void> {
    auto expected = t->Expect();
    DialOptions dial = t->To(t->listener_->address());
    dial.tls = a;
    EXPECT_FALSE((co_await Dial(dial)).ok());
    dial.tls = b;
    auto doubting = co_await Dial(dial);
    EXPECT_EQ(doubting.status().code(), absl::StatusCode::kUnauthenticated) << doubting.status();
    dial.tls = nullptr;  // plain TCP to a TLS port
    dial.deadline = milliseconds(2000);
    EXPECT_FALSE((co_await Dial(dial)).ok());
    auto nobody = co_await expected->Wait(milliseconds(1));
    EXPECT_EQ(nobody.status().code(), absl::StatusCode::kDeadlineExceeded);
    t->listener_->Close();
  };
  Run(body(this, Tls(intruder), Tls(distrusting)));
}

TEST_F(SessionListenerTest, OnlyTheHostOfTheSessionMayOpenIt) {
  ListenWithTls(authority_.Issue("host-b", {identity::Role::kPeer}));
  auto body = [](SessionListenerTest* t, std::shared_ptr<TlsContext> other,
                 std::shared_ptr<TlsContext> right) -> Task<void> {
    auto expected = t->Expect("host-a");
    DialOptions dial = t->To(t->listener_->address());
    dial.tls = other;  // knows the token, and has a host's certificate
    auto stolen = co_await Dial(dial);
    EXPECT_EQ(stolen.status().code(), absl::StatusCode::kPermissionDenied) << stolen.status();
    EXPECT_EQ(t->refused_.size(), 1u);
    if (t->refused_.empty()) co_return t->listener_->Close();
    EXPECT_EQ(t->refused_.front().peer.name, "host-c");
    EXPECT_EQ(t->refused_.front().session_id, "session-1");
    EXPECT_TRUE(t->refused_.front().address.starts_with("127.0.0.1:"))
        << t->refused_.front().address;
    dial.tls = right;
    auto opened = co_await Dial(dial);
    EXPECT_TRUE(opened.ok()) << opened.status();
    t->listener_->Close();
  };
  Run(body(this, Tls(authority_.Issue("host-c", {identity::Role::kPeer})),
           Tls(authority_.Issue("host-a", {identity::Role::kPeer}))));
}

TEST_F(SessionListenerTest, WhoIsNoHostOrOutOfDateOpensNothing) {
  ListenWithTls(authority_.Issue("host-b", {identity::Role::kPeer}));
  auto body = [](SessionListenerTest* t,
                 std::vector<std::shared_ptr<TlsContext>> contexts) -> Task<void> {
    auto expected = t->Expect();
    for (const auto& context : contexts) {
      DialOptions dial = t->To(t->listener_->address());
      dial.tls = context;
      EXPECT_FALSE((co_await Dial(dial)).ok());
    }
    auto nobody = co_await expected->Wait(milliseconds(1));
    EXPECT_EQ(nobody.status().code(), absl::StatusCode::kDeadlineExceeded);
    t->listener_->Close();
  };
  std::vector<std::shared_ptr<TlsContext>> contexts;
  contexts.push_back(Tls(authority_.Issue("alice", {identity::Role::kAdmin})));
  contexts.push_back(Tls(authority_.Issue("nobody", {})));
  contexts.push_back(Tls(authority_.Issue("old", {identity::Role::kPeer}, -60)));
  Run(body(this, std::move(contexts)));
  // Whoever is known is told of; a certificate that is not good names nobody.
  ASSERT_EQ(refused_.size(), 2u);
  EXPECT_EQ(refused_[0].peer.name, "alice");
  EXPECT_TRUE(refused_[0].peer.roles.Has(identity::Role::kAdmin));
  EXPECT_TRUE(refused_[0].address.starts_with("127.0.0.1:")) << refused_[0].address;
  EXPECT_NE(refused_[0].why.find("has not the role peer"), std::string::npos) << refused_[0].why;
}

TEST_F(SessionListenerTest, ADestinationOfAnotherNameGetsNothing) {
  auto body = [](SessionListenerTest* t, std::shared_ptr<TlsContext> context,
                 absl::StatusCode code) -> Task<void> {
    auto expected = t->Expect();
    DialOptions dial = t->To(t->listener_->address());
    dial.tls = context;
    auto dialled = co_await Dial(dial);
    EXPECT_EQ(dialled.status().code(), code) << dialled.status();
    t->listener_->Close();
  };
  identity::CertificateOrder elsewhere;
  elsewhere.name = "host-c";
  elsewhere.roles = {identity::Role::kPeer};
  elsewhere.addresses = {"IP:192.0.2.9", "DNS:host-c"};
  ListenWithTls(authority_.Issue(elsewhere));
  const auto source = Tls(authority_.Issue("host-a", {identity::Role::kPeer}));
  Run(body(this, source, absl::StatusCode::kUnauthenticated));
}

TEST_F(SessionListenerTest, ReplacedCertificatesCountFromTheNextConnectionOn) {
  const identity::TlsFiles server = authority_.Issue("host-b", {identity::Role::kPeer});
  ListenWithTls(server);
  auto body = [](SessionListenerTest* t, std::shared_ptr<TlsContext> source) -> Task<void> {
    auto expected = t->Expect();
    DialOptions dial = t->To(t->listener_->address());
    dial.tls = source;
    auto first = co_await Dial(dial);
    EXPECT_TRUE(first.ok()) << first.status();
    auto taken = co_await expected->Wait(milliseconds(20000));
    EXPECT_TRUE(taken.ok()) << taken.status();
    if (!first.ok() || !taken.ok()) co_return;
    EXPECT_EQ((*first)->peer_name(), "host-b");
    expected.reset();
    // Another name under the same files.
    identity::CertificateOrder order;
    order.name = "host-b2";
    order.roles = {identity::Role::kPeer};
    order.addresses = {"IP:127.0.0.1"};
    auto next = identity::Issue(t->authority_.authority(), order);
    t->authority_.Write("host-b.pem", next->certificate);
    t->authority_.Write("host-b.key", next->key);
    expected = t->Expect();
    auto second = co_await Dial(dial);
    EXPECT_TRUE(second.ok()) << second.status();
    if (!second.ok()) co_return;
    EXPECT_EQ((*second)->peer_name(), "host-b2");
    EXPECT_TRUE((co_await (*first)->Ping()).ok()) << "what was open stays open";
    t->listener_->Close();
  };
  Run(body(this, Tls(authority_.Issue("host-a", {identity::Role::kPeer}))));
}

TEST_F(SessionListenerTest, TlsClientThatStopsTalkingIsDroppedAtTheDeadline) {
  auto body = [](std::shared_ptr<TlsContext> context) -> Task<void> {
    auto [a, b] = SocketPair();
    auto stream = co_await MakeTlsServerStream(std::move(a), context, milliseconds(20));
    EXPECT_EQ(stream.status().code(), absl::StatusCode::kDeadlineExceeded) << stream.status();
    b.Reset();
  };
  Run(body(Tls(authority_.Issue("host-b", {identity::Role::kPeer}))));
}

}  // namespace
}  // namespace ferry::migration
