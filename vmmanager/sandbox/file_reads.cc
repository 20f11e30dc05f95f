#include "vmmanager/sandbox/file_reads.h"

#include "absl/strings/str_cat.h"
#include "bridge/runtime/blocking_worker.h"

namespace ferry::vm {

Task<absl::Status> FileReads::Wait(std::string path, std::function<void()> work) {
  if (limit_ == limit_.zero()) {
    work();
    co_return absl::OkStatus();
  }
  if (running_.use_count() > kMost) {
    co_return absl::ResourceExhaustedError(
        absl::StrCat("cannot read ", path, ": ", kMost,
                     " reads of files have not ended yet; see whether a file system hangs"));
  }
  BlockingWorker worker(co_await asio::this_coro::executor);
  std::function<absl::Status()> counted = [running = running_, work = std::move(work)] {
    work();
    return absl::OkStatus();
  };
  absl::Status status = co_await worker.Run(limit_, "the file", std::move(counted));
  if (absl::IsDeadlineExceeded(status)) {
    co_return absl::DeadlineExceededError(absl::StrCat("reading ", path, " takes more than ",
                                                       limit_.count(),
                                                       " ms; see whether its file system hangs"));
  }
  co_return status;
}

}  // namespace ferry::vm
