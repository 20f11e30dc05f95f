#include "bridge/mux/link_io.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferry::bridge {
namespace {

constexpr size_t kReadSize = 256 * 1024;

bool IsSocket(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode);
}

absl::Status SystemError(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, " failed: ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::shared_ptr<LinkIo>> LinkIo::Open(Executor executor, UniqueFd fd,
                                                     LinkIoHandler* handler) {
  int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return SystemError("making the guest link's descriptor non-blocking");
  }
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLET;
  if (!epoll.valid() || ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd.get(), &event) < 0) {
    return SystemError("watching the guest link's descriptor");
  }
  auto io = std::make_shared<LinkIo>(std::move(executor), std::move(fd), std::move(epoll), handler);
  io->WaitForEdge();
  io->Kick();
  return io;
}

LinkIo::LinkIo(Executor executor, UniqueFd fd, UniqueFd epoll, LinkIoHandler* handler)
    : executor_(executor),
      fd_(std::move(fd)),
      edges_(std::move(executor), epoll.Release()),
      handler_(handler),
      buffer_(kReadSize),
      is_socket_(IsSocket(fd_.get())) {}

void LinkIo::WaitForEdge() {
  edges_.async_wait(asio::posix::descriptor_base::wait_read,
                    [self = shared_from_this()](const boost::system::error_code& error) {
                      if (error || self->handler_ == nullptr) return;
                      epoll_event taken{};
                      if (::epoll_wait(self->edges_.native_handle(), &taken, 1, 0) > 0) {
                        self->readable_ = self->writable_ = true;
                        self->Pump();
                      }
                      if (self->handler_ != nullptr) self->WaitForEdge();
                    });
}

void LinkIo::Kick() {
  if (scheduled_ || handler_ == nullptr) return;
  scheduled_ = true;
  asio::post(executor_, [self = shared_from_this()] {
    self->scheduled_ = false;
    self->Pump();
  });
}

void LinkIo::Resume() {
  paused_ = false;
  Kick();
}

void LinkIo::Close() {
  handler_ = nullptr;
  boost::system::error_code ignored;
  edges_.close(ignored);
  fd_.Reset();
}

void LinkIo::Pump() {
  // The handler may close us at any of these calls.
  std::shared_ptr<LinkIo> self = shared_from_this();
  if (!paused_) WriteOutput();
  if (!paused_) ReadInput();
  if (!paused_) WriteOutput();
  // One piece at a time, so that a fast peer does not starve everything else.
  if (!paused_ && handler_ != nullptr && readable_ && handler_->WantsInput()) Kick();
}

void LinkIo::WriteOutput() {
  while (handler_ != nullptr && writable_) {
    std::string_view output = handler_->Output();
    if (output.empty()) return;
    ssize_t count = is_socket_ ? ::send(fd_.get(), output.data(), output.size(), MSG_NOSIGNAL)
                               : ::write(fd_.get(), output.data(), output.size());
    if (count > 0) {
      handler_->OnWritten(static_cast<size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      // Full, or nobody there; that the peer is gone is for the reading side to find.
      writable_ = false;
    }
  }
}

void LinkIo::ReadInput() {
  if (handler_ == nullptr || !readable_ || !handler_->WantsInput()) return;
  ssize_t count = ::read(fd_.get(), buffer_.data(), buffer_.size());
  if (count > 0) {
    handler_->OnBytes(std::string_view(buffer_.data(), static_cast<size_t>(count)));
  } else if (count < 0 && errno == EINTR) {
    return;
  } else {
    readable_ = false;
    if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) handler_->OnEnd();
  }
}

}  // namespace ferry::bridge
