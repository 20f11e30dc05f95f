#include "vmmanager/qemu/stream_relay.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <utility>

namespace ferry::vm {
namespace {

using Descriptor = asio::posix::stream_descriptor;

constexpr size_t kMostAtOnce = 1 << 20;

}  // namespace

struct StreamRelay::State {
  State(const Executor& executor, UniqueFd source, UniqueFd sink)
      : from(executor, source.Release()),
        to(executor, sink.Release()),
        nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC)),
        ended(executor) {
    from.non_blocking(true);
    to.non_blocking(true);
  }

  // What became of one step.
  enum class Step { kGoOn, kNothingThere, kNoRoom, kEnd };

  Step Carry() {
    const int sink = result.ok() ? to.native_handle() : nowhere.get();
    const ssize_t count = ::splice(from.native_handle(), nullptr, sink, nullptr, kMostAtOnce,
                                   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (count > 0) carried = true;
    if (count > 0 || (count < 0 && errno == EINTR)) return Step::kGoOn;
    if (count == 0) return Step::kEnd;
    if (errno == EAGAIN) {
      // It does not say which of the two is not ready.
      int waiting = 0;
      const bool some = ::ioctl(from.native_handle(), FIONREAD, &waiting) == 0 && waiting > 0;
      return some ? Step::kNoRoom : Step::kNothingThere;
    }
    if (!result.ok()) return Step::kEnd;
    result = absl::ErrnoToStatus(errno, "the stream takes no more of the VM's state");
    to.close();
    return Step::kGoOn;
  }

  Descriptor from;
  Descriptor to;
  UniqueFd nowhere;
  AsyncEvent ended;
  absl::Status result;
  bool carried = false;
};

StreamRelay::StreamRelay(Executor executor, UniqueFd from, UniqueFd to)
    : state_(std::make_shared<State>(executor, std::move(from), std::move(to))) {}

bool StreamRelay::has_carried() const { return state_->carried; }

void StreamRelay::Start() { ferry::Spawn(state_->from.get_executor(), Run(state_)); }

Task<void> StreamRelay::Run(std::shared_ptr<State> state) {
  while (true) {
    const State::Step step = state->Carry();
    if (step == State::Step::kEnd) break;
    boost::system::error_code ignored;
    auto token = asio::redirect_error(asio::use_awaitable, ignored);
    if (step == State::Step::kNoRoom) {
      co_await state->to.async_wait(Descriptor::wait_write, token);
    } else {
      // Also after a step that went well, for the others on this executor.
      co_await state->from.async_wait(Descriptor::wait_read, token);
    }
  }
  boost::system::error_code ignored;
  state->to.close(ignored);
  state->from.close(ignored);
  state->ended.Set();
}

Task<absl::Status> StreamRelay::AwaitEnd() {
  std::shared_ptr<State> state = state_;
  co_await state->ended.Wait();
  co_return state->result;
}

}  // namespace ferry::vm
