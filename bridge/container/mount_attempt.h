#pragma once

#include <functional>
#include <mutex>

#include "absl/status/status.h"

namespace ferry::bridge {

// One mount on its way, which a thread makes and others may stop waiting for. If nobody wants it
// any more when it comes, the thread undoes it. Thread-safe.
class MountAttempt {
 public:
  using Step = std::function<absl::Status()>;

  // Mounts, and undoes it if that succeeded although it was given up. On the thread.
  absl::Status Run(const Step& mount, const Step& undo);

  // True if it is still on its way; then it comes to nothing. False if it was made, or has failed.
  bool GiveUp();

  // Whether the thread has nothing left to do.
  bool over() const;

 private:
  mutable std::mutex mutex_;
  bool made_ = false;  // or has failed
  bool unwanted_ = false;
  bool over_ = false;
};

}  // namespace ferry::bridge
