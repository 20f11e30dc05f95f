#include "vmmanager/jobs/job.h"

#include <utility>

namespace ferry::vm {

Job::Job(std::string id, std::weak_ptr<Keeper> keeper)
    : id_(std::move(id)), keeper_(std::move(keeper)) {}

Job::~Job() { Finish(absl::CancelledError("it was broken off: whoever asked for it is gone")); }

void Job::SetProgress(const v1::JobProgress& progress) {
  if (auto keeper = keeper_.lock()) keeper->OnProgress(id_, progress);
}

void Job::SetPhase(const std::string& phase) {
  v1::JobProgress progress;
  progress.set_phase(phase);
  SetProgress(progress);
}

void Job::AllowCancel(CancelFunction cancel) {
  if (finished_) return;
  cancel_ = std::move(cancel);
  if (auto keeper = keeper_.lock()) keeper->OnCancellable(id_, "");
}

void Job::ForbidCancel(const std::string& why) {
  cancel_ = nullptr;
  if (auto keeper = keeper_.lock()) keeper->OnCancellable(id_, why);
}

void Job::Finish(const absl::Status& status) {
  if (std::exchange(finished_, true)) return;
  // It may hold what holds us.
  cancel_ = nullptr;
  if (auto keeper = keeper_.lock()) keeper->OnEnded(id_, status, result_);
}

absl::Status Job::Cancel() {
  if (!cancel_) return absl::FailedPreconditionError("it cannot be cancelled any more");
  // It may forbid itself.
  const CancelFunction cancel = cancel_;
  return cancel();
}

}  // namespace ferry::vm
