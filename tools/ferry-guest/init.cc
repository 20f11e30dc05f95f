#include "tools/ferry-guest/init.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry {
namespace {

namespace fs = std::filesystem;

constexpr char kNewRoot[] = "/.ferry-root";
constexpr char kKernelLog[] = "/dev/kmsg";

absl::Status Mount(const char* source, const char* target, const char* type, unsigned long flags,
                   const char* data) {
  mkdir(target, 0755);
  if (mount(source, target, type, flags, data) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot mount ", type, " on ", target));
}

// Copies one entry and drops the original, so that the memory is needed once.
std::error_code MoveEntry(const fs::directory_entry& entry, const fs::path& target) {
  std::error_code error;
  if (entry.is_symlink(error)) {
    fs::copy_symlink(entry.path(), target, error);
  } else if (entry.is_directory(error)) {
    fs::create_directory(target, entry.path(), error);
  } else if (entry.is_regular_file(error)) {
    fs::copy_file(entry.path(), target, error);
    if (!error) unlink(entry.path().c_str());
  }
  // Devices are not copied: devtmpfs brings them.
  return error;
}

absl::Status MoveFiles() {
  std::error_code error;
  fs::recursive_directory_iterator it("/", error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (it->path() == kNewRoot) {
      it.disable_recursion_pending();
      continue;
    }
    if (std::error_code failed =
            MoveEntry(*it, fs::path(absl::StrCat(kNewRoot, it->path().string())))) {
      return absl::InternalError(
          absl::StrCat("cannot move ", it->path().string(), ": ", failed.message()));
    }
  }
  if (error) return absl::InternalError(absl::StrCat("cannot read /: ", error.message()));
  return absl::OkStatus();
}

absl::Status SwitchRoot() {
  RETURN_IF_ERROR(Mount("tmpfs", kNewRoot, "tmpfs", 0, "mode=0755"));
  RETURN_IF_ERROR(MoveFiles());
  if (chdir(kNewRoot) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 ||
      chdir("/") != 0) {
    return absl::ErrnoToStatus(errno, "cannot move the root onto a tmpfs");
  }
  return absl::OkStatus();
}

// The kernel gives init no open files when the initramfs has no /dev/console.
void OpenConsole() {
  const int console = open("/dev/console", O_RDWR | O_NOCTTY);
  if (console < 0) return;
  for (int i = 0; i < 3; ++i) dup2(console, i);
  if (console > 2) close(console);
}

void BringUpLoopback() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  struct ifreq request = {};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    Say(absl::StrCat("cannot bring up the loopback device: ",
                     absl::ErrnoToStatus(errno, "").ToString()));
  }
}

void SetHostName() {
  std::ifstream file("/etc/hostname");
  std::string name;
  if (!(file >> name)) name = "ferry";
  if (sethostname(name.data(), name.size()) != 0) Say("cannot set the host name");
}

}  // namespace

void Say(const std::string& text) {
  fprintf(stderr, "ferry-guest: %s\n", text.c_str());
  if (getpid() != 1) return;
  // As a notice of a program (facility 1), which our console does not show a second time. Without a
  // newline the kernel would wait for the rest of it; what is too long it refuses.
  constexpr size_t kMaxText = 900;
  const std::string record = absl::StrCat("<13>ferry-guest: ", text.substr(0, kMaxText), "\n");
  const UniqueFd log(open(kKernelLog, O_WRONLY | O_NOCTTY | O_CLOEXEC));
  // There is none before the root is prepared.
  if (!log.valid()) return;
  if (write(log.get(), record.data(), record.size()) < 0) {
    fprintf(stderr, "ferry-guest: cannot write to %s: %s\n", kKernelLog, strerror(errno));
  }
}

absl::StatusOr<UniqueFd> OpenKernelLog() {
  UniqueFd log(open(kKernelLog, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!log.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", kKernelLog));
  return log;
}

absl::Status PrepareRoot() {
  RETURN_IF_ERROR(SwitchRoot());
  RETURN_IF_ERROR(Mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"));
  OpenConsole();
  RETURN_IF_ERROR(Mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""));
  RETURN_IF_ERROR(Mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""));
  RETURN_IF_ERROR(
      Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""));
  RETURN_IF_ERROR(Mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                        "mode=0620,gid=5,ptmxmode=0666"));
  RETURN_IF_ERROR(Mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"));
  RETURN_IF_ERROR(Mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"));
  SetHostName();
  BringUpLoopback();
  return absl::OkStatus();
}

bool KernelArgument(const std::string& word) {
  std::ifstream file("/proc/cmdline");
  for (std::string argument; file >> argument;) {
    if (argument == word) return true;
  }
  return false;
}

void PowerOff() {
  sync();
  reboot(RB_POWER_OFF);
  // Without a power-off the end of process 1 stops the kernel.
  _exit(0);
}

}  // namespace ferry
