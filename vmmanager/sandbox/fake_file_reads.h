#pragma once

#include "vmmanager/sandbox/file_reads.h"

namespace ferry::vm {

// Reads on the caller's thread: for tests whose files are their own.
class FakeFileReads final : public FileReads {
 public:
  AsyncEvent* held_until = nullptr;  // nullptr: nothing hangs
  absl::Status outcome;              // in place of reading, if it is an error

 private:
  Task<absl::Status> Do(std::string /*path*/, std::function<void()> work) override {
    if (held_until != nullptr) co_await held_until->Wait();
    CO_RETURN_IF_ERROR(outcome);
    work();
    co_return absl::OkStatus();
  }
};

}  // namespace ferry::vm
