#pragma once

#include "vmmanager/sandbox/file_reads.h"

namespace ferry::vm {

// Reads at once, on the caller's thread: for tests whose files are their own.
class FakeFileReads final : public FileReads {
 private:
  Task<absl::Status> Do(std::string /*path*/, std::function<void()> work) override {
    work();
    co_return absl::OkStatus();
  }
};

}  // namespace ferry::vm
