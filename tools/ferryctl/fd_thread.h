#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "bridge/runtime/async.h"

namespace ferry::ctl {

// Reads or writes one descriptor from a thread of its own, so that terminals, pipes and plain files
// (which epoll refuses) all work and none has to be made non-blocking, which the shell that shares
// it would notice. One operation at a time, awaited on the io thread.
class FdThread {
 public:
  struct Result {
    std::string data;  // of a read; empty with error 0: end of file
    int error = 0;     // errno; ECANCELED after Stop()
  };

  FdThread(Executor executor, int fd);
  // Ends the thread; an operation in flight is abandoned.
  ~FdThread();

  Task<Result> Read(size_t max_bytes);
  // Returns when all of `data` is written.
  Task<Result> Write(std::string data);

 private:
  struct State;
  Task<Result> Submit(bool is_write, std::string data, size_t max_bytes);

  std::shared_ptr<State> state_;
};

}  // namespace ferry::ctl
