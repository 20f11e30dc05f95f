#include "migration/connection/byte_stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::migration {
namespace {

using Socket = asio::generic::stream_protocol::socket;

int SocketOption(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

class SocketStream final : public ByteStream {
 public:
  SocketStream(Socket socket, std::string peer)
      : socket_(std::move(socket)), peer_(std::move(peer)) {}

  Task<absl::StatusOr<size_t>> ReadSome(std::span<char> buffer) override {
    boost::system::error_code ec;
    const auto target = asio::buffer(buffer.data(), buffer.size());
    const size_t size =
        co_await socket_.async_read_some(target, asio::redirect_error(asio::use_awaitable, ec));
    if (ec == asio::error::eof) co_return size_t{0};
    if (ec)
      co_return absl::UnavailableError(absl::StrCat("reading from ", peer_, ": ", ec.message()));
    co_return size;
  }

  Task<absl::Status> Write(std::string_view header, std::string_view payload) override {
    boost::system::error_code ec;
    const std::array<asio::const_buffer, 2> parts = {asio::buffer(header), asio::buffer(payload)};
    co_await asio::async_write(socket_, parts, asio::redirect_error(asio::use_awaitable, ec));
    if (ec)
      co_return absl::UnavailableError(absl::StrCat("writing to ", peer_, ": ", ec.message()));
    co_return absl::OkStatus();
  }

  void ShutdownWrite() override {
    boost::system::error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
  }

  void Close() override {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

  std::string peer() const override { return peer_; }

 private:
  Socket socket_;
  std::string peer_;
};

}  // namespace

absl::Status CheckConnectedStream(int fd) {
  const int domain = SocketOption(fd, SO_DOMAIN);
  if (SocketOption(fd, SO_TYPE) != SOCK_STREAM ||
      (domain != AF_INET && domain != AF_INET6 && domain != AF_UNIX)) {
    return absl::InvalidArgumentError(
        "the descriptor is not a stream socket of TCP or Unix; hand over a connected one");
  }
  if (SocketOption(fd, SO_ACCEPTCONN) == 1) {
    return absl::InvalidArgumentError(
        "the socket listens for connections; hand over one that it accepted");
  }
  sockaddr_storage address;
  socklen_t size = sizeof address;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the socket is not connected: ", std::strerror(errno),
                     "; connect it to the other host's socket"));
  }
  return absl::OkStatus();
}

std::string DescribePeer(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char text[INET6_ADDRSTRLEN] = "";
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "a lost peer";
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    ::inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    return absl::StrCat(text, ":", ntohs(v4->sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    return absl::StrCat("[", text, "]:", ntohs(v6->sin6_port));
  }
  return "a local process";
}

void TuneSocket(int fd) {
  // A VMM that inherited the socket would keep it open after the daemon has died.
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const int unsent = 256 * 1024;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
  // The session core hears that a peer is silent; this lets the kernel forget such a peer as well.
  const unsigned int unanswered_ms = 10'000;
  ::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

absl::StatusOr<std::unique_ptr<ByteStream>> MakeSocketStream(Executor executor, UniqueFd fd) {
  RETURN_IF_ERROR(CheckConnectedStream(fd.get()));
  TuneSocket(fd.get());
  std::string peer = DescribePeer(fd.get());
  Socket socket(executor);
  const asio::generic::stream_protocol protocol(SocketOption(fd.get(), SO_DOMAIN),
                                                SocketOption(fd.get(), SO_PROTOCOL));
  boost::system::error_code ec;
  socket.assign(protocol, fd.get(), ec);
  if (ec) return absl::InternalError(absl::StrCat("taking over a socket: ", ec.message()));
  fd.Release();
  return std::make_unique<SocketStream>(std::move(socket), std::move(peer));
}

}  // namespace ferry::migration
