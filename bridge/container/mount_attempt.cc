#include "bridge/container/mount_attempt.h"

namespace ferry::bridge {

absl::Status MountAttempt::Run(const Step& mount, const Step& undo) {
  const absl::Status status = mount();
  bool unwanted = false;
  {
    const std::lock_guard lock(mutex_);
    made_ = true;
    unwanted = unwanted_;
    over_ = !unwanted;
  }
  if (!unwanted) return status;
  if (status.ok()) {
    const absl::Status ignored = undo();
  }
  const std::lock_guard lock(mutex_);
  over_ = true;
  return status;
}

bool MountAttempt::GiveUp() {
  const std::lock_guard lock(mutex_);
  if (!made_) unwanted_ = true;
  return !made_;
}

bool MountAttempt::over() const {
  const std::lock_guard lock(mutex_);
  return over_;
}

}  // namespace ferry::bridge
