#include "tools/ferry-layers/confinement.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <memory>

#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/unique_fd.h"
#include "bridge/runtime/write_all.h"
#include "vmmanager/layers/builder_protocol.h"

namespace ferry::tools {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr rlim_t kMemory = rlim_t{1} << 30;
constexpr rlim_t kSeconds = 3600;
// Of an image, beside its files' data: inodes and names, at most so much for each file.
constexpr rlim_t kBytesPerEntry = 8192;

using FilterPtr = std::unique_ptr<void, decltype(&seccomp_release)>;

absl::Status Limit(__rlimit_resource what, rlim_t most) {
  const rlimit limit{most, most};
  if (::setrlimit(what, &limit) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "cannot limit itself");
}

absl::Status LimitResources(const layers::Limits& limits) {
  // A file that becomes too large is an error, and not a signal.
  std::signal(SIGXFSZ, SIG_IGN);
  RETURN_IF_ERROR(Limit(RLIMIT_FSIZE, limits.bytes + limits.entries * kBytesPerEntry));
  RETURN_IF_ERROR(Limit(RLIMIT_CPU, kSeconds));
  RETURN_IF_ERROR(Limit(RLIMIT_CORE, 0));
  RETURN_IF_ERROR(Limit(RLIMIT_NPROC, 0));
  return kSanitized ? absl::OkStatus() : Limit(RLIMIT_AS, kMemory);
}

// While /proc still shows this process to its user. Where it cannot be written, so be it.
void DieFirst() {
  const UniqueFd file(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (file.valid()) static_cast<void>(WriteAll(file.get(), "1000"));
}

// Leaves the output folder of all files. Kernels without Landlock leave it what the filter of
// system calls does.
absl::Status LeaveFiles() {
  landlock_ruleset_attr rules{};
  rules.handled_access_fs =
      LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
      LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
      LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
      LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
      LANDLOCK_ACCESS_FS_MAKE_SYM;
  const UniqueFd set(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0)));
  if (!set.valid() && MeansNoLandlock(errno)) return absl::OkStatus();
  if (!set.valid()) return absl::ErrnoToStatus(errno, "cannot leave other files alone");
  landlock_path_beneath_attr output{};
  output.parent_fd = layers::kBuilderOutput;
  output.allowed_access = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
                          LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG;
  if (::syscall(SYS_landlock_add_rule, set.get(), LANDLOCK_RULE_PATH_BENEATH, &output, 0) == 0 &&
      ::syscall(SYS_landlock_restrict_self, set.get(), 0) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, "cannot leave other files alone");
}

// Any other system call fails from here on.
absl::Status LeaveSystemCalls() {
  const FilterPtr filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)), &seccomp_release);
  bool added = filter != nullptr;
  for (const int call : {SCMP_SYS(read),         SCMP_SYS(pread64),
                         SCMP_SYS(write),        SCMP_SYS(pwrite64),
                         SCMP_SYS(writev),       SCMP_SYS(lseek),
                         SCMP_SYS(close),        SCMP_SYS(fstat),
                         SCMP_SYS(newfstatat),   SCMP_SYS(fstatfs),
                         SCMP_SYS(ftruncate),    SCMP_SYS(brk),
                         SCMP_SYS(munmap),       SCMP_SYS(mremap),
                         SCMP_SYS(madvise),      SCMP_SYS(futex),
                         SCMP_SYS(getrandom),    SCMP_SYS(clock_gettime),
                         SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
                         SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
                         SCMP_SYS(exit),         SCMP_SYS(exit_group)}) {
    added = added && seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0) == 0;
  }
  for (const int call : {SCMP_SYS(openat), SCMP_SYS(unlinkat)}) {
    added = added && seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 1,
                                      SCMP_A0_32(SCMP_CMP_EQ, layers::kBuilderOutput)) == 0;
  }
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)}) {
    added = added && seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 1,
                                      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) == 0;
  }
  if (added && seccomp_load(filter.get()) == 0) return absl::OkStatus();
  return absl::InternalError("cannot leave system calls alone");
}

}  // namespace

bool MeansNoLandlock(int error) {
  // Not built in; not switched on; kept away by a container's filter.
  return error == ENOSYS || error == EOPNOTSUPP || error == EPERM;
}

absl::Status Confine(const layers::Limits& limits) {
  DieFirst();
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) {
    return absl::ErrnoToStatus(errno, "cannot give up its rights");
  }
  RETURN_IF_ERROR(LimitResources(limits));
  RETURN_IF_ERROR(LeaveFiles());
  return kSanitized ? absl::OkStatus() : LeaveSystemCalls();
}

}  // namespace ferry::tools
