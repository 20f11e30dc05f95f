#pragma once

#include <memory>

#include "absl/status/status.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"

namespace ferry::vm {

// Carries a pipe's bytes on into a stream, on the executor. When the stream takes no more the rest
// is thrown away: whoever writes into the pipe never learns of it. SIGPIPE must be ignored.
class StreamRelay {
 public:
  // `from`: a pipe's read end. `to`: a pipe or a connected socket; is closed at the end.
  StreamRelay(Executor executor, UniqueFd from, UniqueFd to);

  // Starts; it ends by itself when the pipe's last writer is gone, and then closes the stream.
  void Start();
  bool has_carried() const;
  // Returns at that end: an error if the stream did not take all.
  Task<absl::Status> AwaitEnd();

 private:
  struct State;
  static Task<void> Run(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace ferry::vm
