#include "tools/ferryctl/fd_thread.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "bridge/runtime/unique_fd.h"

namespace ferry::ctl {
namespace {

// A pipe that polls writable takes this much without blocking (PIPE_BUF on Linux).
constexpr size_t kSafeWrite = 4096;
constexpr size_t kFileWrite = 1 << 20;

}  // namespace

struct FdThread::State {
  struct Job {
    bool is_write = false;
    std::string data;
    size_t max_bytes = 0;
    Executor executor;
    std::shared_ptr<AsyncEvent> done;
    std::shared_ptr<Result> result;
  };

  explicit State(int descriptor) : fd(descriptor), stop_event(::eventfd(0, EFD_CLOEXEC)) {
    struct stat info {};
    is_file = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  }

  // False when the thread is to end.
  bool WaitFor(short events) {
    pollfd fds[2] = {{fd, events, 0}, {stop_event.get(), POLLIN, 0}};
    while (::poll(fds, 2, -1) < 0 && errno == EINTR) {
    }
    return fds[1].revents == 0;
  }

  Result Read(size_t max_bytes) {
    Result result;
    result.data.resize(max_bytes);
    while (true) {
      if (!WaitFor(POLLIN)) return {"", ECANCELED};
      const ssize_t got = ::read(fd, result.data.data(), max_bytes);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got < 0) return {"", errno};
      result.data.resize(static_cast<size_t>(got));
      return result;
    }
  }

  Result Write(absl::string_view data) {
    const size_t step = is_file ? kFileWrite : kSafeWrite;
    while (!data.empty()) {
      if (!WaitFor(POLLOUT)) return {"", ECANCELED};
      const ssize_t put = ::write(fd, data.data(), std::min(step, data.size()));
      if (put < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (put < 0) return {"", errno};
      data.remove_prefix(static_cast<size_t>(put));
    }
    return {};
  }

  void Loop() {
    while (true) {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [this] { return stopping || job.has_value(); });
      if (stopping) return;
      Job current = *std::exchange(job, std::nullopt);
      lock.unlock();
      *current.result = current.is_write ? Write(current.data) : Read(current.max_bytes);
      const Executor executor = std::move(current.executor);
      asio::post(executor, [done = std::move(current.done)] { done->Set(); });
    }
  }

  const int fd;
  const UniqueFd stop_event;
  bool is_file = false;
  std::mutex mutex;
  std::condition_variable wake;
  std::optional<Job> job;
  bool stopping = false;
  Executor executor;
  std::thread thread;
};

FdThread::FdThread(Executor executor, int fd) : state_(std::make_shared<State>(fd)) {
  state_->executor = std::move(executor);
  state_->thread = std::thread([state = state_.get()] { state->Loop(); });
}

FdThread::~FdThread() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_one();
  const uint64_t one = 1;
  while (::write(state_->stop_event.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  state_->thread.join();
}

Task<FdThread::Result> FdThread::Submit(bool is_write, std::string data, size_t max_bytes) {
  auto done = std::make_shared<AsyncEvent>(state_->executor);
  auto result = std::make_shared<Result>();
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->job.emplace(
        State::Job{is_write, std::move(data), max_bytes, state_->executor, done, result});
  }
  state_->wake.notify_one();
  co_await done->Wait();
  co_return std::move(*result);
}

Task<FdThread::Result> FdThread::Read(size_t max_bytes) { return Submit(false, "", max_bytes); }

Task<FdThread::Result> FdThread::Write(std::string data) {
  return Submit(true, std::move(data), 0);
}

}  // namespace ferry::ctl
