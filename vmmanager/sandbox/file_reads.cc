#include "vmmanager/sandbox/file_reads.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/blocking_worker.h"

namespace ferry::vm {

struct ThreadedFileReads::State {
  explicit State(Executor e) : executor(std::move(e)), freed(executor) {}

  size_t late() {
    std::erase_if(still_running, [](const auto& read) { return read.expired(); });
    return still_running.size();
  }

  const Executor executor;
  AsyncEvent freed;
  int running = 0;                                 // within their limit
  std::vector<std::weak_ptr<void>> still_running;  // and late
};

ThreadedFileReads::ThreadedFileReads(Executor executor, milliseconds limit)
    : limit_(limit), state_(std::make_shared<State>(std::move(executor))) {}

ThreadedFileReads::~ThreadedFileReads() = default;

Task<absl::Status> ThreadedFileReads::Do(std::string path, std::function<void()> work) {
  const std::shared_ptr<State> state = state_;
  const milliseconds limit = limit_;
  if (state->late() >= kMostLate) {
    co_return absl::ResourceExhaustedError(
        absl::StrCat("cannot read ", path, ": ", kMostLate,
                     " reads of files have not ended yet; see whether a file system hangs"));
  }
  while (state->running >= kAtOnce) {
    state->freed.Reset();
    co_await state->freed.Wait();
  }
  struct Slot {
    State* state;
    ~Slot() {
      --state->running;
      state->freed.Set();
    }
  } slot{state.get()};
  ++state->running;
  // Lives as long as the read.
  auto read = std::make_shared<std::function<void()>>(std::move(work));
  const std::weak_ptr<void> watched = read;
  BlockingWorker worker(state->executor);
  std::function<absl::Status()> run = [read = std::move(read)] {
    (*read)();
    return absl::OkStatus();
  };
  absl::Status status = co_await worker.Run(limit, "the file", std::move(run));
  if (!absl::IsDeadlineExceeded(status)) co_return status;
  state->still_running.push_back(watched);
  co_return absl::DeadlineExceededError(absl::StrCat("reading ", path, " takes more than ",
                                                     limit.count(),
                                                     " ms; see whether its file system hangs"));
}

}  // namespace ferry::vm
