#include "bridge/transport/stream_connection.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <boost/asio/error.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/system/system_error.hpp>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {

class StreamSocket {
 public:
  StreamSocket(Executor executor, UniqueFd socket, std::shared_ptr<ReadGate> gate)
      : descriptor(std::move(executor)), read_gate(std::move(gate)) {
    ::fcntl(socket.get(), F_SETFL, ::fcntl(socket.get(), F_GETFL) | O_NONBLOCK);
    descriptor.assign(socket.Release());
  }

  bool closed() const { return !descriptor.is_open(); }
  int fd() { return descriptor.native_handle(); }

  void Close() {
    if (closed()) return;
    // The peer learns of it even while a duplicate of the descriptor lives in a child.
    ::shutdown(fd(), SHUT_RDWR);
    boost::system::error_code ignored;
    descriptor.close(ignored);
  }

  asio::posix::stream_descriptor descriptor;
  std::shared_ptr<ReadGate> read_gate;
};

void CloseStreamSocket(StreamSocket& socket) { socket.Close(); }

namespace {

absl::Status ClosedError() {
  return absl::CancelledError("the connection was closed by its own side");
}

absl::Status SocketError(const char* action, int error) {
  return absl::UnavailableError(
      absl::StrCat(action, " failed: ", std::strerror(error), "; the peer or the link is gone"));
}

bool IsTransient(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// Waits until the socket is ready. Unwinds a cancelled task here, so that it takes no more bytes.
Task<void> WaitReady(std::shared_ptr<StreamSocket> socket,
                     asio::posix::descriptor_base::wait_type what) {
  boost::system::error_code error;
  co_await socket->descriptor.async_wait(what, asio::redirect_error(asio::use_awaitable, error));
  if (error == asio::error::operation_aborted && !socket->closed()) {
    throw boost::system::system_error(error);
  }
}

}  // namespace

StreamSocketConnection::StreamSocketConnection(Executor executor, UniqueFd socket,
                                               std::shared_ptr<ReadGate> gate)
    : socket_(std::make_shared<StreamSocket>(std::move(executor), std::move(socket),
                                             std::move(gate))) {}

StreamSocketConnection::~StreamSocketConnection() { Close(); }

Task<absl::StatusOr<size_t>> StreamSocketConnection::Read(std::span<char> buffer) {
  std::shared_ptr<StreamSocket> socket = socket_;
  if (buffer.empty()) co_return absl::InvalidArgumentError("reading into an empty buffer");
  for (;;) {
    while (socket->read_gate != nullptr && socket->read_gate->paused() && !socket->closed()) {
      co_await socket->read_gate->WaitOpen();
    }
    if (socket->closed()) co_return ClosedError();
    ssize_t count = ::recv(socket->fd(), buffer.data(), buffer.size(), 0);
    if (count >= 0) co_return static_cast<size_t>(count);
    if (errno == EINTR) continue;
    if (!IsTransient(errno)) co_return SocketError("reading from the connection", errno);
    co_await WaitReady(socket, asio::posix::descriptor_base::wait_read);
  }
}

Task<absl::Status> StreamSocketConnection::Write(std::string_view data) {
  std::shared_ptr<StreamSocket> socket = socket_;
  while (!data.empty()) {
    if (socket->closed()) co_return ClosedError();
    ssize_t count = ::send(socket->fd(), data.data(), data.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      data.remove_prefix(static_cast<size_t>(count));
      continue;
    }
    if (errno == EINTR) continue;
    if (!IsTransient(errno)) co_return SocketError("writing to the connection", errno);
    co_await WaitReady(socket, asio::posix::descriptor_base::wait_write);
  }
  co_return absl::OkStatus();
}

Task<absl::Status> StreamSocketConnection::CloseWrite() {
  if (socket_->closed()) co_return ClosedError();
  if (::shutdown(socket_->fd(), SHUT_WR) != 0) {
    co_return SocketError("ending the connection's writing side", errno);
  }
  co_return absl::OkStatus();
}

void StreamSocketConnection::Close() { socket_->Close(); }

}  // namespace ferry::bridge
