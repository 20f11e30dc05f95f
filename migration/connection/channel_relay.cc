#include "migration/connection/channel_relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferry::migration {
namespace {

constexpr int kSendBuffer = 1024 * 1024;

}  // namespace

absl::Status CheckUnixPath(const std::string& path) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", path, "\" is no usable path for a Unix socket: it needs 1 to ",
                     sizeof(sockaddr_un::sun_path) - 1, " characters"));
  }
  return absl::OkStatus();
}

ChannelRelay::ChannelRelay(Executor executor, uint16_t channel, std::shared_ptr<SessionCore> core,
                           std::shared_ptr<AsyncEvent> output)
    : executor_(executor),
      channel_(channel),
      core_(std::move(core)),
      output_(std::move(output)),
      socket_(executor),
      buffer_free_(executor),
      inbound_(executor) {}

void ChannelRelay::Start(Socket socket) {
  started_ = true;
  socket_ = std::move(socket);
  StartPumps();
}

void ChannelRelay::StartByConnecting(const std::string& path) {
  started_ = true;
  Spawn(executor_, Connect(shared_from_this(), path));
}

Task<void> ChannelRelay::Connect(Self self, std::string path) {
  // A full backlog is the one thing worth waiting for; QEMU empties it as it accepts its channels.
  constexpr int kAttempts = 200;
  constexpr milliseconds kPause{10};
  const asio::local::stream_protocol::endpoint endpoint(path);
  boost::system::error_code ec;
  for (int attempt = 0; attempt < kAttempts && !self->aborted_; ++attempt) {
    self->socket_.close(ec);
    self->socket_.open(endpoint.protocol(), ec);
    if (!ec) self->socket_.non_blocking(true, ec);
    if (!ec) self->socket_.connect(endpoint, ec);
    if (ec != asio::error::would_block) break;
    co_await Delay(kPause);
  }
  if (self->aborted_) co_return;
  if (ec) {
    self->Fail(
        absl::StrCat("cannot connect to the VM's migration socket ", path, ": ", ec.message()));
    co_return;
  }
  self->StartPumps();
}

void ChannelRelay::StartPumps() {
  ::fcntl(socket_.native_handle(), F_SETFD, FD_CLOEXEC);
  boost::system::error_code ignored;
  socket_.non_blocking(true, ignored);
  // Room for what the peer may send ahead, where the kernel grants it: what the socket takes at
  // once is not copied here a second time, and the VMM is woken for more at a time.
  const int window = kSendBuffer;
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_SNDBUF, &window, sizeof window);
  connected_ = true;
  for (auto& buffer : buffers_) buffer.resize(kMaxBulkPayload);
  Spawn(executor_, PumpOut(shared_from_this()));
  Spawn(executor_, PumpIn(shared_from_this()));
}

Task<void> ChannelRelay::PumpOut(Self self) {
  size_t slot = 0;
  while (!self->aborted_) {
    if (self->core_->queued_buffers(self->channel_) >= kBuffers) {
      self->buffer_free_.Reset();
      co_await self->buffer_free_.Wait();
      continue;
    }
    boost::system::error_code ec;
    std::vector<char>& buffer = self->buffers_[slot];
    const auto target = asio::buffer(buffer);
    const size_t size = co_await self->socket_.async_read_some(
        target, asio::redirect_error(asio::use_awaitable, ec));
    if (self->aborted_) co_return;
    if (ec == asio::error::eof) break;
    if (ec) {
      self->Fail(absl::StrCat("reading the VM's migration socket: ", ec.message()));
      co_return;
    }
    self->core_->QueueData(self->channel_, std::string_view(buffer.data(), size));
    self->output_->Set();
    slot = (slot + 1) % kBuffers;
  }
  if (self->aborted_) co_return;
  self->core_->CloseHalf(self->channel_);
  self->output_->Set();
  self->outbound_done_ = true;
  if (self->inbound_done_) {
    boost::system::error_code ignored;
    self->socket_.close(ignored);
  }
}

Task<void> ChannelRelay::PumpIn(Self self) {
  while (!self->aborted_) {
    if (self->pending_.empty()) {
      if (self->peer_closed_) {
        self->FinishInbound();
        co_return;
      }
      self->inbound_.Reset();
      co_await self->inbound_.Wait();
      continue;
    }
    std::swap(self->pending_, self->writing_);
    boost::system::error_code ec;
    const auto source = asio::buffer(self->writing_);
    co_await asio::async_write(self->socket_, source,
                               asio::redirect_error(asio::use_awaitable, ec));
    if (self->aborted_) co_return;
    if (ec) {
      self->Fail(absl::StrCat("writing the VM's migration socket: ", ec.message()));
      co_return;
    }
    self->core_->Consumed(self->channel_, self->writing_.size());
    self->output_->Set();
    self->writing_.clear();
  }
}

void ChannelRelay::OnData(std::string_view data) {
  if (aborted_) return;
  if (connected_ && pending_.empty() && writing_.empty()) {
    // The usual case: the socket has room, and the bytes go there without another copy.
    const ssize_t sent =
        ::send(socket_.native_handle(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      data.remove_prefix(static_cast<size_t>(sent));
      core_->Consumed(channel_, static_cast<size_t>(sent));
      output_->Set();
    }
    if (data.empty()) return;
  }
  // The credit window bounds this.
  pending_.append(data);
  inbound_.Set();
}

void ChannelRelay::OnPeerClosed() {
  peer_closed_ = true;
  inbound_.Set();
}

void ChannelRelay::FinishInbound() {
  boost::system::error_code ignored;
  inbound_done_ = true;
  if (outbound_done_) {
    socket_.close(ignored);
  } else {
    socket_.shutdown(Socket::shutdown_send, ignored);
  }
}

void ChannelRelay::Fail(const std::string& what) {
  core_->Reset(channel_, what);
  output_->Set();
  Abort();
}

void ChannelRelay::Abort() {
  if (aborted_) return;
  aborted_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  buffer_free_.Set();
  inbound_.Set();
}

}  // namespace ferry::migration
