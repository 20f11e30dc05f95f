#include "migration/connection/session_listener.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <boost/asio/ip/tcp.hpp>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/host_port.h"
#include "bridge/runtime/status_macros.h"
#include "migration/connection/session_driver.h"

namespace ferry::migration {

using asio::ip::tcp;

namespace {

absl::StatusOr<std::string> AdvertisedAddress(const std::string& wish, const std::string& bound,
                                              uint16_t port) {
  if (wish.empty()) return bound;
  // A colon outside of brackets is a port's, for a numeric IPv6 host is written in them.
  const size_t colon = wish.rfind(':');
  const bool has_port = colon != std::string::npos && wish.back() != ']';
  ASSIGN_OR_RETURN(HostPort address,
                   ParseHostPort(has_port ? wish : absl::StrCat(wish, ":", port)));
  if (address.port == 0) address.port = port;
  return FormatHostPort(address);
}

}  // namespace

// One expected session; shared by its Expectation and the connections being checked.
class SessionListener::Entry {
 public:
  Entry(Executor executor, HandshakeParams p, std::string peer)
      : params(std::move(p)), peer_name(std::move(peer)), arrived(executor) {}

  HandshakeParams params;
  const std::string peer_name;  // empty: any host
  AsyncEvent arrived;
  std::shared_ptr<SessionConnection> connection;
  bool cancelled = false;
};

class SessionListener::State : public std::enable_shared_from_this<State> {
 public:
  State(Executor executor, ListenerOptions options)
      : executor_(executor), options_(std::move(options)), acceptor_(executor) {}

  absl::Status Open();
  const std::string& address() const { return address_; }
  const std::string& bound_address() const { return bound_address_; }
  absl::StatusOr<std::shared_ptr<Entry>> Add(HandshakeParams params, std::string peer_name);
  void Remove(const std::string& session_id) { entries_.erase(session_id); }
  void Close();
  static Task<void> AcceptLoop(std::shared_ptr<State> self);

 private:
  // Counts a connection as unauthenticated as long as it lives.
  class Slot {
   public:
    explicit Slot(std::shared_ptr<State> state)
        : state_(std::move(state)), evicted_(std::make_shared<AsyncEvent>(state_->executor_)) {
      state_->pending_.push_back(evicted_);
    }
    Slot(Slot&&) = default;
    ~Slot() {
      if (state_) std::erase(state_->pending_, evicted_);
    }

    // Set when the connection must make room.
    AsyncEvent& evicted() { return *evicted_; }

   private:
    std::shared_ptr<State> state_;
    std::shared_ptr<AsyncEvent> evicted_;
  };

  void MakeRoom();
  static Task<void> Serve(std::shared_ptr<State> self, UniqueFd fd, Slot slot);
  static Task<absl::Status> Authenticate(std::shared_ptr<State> self, UniqueFd fd);
  void TellRefused(identity::Identity peer, std::string address, std::string session_id,
                   std::string why) const {
    if (!options_.refused) return;
    options_.refused({std::move(peer), std::move(address), std::move(session_id), std::move(why)});
  }
  std::optional<Refusal> Admit(const Hello& hello, const std::string& peer_name,
                               std::shared_ptr<Entry>* entry);

