#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace ferry::migration {

// A process that has what descriptors this one had when it was made, and does nothing.
class OtherProcess {
 public:
  OtherProcess() : pid_(::fork()) {
    if (pid_ < 0) std::abort();
    while (pid_ == 0) ::pause();
  }
  ~OtherProcess() { End(); }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;

  pid_t pid() const { return pid_; }

  // Kills it. It is gone when this returns.
  void End() {
    if (ended_) return;
    ended_ = true;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  const pid_t pid_;
  bool ended_ = false;
};

}  // namespace ferry::migration
