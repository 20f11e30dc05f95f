#include "migration/connection/dialer.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/host_port.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::migration {
namespace {

using asio::ip::tcp;

Task<absl::StatusOr<UniqueFd>> ConnectTcp(HostPort address) {
  const Executor executor = co_await asio::this_coro::executor;
  boost::system::error_code ec;
  tcp::resolver resolver(executor);
  const std::string port = absl::StrCat(address.port);
  const auto endpoints = co_await resolver.async_resolve(
      address.host, port, asio::redirect_error(asio::use_awaitable, ec));
  if (ec) {
    co_return absl::UnavailableError(
        absl::StrCat("cannot resolve the destination \"", address.host, "\": ", ec.message()));
  }
  tcp::socket socket(executor);
  co_await asio::async_connect(socket, endpoints, asio::redirect_error(asio::use_awaitable, ec));
  UniqueFd fd;
  if (!ec) fd.Reset(socket.release(ec));
  if (ec) {
    co_return absl::UnavailableError(
        absl::StrCat("cannot reach the destination's session address ", FormatHostPort(address),
                     ": ", ec.message(), "; check that its ferryd runs and the port is open"));
  }
  co_return fd;
}

Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> DialWithoutDeadline(DialOptions options) {
  const Executor executor = co_await asio::this_coro::executor;
  CO_ASSIGN_OR_RETURN(HostPort address, ParseHostPort(options.address));
  CO_ASSIGN_OR_RETURN(UniqueFd fd, co_await ConnectTcp(address));
  std::unique_ptr<ByteStream> stream;
  if (options.tls) {
    CO_ASSIGN_OR_RETURN(stream, co_await MakeTlsClientStream(std::move(fd), options.tls,
                                                             address.host, options.deadline));
  } else {
    CO_ASSIGN_OR_RETURN(stream, MakeSocketStream(executor, std::move(fd)));
  }
  co_return co_await SessionConnection::Handshake(std::move(stream), options.params, options.limits,
                                                  options.deadline);
}

}  // namespace

Task<absl::StatusOr<std::shared_ptr<SessionConnection>>> Dial(DialOptions options) {
  const std::chrono::milliseconds deadline = options.deadline;
  co_return co_await WithDeadline(deadline, "dialling the destination's session address",
                                  DialWithoutDeadline(std::move(options)));
}

}  // namespace ferry::migration
