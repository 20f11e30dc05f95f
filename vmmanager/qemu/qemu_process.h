#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/runtime/unique_fd.h"
#include "vmmanager/qemu/process_user.h"

// Starting and supervising QEMU processes that outlive the daemon.
namespace ferry::vm {

// A folder that a program sees at another place, in a mount namespace of its own.
struct FolderView {
  int folder = -1;         // open, of ours
  std::string place;       // a folder that is there
  bool read_only = false;  // with all that is mounted below it
};

struct LaunchSpec {
  std::vector<std::string> argv;    // argv[0] is the absolute path of the program
  std::string stderr_path;          // stdout and stderr are appended here; empty discards them
  std::map<int, int> descriptors;   // number in the program to a descriptor of ours
  std::optional<ProcessUser> user;  // drop to this user before exec
  std::string cgroup;               // of version 2, entered before exec; empty: ours
  std::optional<int> niceness;      // absent: ours
  std::optional<FolderView> view;   // takes CAP_SYS_ADMIN
};

// How a process ended, as far as that can be known.
struct ProcessEnd {
  bool known = false;  // false: it was not our child, so its status went to somebody else
  int exit_code = -1;  // valid if it exited by itself
  int signal = 0;      // not 0 if a signal ended it
  std::string ToString() const;
};

// One process, held by a pidfd so that its number can never be mistaken for another's.
class QemuProcess {
 public:
  // Starts a process in a session of its own, tied to nothing of ours.
  static absl::StatusOr<std::unique_ptr<QemuProcess>> Launch(Executor executor,
                                                             const LaunchSpec& spec);

  // Takes hold of a running process; NOT_FOUND unless `pid` still is the one that started at
  // `start_time`.
  static absl::StatusOr<std::unique_ptr<QemuProcess>> Adopt(Executor executor, pid_t pid,
                                                            uint64_t start_time);

  // Destroying it leaves the process running.
  ~QemuProcess();

  pid_t pid() const;
  uint64_t start_time() const;  // clock ticks since boot, from /proc

  // Returns when the process has ended. One waiter.
  Task<ProcessEnd> WaitEnd();

  // A copy of a descriptor of its own, sharing the open file description. The kernel may refuse it
  // (to who may not trace the process), or there is none.
  absl::StatusOr<UniqueFd> TakeDescriptor(int number) const;

  // SIGKILL; harmless when it has ended.
  void Kill();

  // Lets go of the process, which runs on; a pending WaitEnd() returns an unknown end.
  void Release();

 private:
  struct State;
  explicit QemuProcess(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

// Field 22 of /proc/PID/stat; NOT_FOUND if there is no such process or it is only a zombie.
absl::StatusOr<uint64_t> ProcessStartTime(pid_t pid);

// The kernel's identity of this boot.
std::string BootId();

// The last bytes of a text file, cut at a line, trimmed; empty if it cannot be read.
std::string FileTail(const std::string& path, size_t max_bytes);

}  // namespace ferry::vm
