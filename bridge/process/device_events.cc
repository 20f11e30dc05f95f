#include "bridge/process/device_events.h"

#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>

namespace ferry::bridge {
namespace {

Task<absl::Status> Watch(Executor executor, UniqueFd events, std::function<Task<bool>()> there) {
  asio::posix::stream_descriptor descriptor(executor, events.Release());
  while (!co_await there()) {
    boost::system::error_code error;
    co_await descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                   asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return absl::InternalError("cannot watch devices");
    DrainDeviceEvents(descriptor.native_handle());
  }
  co_return absl::OkStatus();
}

}  // namespace

UniqueFd OpenDeviceEvents() {
  UniqueFd events(
      socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  struct sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;
  if (bind(events.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) != 0) {
    events.Reset();
  }
  return events;
}

void DrainDeviceEvents(int events) {
  // An overflow (ENOBUFS) is reported once, and then there is more to read.
  char event[4096];
  while (recv(events, event, sizeof(event), 0) > 0 || errno == ENOBUFS) {
  }
}

Task<absl::Status> AwaitDevice(UniqueFd events, std::string what, milliseconds limit,
                               std::function<Task<bool>()> there) {
  if (!events.valid()) {
    if (co_await there()) co_return absl::OkStatus();
    co_return absl::InternalError("the kernel announces no devices");
  }
  const Executor executor = co_await asio::this_coro::executor;
  Task<absl::Status> watch = Watch(executor, std::move(events), std::move(there));
  co_return co_await WithDeadline(limit, what.c_str(), std::move(watch));
}

}  // namespace ferry::bridge