  Executor executor_;
  ListenerOptions options_;
  tcp::acceptor acceptor_;
  std::string address_;
  std::string bound_address_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;
  std::vector<std::shared_ptr<AsyncEvent>> pending_;  // of each Slot, the oldest first
  bool closed_ = false;
};

absl::Status SessionListener::State::Open() {
  ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(options_.address));
  const auto failed = [this](const boost::system::error_code& ec) {
    return absl::UnavailableError(
        absl::StrCat("cannot accept migrations at ", options_.address, ": ", ec.message()));
  };
  boost::system::error_code ec;
  tcp::resolver resolver(executor_);
  const auto found = resolver.resolve(address.host, absl::StrCat(address.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, ec);
  if (ec || found.empty()) return failed(ec);
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
  if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  if (!ec) acceptor_.non_blocking(true, ec);
  if (ec) return failed(ec);
  const tcp::endpoint bound = acceptor_.local_endpoint(ec);
  if (ec) return failed(ec);
  bound_address_ = FormatHostPort(HostPort{bound.address().to_string(), bound.port()});
  ASSIGN_OR_RETURN(address_, AdvertisedAddress(options_.advertised, bound_address_, bound.port()));
  return absl::OkStatus();
}

Task<void> SessionListener::State::AcceptLoop(std::shared_ptr<State> self) {
  // Out of descriptors: accepting again at once would spin.
  constexpr milliseconds kPauseWhenFull{100};
  while (!self->closed_) {
    boost::system::error_code ec;
    co_await self->acceptor_.async_wait(tcp::acceptor::wait_read,
                                        asio::redirect_error(asio::use_awaitable, ec));
    if (self->closed_ || ec) co_return;
    UniqueFd fd(
        ::accept4(self->acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid() && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
      co_await Delay(kPauseWhenFull);
    }
    if (!fd.valid()) continue;
    self->MakeRoom();
    Spawn(self->executor_, Serve(self, std::move(fd), Slot(self)));
  }
}

void SessionListener::State::MakeRoom() {
  while (!pending_.empty() && pending_.size() >= options_.max_unauthenticated) {
    std::shared_ptr<AsyncEvent> oldest = std::move(pending_.front());
    pending_.erase(pending_.begin());
    oldest->Set();
  }
}

std::optional<Refusal> SessionListener::State::Admit(const Hello& hello,
                                                     const std::string& peer_name,
                                                     std::shared_ptr<Entry>* entry) {
  const auto it = entries_.find(hello.session_id);
  if (it == entries_.end()) {
    HandshakeParams nobody;
    nobody.role = Role::kDestination;
    nobody.session_id = absl::StrCat("not ", hello.session_id);
    return CheckHello(hello, nobody);
  }
  if (const auto refusal = CheckHello(hello, it->second->params)) return refusal;
  const std::string& expected = it->second->peer_name;
  if (!expected.empty() && expected != peer_name) {
    return Refusal{RefusalReason::kWrongPeer, absl::StrCat("the session is not ", peer_name, "'s")};
  }
  if (it->second->connection && !it->second->connection->closed()) {
    return Refusal{RefusalReason::kOccupied, "the session has its connection already"};
  }
  *entry = it->second;
  return std::nullopt;
}

Task<void> SessionListener::State::Serve(std::shared_ptr<State> self, UniqueFd fd, Slot slot) {
  using asio::experimental::awaitable_operators::operator||;
  auto authenticated = WithDeadline(self->options_.hello_deadline, "the source's hello",
                                    Authenticate(self, std::move(fd)));
  (void)co_await (std::move(authenticated) || slot.evicted().Wait());
}

// Who is refused or says nothing is let go of; there is nobody else to tell.
Task<absl::Status> SessionListener::State::Authenticate(std::shared_ptr<State> self, UniqueFd fd) {
  std::unique_ptr<ByteStream> stream;
  std::string address = DescribePeer(fd.get());
  identity::Identity peer;
  if (self->options_.tls) {
    auto tls = co_await MakeTlsServerStream(std::move(fd), self->options_.tls,
                                            self->options_.hello_deadline, &peer);
    if (absl::IsPermissionDenied(tls.status())) {
      self->TellRefused(peer, address, "", std::string(tls.status().message()));
    }
    if (!tls.ok()) co_return tls.status();
    stream = *std::move(tls);
  } else {
    auto plain = MakeSocketStream(self->executor_, std::move(fd));
    if (!plain.ok()) co_return plain.status();
    stream = *std::move(plain);
  }
  auto driver = std::make_shared<SessionDriver>(self->executor_, std::move(stream),
                                                Role::kDestination, self->options_.limits);
  auto connection = std::make_shared<SessionConnection>(driver);
  driver->Start();
  absl::StatusOr<Hello> hello = co_await driver->ReceiveHello(self->options_.hello_deadline);
  if (!hello.ok()) co_return hello.status();
  std::shared_ptr<Entry> entry;
  if (const auto refusal = self->Admit(*hello, driver->peer_name(), &entry)) {
    self->TellRefused(peer, address, hello->session_id, refusal->text);
    driver->Refuse(*refusal);
    co_return absl::OkStatus();
  }
  driver->Accept(*hello, entry->params.journal_id);
  entry->connection = std::move(connection);
  entry->arrived.Set();
  co_return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<SessionListener::Entry>> SessionListener::State::Add(
    HandshakeParams params, std::string peer_name) {
  if (closed_) return absl::FailedPreconditionError("the session listener is closed");
  if (params.session_id.empty() || params.token.size() != kSessionTokenSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("a session needs an id and a token of ", kSessionTokenSize, " bytes"));
  }
  const std::string id = params.session_id;
  auto entry = std::make_shared<Entry>(executor_, std::move(params), std::move(peer_name));
  if (!entries_.emplace(id, entry).second) {
    return absl::AlreadyExistsError(absl::StrCat("session \"", id, "\" is expected already"));
  }
  return entry;
}

void SessionListener::State::Close() {
  if (closed_) return;
  closed_ = true;
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  for (auto& [id, entry] : entries_) {
    entry->cancelled = true;
    entry->arrived.Set();
  }
  entries_.clear();
}

namespace {

template <typename State, typename Entry>
class ExpectationImpl final : public SessionListener::Expectation {
 public:
  ExpectationImpl(std::shared_ptr<State> state, std::shared_ptr<Entry> entry)
      : state_(std::move(state)), entry_(std::move(entry)) {}
  ~ExpectationImpl() override {
    if (!entry_->cancelled) state_->Remove(entry_->params.session_id);
    entry_->connection.reset();
  }

  Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Wait(
      std::chrono::milliseconds timeout) override {
    return WithDeadline(timeout, "the source's session connection", Arrival(entry_));
  }

 private:
  static Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Arrival(
      std::shared_ptr<Entry> entry) {
    while (!entry->connection) {
      if (entry->cancelled) co_return absl::CancelledError("the session listener was closed");
      entry->arrived.Reset();
      co_await entry->arrived.Wait();
    }
    co_return std::exchange(entry->connection, nullptr);
  }

  std::shared_ptr<State> state_;
  std::shared_ptr<Entry> entry_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SessionListener>> SessionListener::Listen(Executor executor,
                                                                         ListenerOptions options) {
  const bool accepts = !options.address.empty();
  auto state = std::make_shared<State>(executor, std::move(options));
  if (accepts) {
    RETURN_IF_ERROR(state->Open());
    Spawn(executor, State::AcceptLoop(state));
  }
  return std::unique_ptr<SessionListener>(new SessionListener(std::move(state)));
}

SessionListener::SessionListener(std::shared_ptr<State> state) : state_(std::move(state)) {}

SessionListener::~SessionListener() { Close(); }

const std::string& SessionListener::address() const { return state_->address(); }

const std::string& SessionListener::bound_address() const { return state_->bound_address(); }

absl::StatusOr<std::unique_ptr<SessionListener::Expectation>> SessionListener::Expect(
    const std::string& session_id, const std::string& token, const std::string& journal_id,
    const std::string& peer_name) {
  HandshakeParams params;
  params.role = Role::kDestination;
  params.session_id = session_id;
  params.token = token;
  params.journal_id = journal_id;
  ASSIGN_OR_RETURN(std::shared_ptr<Entry> entry, state_->Add(std::move(params), peer_name));
  return std::make_unique<ExpectationImpl<State, Entry>>(state_, std::move(entry));
}

void SessionListener::Close() { state_->Close(); }

}  // namespace ferry::migration
