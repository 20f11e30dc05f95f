#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"

namespace ferry {

// Does what may block for ever, one after the other, on a thread of its own. What is asked for is
// done even if nobody waits for it any more. A thread that is stuck when nobody needs it any more
// is left to itself, with what it works on.
class BlockingWorker {
 public:
  // RESOURCE_EXHAUSTED if there can be no more threads.
  static absl::StatusOr<std::unique_ptr<BlockingWorker>> Start(Executor executor);

  // For those who cannot go on without the thread: throws if there is none.
  explicit BlockingWorker(Executor executor);
  ~BlockingWorker();
  BlockingWorker(const BlockingWorker&) = delete;
  BlockingWorker& operator=(const BlockingWorker&) = delete;

  // Returns what `work` does, after all that was posted before. DEADLINE_EXCEEDED, naming `what`,
  // if that takes longer than `limit`. Thread: the executor's; the worker may end meanwhile.
  Task<absl::Status> Run(milliseconds limit, const char* what, std::function<absl::Status()> work);

  // The same, and nobody waits. What it holds is let go of on the worker's thread.
  void Post(std::function<void()> work);

  // Nothing more is taken; what was posted is done, if that takes no longer than `patience`.
  void Close(milliseconds patience);

 private:
  struct State;
  struct Outcome;
  static void Serve(const std::shared_ptr<State>& state);

  const Executor executor_;
  std::shared_ptr<State> state_;  // shared with the thread
  std::thread thread_;
};

}  // namespace ferry
