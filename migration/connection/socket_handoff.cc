#include "migration/connection/socket_handoff.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/write.hpp>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/peer_user.h"
#include "bridge/runtime/status_macros.h"
#include "migration/connection/byte_stream.h"
#include "migration/connection/channel_relay.h"
#include "migration/connection/handshake.h"

namespace ferry::migration {
namespace {

using Local = asio::local::stream_protocol;

constexpr size_t kMaxLine = 4096;
constexpr size_t kMaxCallers = 16;
constexpr size_t kMaxDescriptors = 4;

// One line and the descriptors that came with it.
struct Received {
  std::string line;
  std::vector<UniqueFd> descriptors;
  bool truncated = false;
};

// Appends what is there now. False at the end of the stream or on an error.
bool ReceiveSome(int fd, Received* received) {
  char bytes[512];
  iovec vector{bytes, sizeof bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t size = ::recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int passed = -1;
      std::memcpy(&passed, CMSG_DATA(c) + i * sizeof(int), sizeof passed);
      received->descriptors.emplace_back(passed);
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) received->truncated = true;
  received->line.append(bytes, static_cast<size_t>(size));
  return size > 0;
}

Task<absl::StatusOr<Received>> ReceiveLine(Local::socket* socket) {
  Received received;
  while (received.line.find('\n') == std::string::npos) {
    if (received.line.size() > kMaxLine || received.descriptors.size() > kMaxDescriptors) {
      co_return absl::InvalidArgumentError("more was sent than one line and one descriptor");
    }
    boost::system::error_code ec;
    co_await socket->async_wait(Local::socket::wait_read,
                                asio::redirect_error(asio::use_awaitable, ec));
    if (ec || !ReceiveSome(socket->native_handle(), &received)) {
      co_return absl::InvalidArgumentError("the line was not finished");
    }
  }
  received.line.resize(received.line.find('\n'));
  co_return received;
}

absl::Status CheckRequest(const Received& received) {
  boost::json::error_code ec;
  boost::json::parse_options options;
  options.max_depth = 8;
  const boost::json::value value = boost::json::parse(received.line, ec, {}, options);
  const boost::json::object* object = ec ? nullptr : value.if_object();
  const boost::json::value* version = object != nullptr ? object->if_contains("version") : nullptr;
  if (version == nullptr || !version->is_int64() || version->as_int64() != 1) {
    return absl::InvalidArgumentError("expected the line {\"version\":1}");
  }
  if (received.truncated || received.descriptors.size() != 1) {
    return absl::InvalidArgumentError("expected exactly one descriptor with the line");
  }
  return CheckConnectedStream(received.descriptors[0].get());
}

absl::Status CheckCaller(int fd) {
  const std::optional<uid_t> user = PeerUser(fd);
  if (!user || !IsRootOrOurs(*user)) {
    return absl::PermissionDeniedError("only root and the daemon's own user may hand over sockets");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeTicket() {
  std::array<unsigned char, kTicketSize / 2> random;
  if (RAND_bytes(random.data(), random.size()) != 1) {
    return absl::InternalError("the random generator failed");
  }
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(random.data()), random.size()));
}

}  // namespace

class SocketHandoff::State : public std::enable_shared_from_this<State> {
 public:
  State(Executor executor, HandoffOptions options)
      : executor_(executor), options_(std::move(options)), acceptor_(executor) {}

  absl::Status Open();
  absl::StatusOr<UniqueFd> Redeem(std::string_view ticket);
  void Close();
  static Task<void> AcceptLoop(std::shared_ptr<State> self);

 private:
  struct Unclaimed {
    std::string ticket;
    UniqueFd socket;
    asio::steady_timer expiry;
  };

  static Task<void> Serve(std::shared_ptr<State> self, Local::socket socket);
  static Task<absl::StatusOr<std::string>> Exchange(std::shared_ptr<State> self,
                                                    Local::socket* socket);
  absl::StatusOr<std::string> Keep(UniqueFd socket);
  void Expire(const std::string& ticket);

  Executor executor_;
  HandoffOptions options_;
  Local::acceptor acceptor_;
  std::list<Unclaimed> unclaimed_;
  size_t callers_ = 0;
  bool open_ = false;
};

absl::Status SocketHandoff::State::Open() {
  RETURN_IF_ERROR(CheckUnixPath(options_.path));
  const Local::endpoint endpoint(options_.path);
  boost::system::error_code ec;
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) open_ = true;
  // Nobody can connect before it listens.
  if (!ec && ::chmod(options_.path.c_str(), 0600) != 0) {
    ec.assign(errno, boost::system::system_category());
  }
  if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  if (!ec) acceptor_.non_blocking(true, ec);
  if (ec) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for sockets at ", options_.path, ": ", ec.message()));
  }
  return absl::OkStatus();
}

