#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {

// Reads of files whose paths come from users and peers: each on a thread of its own, for a file
// system may hang, and with a deadline. What hangs is left to itself, and only so many may.
class FileReads {
 public:
  explicit FileReads(milliseconds limit = milliseconds(10'000)) : limit_(limit) {}
  // Reads at once on the caller's thread, without a deadline: for tests with files of their own.
  static FileReads AtOnce() { return FileReads(milliseconds(0)); }

  // What `read` returns, which runs on another thread and holds all that it needs.
  // DEADLINE_EXCEEDED, naming `path`, if it takes too long; RESOURCE_EXHAUSTED if kMost others do.
  template <typename T>
  Task<absl::StatusOr<T>> Run(std::string path, std::function<absl::StatusOr<T>()> read) {
    auto result = std::make_shared<absl::StatusOr<T>>(absl::UnknownError("not read"));
    std::function<void()> work = [result, read = std::move(read)] { *result = read(); };
    CO_RETURN_IF_ERROR(co_await Wait(std::move(path), std::move(work)));
    co_return *std::move(result);
  }

  static constexpr int kMost = 8;

 private:
  Task<absl::Status> Wait(std::string path, std::function<void()> work);

  const milliseconds limit_;
  const std::shared_ptr<int> running_ = std::make_shared<int>(0);  // its owners, but for this one
};

}  // namespace ferry::vm
