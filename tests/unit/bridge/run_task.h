#pragma once

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <exception>
#include <optional>
#include <utility>

#include "bridge/runtime/async.h"

namespace ferry {

// Runs `io` until `task` has ended. Other tasks on it stay where they are then.
inline void RunTask(asio::io_context& io, Task<void> task) {
  bool done = false;
  std::exception_ptr failure;
  asio::co_spawn(io, std::move(task), [&](std::exception_ptr thrown) {
    done = true;
    failure = thrown;
  });
  io.restart();
  while (!done) {
    if (io.run_one() == 0) {
      ADD_FAILURE() << "the task waits for something that nobody will do";
      return;
    }
  }
  if (failure) std::rethrow_exception(failure);
}

// Runs what is ready and returns when everything waits.
inline void RunReady(asio::io_context& io) {
  io.restart();
  io.poll();
}

}  // namespace ferry
