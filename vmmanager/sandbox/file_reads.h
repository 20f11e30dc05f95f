#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {

// Reads files whose paths come from users and peers: their file system may hang.
class FileReads {
 public:
  virtual ~FileReads() = default;

  // What `read` returns, which may run on another thread and holds all that it needs. The reads
  // must outlive the task.
  template <typename T>
  Task<absl::StatusOr<T>> Run(std::string path, std::function<absl::StatusOr<T>()> read) {
    auto result = std::make_shared<absl::StatusOr<T>>(absl::UnknownError("not read"));
    std::function<void()> work = [result, read = std::move(read)] { *result = read(); };
    CO_RETURN_IF_ERROR(co_await Do(std::move(path), std::move(work)));
    co_return *std::move(result);
  }

 private:
  // Returns once `work` was done.
  virtual Task<absl::Status> Do(std::string path, std::function<void()> work) = 0;
};

// Each on a thread of its own, with a deadline, some at a time. What hangs is left to itself, and
// no more is begun while too much does. Thread: the executor's.
class ThreadedFileReads final : public FileReads {
 public:
  // The limit is for one read, be it a guest image of a gigabyte.
  explicit ThreadedFileReads(Executor executor, milliseconds limit = milliseconds(60'000));
  ~ThreadedFileReads() override;

  static constexpr int kAtOnce = 8;  // others wait
  static constexpr int kMostLate = 32;

 private:
  struct State;

  // DEADLINE_EXCEEDED, naming `path`, if it takes too long; RESOURCE_EXHAUSTED if kMostLate others
  // have, and have not ended yet.
  Task<absl::Status> Do(std::string path, std::function<void()> work) override;

  const milliseconds limit_;
  std::shared_ptr<State> state_;  // shared with who waits
};

}  // namespace ferry::vm