Task<void> SocketHandoff::State::AcceptLoop(std::shared_ptr<State> self) {
  constexpr milliseconds kPauseWhenFull{100};
  while (self->open_) {
    boost::system::error_code ec;
    co_await self->acceptor_.async_wait(Local::acceptor::wait_read,
                                        asio::redirect_error(asio::use_awaitable, ec));
    if (ec || !self->open_) co_return;
    UniqueFd fd(
        ::accept4(self->acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid() && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
      co_await Delay(kPauseWhenFull);
    }
    if (!fd.valid() || self->callers_ >= kMaxCallers) continue;
    Local::socket socket(self->executor_);
    socket.assign(Local(), fd.get(), ec);
    if (ec) continue;
    fd.Release();
    ++self->callers_;
    Spawn(self->executor_, Serve(self, std::move(socket)));
  }
}

Task<absl::StatusOr<std::string>> SocketHandoff::State::Exchange(std::shared_ptr<State> self,
                                                                 Local::socket* socket) {
  CO_RETURN_IF_ERROR(CheckCaller(socket->native_handle()));
  CO_ASSIGN_OR_RETURN(Received received, co_await ReceiveLine(socket));
  CO_RETURN_IF_ERROR(CheckRequest(received));
  co_return self->Keep(std::move(received.descriptors[0]));
}

Task<void> SocketHandoff::State::Serve(std::shared_ptr<State> self, Local::socket socket) {
  struct Leave {
    State* state;
    ~Leave() { --state->callers_; }
  } leave{self.get()};
  absl::StatusOr<std::string> ticket =
      co_await WithDeadline(self->options_.deadline, "the caller", Exchange(self, &socket));
  boost::json::object answer;
  if (ticket.ok()) {
    answer["ticket"] = *ticket;
  } else {
    answer["error"] = std::string(ticket.status().message());
  }
  const std::string line = boost::json::serialize(answer) + "\n";
  // The line fits into any socket buffer: a caller who is gone or does not read harms nobody.
  ::send(socket.native_handle(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

absl::StatusOr<std::string> SocketHandoff::State::Keep(UniqueFd socket) {
  if (!open_ || unclaimed_.size() >= options_.max_unclaimed) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no more than ", options_.max_unclaimed,
                     " sockets may wait for their session; retry later"));
  }
  ASSIGN_OR_RETURN(const std::string ticket, MakeTicket());
  Unclaimed& kept = unclaimed_.emplace_back(
      Unclaimed{ticket, std::move(socket), asio::steady_timer(executor_, options_.lifetime)});
  std::weak_ptr<State> weak = weak_from_this();
  kept.expiry.async_wait([weak, ticket](const boost::system::error_code& ec) {
    const auto self = weak.lock();
    if (!ec && self) self->Expire(ticket);
  });
  return ticket;
}

void SocketHandoff::State::Expire(const std::string& ticket) {
  unclaimed_.remove_if([&](const Unclaimed& kept) { return kept.ticket == ticket; });
}

absl::StatusOr<UniqueFd> SocketHandoff::State::Redeem(std::string_view ticket) {
  if (ticket.size() != kTicketSize) {
    return absl::InvalidArgumentError(absl::StrCat("a socket ticket has ", kTicketSize,
                                                   " hex digits, this one has ", ticket.size(),
                                                   " bytes"));
  }
  for (auto it = unclaimed_.begin(); it != unclaimed_.end(); ++it) {
    if (!ConstantTimeEqual(it->ticket, ticket)) continue;
    UniqueFd socket = std::move(it->socket);
    unclaimed_.erase(it);
    return socket;
  }
  return absl::NotFoundError(
      "no socket waits under this ticket: it was redeemed already, is too old, or never existed");
}

void SocketHandoff::State::Close() {
  if (!open_) return;
  open_ = false;
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  ::unlink(options_.path.c_str());
  unclaimed_.clear();
}

absl::StatusOr<std::unique_ptr<SocketHandoff>> SocketHandoff::Listen(Executor executor,
                                                                     HandoffOptions options) {
  auto state = std::make_shared<State>(executor, std::move(options));
  RETURN_IF_ERROR(state->Open());
  Spawn(executor, State::AcceptLoop(state));
  return std::unique_ptr<SocketHandoff>(new SocketHandoff(std::move(state)));
}

SocketHandoff::SocketHandoff(std::shared_ptr<State> state) : state_(std::move(state)) {}

SocketHandoff::~SocketHandoff() { Close(); }

absl::StatusOr<UniqueFd> SocketHandoff::Redeem(std::string_view ticket) {
  return state_->Redeem(ticket);
}

void SocketHandoff::Close() { state_->Close(); }

namespace {

bool SendWithDescriptor(int fd, std::string_view line, int passed) {
  iovec vector{const_cast<char*>(line.data()), line.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
  return ::sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(line.size());
}

absl::StatusOr<std::string> ParseAnswer(const std::string& line) {
  boost::json::error_code ec;
  const boost::json::value value = boost::json::parse(line, ec);
  const boost::json::object* object = ec ? nullptr : value.if_object();
  if (object == nullptr) return absl::InternalError("the daemon's answer is no JSON object");
  if (const auto* ticket = object->if_contains("ticket");
      ticket != nullptr && ticket->is_string()) {
    return std::string(ticket->as_string());
  }
  const auto* error = object->if_contains("error");
  return absl::FailedPreconditionError(
      absl::StrCat("the daemon refused the socket: ", error != nullptr && error->is_string()
                                                          ? std::string(error->as_string())
                                                          : std::string("no reason given")));
}

Task<absl::StatusOr<std::string>> HandOver(std::string path, UniqueFd socket) {
  Local::socket connection(co_await asio::this_coro::executor);
  boost::system::error_code ec;
  const Local::endpoint endpoint(path);
  co_await connection.async_connect(endpoint, asio::redirect_error(asio::use_awaitable, ec));
  const std::string_view line = "{\"version\":1}\n";
  if (ec || !SendWithDescriptor(connection.native_handle(), line, socket.get())) {
    co_return absl::UnavailableError(absl::StrCat("cannot reach the daemon at ", path));
  }
  CO_ASSIGN_OR_RETURN(Received answer, co_await ReceiveLine(&connection));
  co_return ParseAnswer(answer.line);
}

}  // namespace

Task<absl::StatusOr<std::string>> HandOverSocket(std::string path, UniqueFd socket,
                                                 std::chrono::milliseconds deadline) {
  CO_RETURN_IF_ERROR(CheckUnixPath(path));
  co_return co_await WithDeadline(deadline, "the daemon's handoff socket",
                                  HandOver(path, std::move(socket)));
}

}  // namespace ferry::migration
