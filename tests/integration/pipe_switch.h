#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry {

inline std::pair<UniqueFd, UniqueFd> MakeSocketPair() {
  int fds[2] = {-1, -1};
  socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// Stands between a guest's serial port and its hosts as a hypervisor does: hosts come and go, and
// what moves is cut anywhere. What was taken from the guest goes to whichever host is there, from
// the middle of a frame if need be; what a host had under way to the guest is lost with it.
class PipeSwitch {
 public:
  PipeSwitch(Executor executor, UniqueFd guest)
      : executor_(executor),
        guest_(executor, guest.Release()),
        guest_writer_(executor),
        changed_(executor),
        scope_(executor) {
    scope_.Spawn(GuestToHost());
  }

  // Connects a host in place of the present one; its end of the line.
  UniqueFd Plug() {
    Unplug();
    auto [host, own] = MakeSocketPair();
    host_ = std::make_shared<Host>(executor_, own.Release());
    scope_.Spawn(HostToGuest(host_));
    changed_.Set();
    return std::move(host);
  }

  void Unplug() {
    if (host_ == nullptr) return;
    boost::system::error_code ignored;
    host_->close(ignored);
    host_.reset();
  }

  // Keeps back what the guest says from here on, or no longer.
  void Hold(bool hold) {
    hold_ = hold;
    changed_.Set();
  }

  // Bytes that hosts were given so far.
  uint64_t to_host() const { return to_host_; }
  Task<void> Stop() {
    Unplug();
    co_await scope_.CancelAndJoin();
  }

 private:
  using Host = asio::posix::stream_descriptor;

  size_t AnySize(size_t most) {
    // Often a whole buffer, often a few bytes.
    const size_t limit = random_() % 4 == 0 ? 40 : 48 * 1024;
    return std::min<size_t>(most, 1 + random_() % limit);
  }

  Task<void> GuestToHost() {
    std::string held(64 * 1024, '\0');
    size_t from = 0;
    size_t to = 0;
    while (true) {
      boost::system::error_code error;
      if (from == to) {
        from = 0;
        to = co_await guest_.async_read_some(asio::buffer(held.data(), AnySize(held.size())),
                                             asio::redirect_error(asio::use_awaitable, error));
        if (error || to == 0) co_return;
      }
      if (host_ == nullptr || hold_) {
        changed_.Reset();
        co_await changed_.Wait();
        continue;
      }
      const std::shared_ptr<Host> host = host_;
      const size_t count =
          co_await host->async_write_some(asio::buffer(held.data() + from, AnySize(to - from)),
                                          asio::redirect_error(asio::use_awaitable, error));
      from += count;
      to_host_ += count;
      if (error && host_ == host) Unplug();
    }
  }

  Task<void> HostToGuest(std::shared_ptr<Host> host) {
    std::string bytes(64 * 1024, '\0');
    while (true) {
      boost::system::error_code error;
      const size_t size =
          co_await host->async_read_some(asio::buffer(bytes.data(), AnySize(bytes.size())),
                                         asio::redirect_error(asio::use_awaitable, error));
      if (error || size == 0) co_return;
      for (size_t done = 0; done < size;) {
        const AsyncMutex::Guard turn = co_await guest_writer_.Lock();
        if (host_ != host) co_return;
        done += co_await guest_.async_write_some(
            asio::buffer(bytes.data() + done, AnySize(size - done)),
            asio::redirect_error(asio::use_awaitable, error));
        if (error) co_return;
      }
    }
  }

  Executor executor_;
  Host guest_;
  AsyncMutex guest_writer_;
  AsyncEvent changed_;
  std::shared_ptr<Host> host_;
  bool hold_ = false;
  uint64_t to_host_ = 0;
  std::mt19937 random_{7};
  TaskScope scope_;
};

}  // namespace ferry
