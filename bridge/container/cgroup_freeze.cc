#include "bridge/container/cgroup_freeze.h"

#include <sys/inotify.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::bridge {
namespace {

bool IsFrozen(const std::string& events) {
  std::ifstream file(events);
  std::string frozen;
  for (std::string name, value; file >> name >> value;) {
    if (name == "frozen") frozen = value;
  }
  return frozen == "1";
}

Task<absl::Status> Watch(Executor executor, UniqueFd changes, std::string events) {
  asio::posix::stream_descriptor descriptor(executor, changes.Release());
  std::vector<char> buffer(4096);
  while (!IsFrozen(events)) {
    boost::system::error_code error;
    co_await descriptor.async_read_some(asio::buffer(buffer),
                                        asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return absl::InternalError(absl::StrCat("cannot watch ", events));
  }
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::Status> AwaitFrozen(std::string folder, milliseconds limit) {
  const std::string events = folder + "/cgroup.events";
  UniqueFd changes(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  // Before the first look, so that nothing comes between.
  if (inotify_add_watch(changes.get(), events.c_str(), IN_MODIFY) < 0) {
    co_return absl::ErrnoToStatus(errno, absl::StrCat("cannot watch ", events));
  }
  const Executor executor = co_await asio::this_coro::executor;
  Task<absl::Status> watch = Watch(executor, std::move(changes), events);
  co_return co_await WithDeadline(limit, "the container's freezing", std::move(watch));
}

}  // namespace ferry::bridge
