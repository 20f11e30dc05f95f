#include "vmmanager/qemu/qemu_process.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
extern "C" {
#include <sys/pidfd.h>
}

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

// Descriptors that are handed on are first moved above every number that they may be given.
constexpr int kFirstSpareDescriptor = 100;

// All that the child needs, made before fork: between fork and exec nothing may allocate.
struct ChildPlan {
  std::vector<char*> argv;
  UniqueFd null_fd;
  UniqueFd log_fd;
  UniqueFd cgroup_procs;
  std::vector<std::pair<int, UniqueFd>> descriptors;
  std::optional<ProcessUser> user;
  std::optional<int> niceness;
  std::optional<FolderView> view;
};

// What the child was about to do when it failed, and why.
struct ChildFailure {
  enum class Step { kCgroup, kView, kDescriptors, kUser, kExec } step;
  int error;
};

bool EnterCgroup(int procs_fd) { return procs_fd < 0 || ::write(procs_fd, "0", 1) == 1; }

// From root to another user the kernel takes all capabilities away.
bool DropUser(const std::optional<ProcessUser>& user) {
  return !user ||
         (::setgroups(user->groups.size(), user->groups.data()) == 0 && ::setgid(user->gid) == 0 &&
          ::setuid(user->uid) == 0 && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

// What happens to the host's mounts later happens here too, but for the folder: that is shown with
// what is mounted in it now. Nothing of this gets out.
bool ShowFolder(const std::optional<FolderView>& view) {
  if (!view) return true;
  // Taken before there is a namespace of its own, which the open folder would not belong to.
  const int tree = ::open_tree(view->folder, "",
                               OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
  if (tree < 0) return false;
  struct mount_attr attributes {};
  attributes.attr_set = view->read_only ? MOUNT_ATTR_RDONLY : 0;
  attributes.propagation = MS_PRIVATE;
  return ::mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof(attributes)) ==
             0 &&
         ::unshare(CLONE_NEWNS) == 0 &&
         ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0 &&
         ::move_mount(tree, "", AT_FDCWD, view->place.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0;
}

bool PlaceDescriptors(const ChildPlan& plan) {
  bool placed = ::dup2(plan.null_fd.get(), STDIN_FILENO) >= 0 &&
                ::dup2(plan.log_fd.get(), STDOUT_FILENO) >= 0 &&
                ::dup2(plan.log_fd.get(), STDERR_FILENO) >= 0 &&
                ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) == 0;
  for (const auto& [number, fd] : plan.descriptors) {
    placed = placed && ::dup2(fd.get(), number) >= 0;
  }
  return placed;
}

// Runs in the child and never returns; a failure is reported through `report`.
[[noreturn]] void RunChild(const ChildPlan& plan, int report) {
  ::setsid();
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  // Everybody may be nicer than before.
  if (plan.niceness) ::setpriority(PRIO_PROCESS, 0, *plan.niceness);
  using Step = ChildFailure::Step;
  ChildFailure failure{Step::kExec, 0};
  if (!EnterCgroup(plan.cgroup_procs.get())) {
    failure.step = Step::kCgroup;
  } else if (!ShowFolder(plan.view)) {
    failure.step = Step::kView;
  } else if (!PlaceDescriptors(plan)) {
    failure.step = Step::kDescriptors;
  } else if (!DropUser(plan.user)) {
    failure.step = Step::kUser;
  } else {
    ::execv(plan.argv[0], plan.argv.data());
  }
  failure.error = errno;
  const ssize_t ignored = ::write(report, &failure, sizeof(failure));
  static_cast<void>(ignored);
  ::_exit(127);
}

absl::StatusOr<ChildPlan> MakePlan(const LaunchSpec& spec) {
  ChildPlan plan;
  for (const std::string& word : spec.argv) plan.argv.push_back(const_cast<char*>(word.c_str()));
  plan.argv.push_back(nullptr);
  plan.null_fd.Reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const char* log = spec.stderr_path.empty() ? "/dev/null" : spec.stderr_path.c_str();
  plan.log_fd.Reset(::open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!plan.null_fd.valid() || !plan.log_fd.valid()) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", log));
  }
  for (const auto& [number, fd] : spec.descriptors) {
    UniqueFd moved(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstSpareDescriptor));
    if (!moved.valid()) return absl::ErrnoToStatus(errno, "cannot duplicate a descriptor");
    plan.descriptors.emplace_back(number, std::move(moved));
  }
  if (!spec.cgroup.empty()) {
    plan.cgroup_procs.Reset(
        ::open(absl::StrCat(spec.cgroup, "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (!plan.cgroup_procs.valid()) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot use the control group ", spec.cgroup));
    }
  }
  plan.user = spec.user;
  plan.niceness = spec.niceness;
  plan.view = spec.view;
  return plan;
}

// Blocks until the child has executed the program (the pipe closes) or says why it could not.
absl::Status AwaitExec(int pipe_end, const LaunchSpec& spec) {
  ChildFailure failure{};
  ssize_t count = 0;
  do {
    count = ::read(pipe_end, &failure, sizeof(failure));
  } while (count < 0 && errno == EINTR);
  if (count <= 0) return absl::OkStatus();
  std::string what = absl::StrCat("cannot run ", spec.argv[0]);
  using Step = ChildFailure::Step;
  if (failure.step == Step::kCgroup) {
    absl::StrAppend(&what, " in the control group ", spec.cgroup);
  } else if (failure.step == Step::kView) {
    absl::StrAppend(&what, " with a folder at ", spec.view ? spec.view->place : "",
                    " (that takes a ferryd that is root)");
  } else if (failure.step == Step::kUser) {
    absl::StrAppend(&what, " as the user ", spec.user ? spec.user->name : "");
  }
  return absl::ErrnoToStatus(failure.error, what);
}

}  // namespace

std::string ProcessEnd::ToString() const {
  if (!known) return "ended";
  if (signal != 0) return absl::StrCat("ended by signal ", signal, " (", ::strsignal(signal), ")");
  return absl::StrCat("exited with status ", exit_code);
}

struct QemuProcess::State {
  State(Executor executor, pid_t p, uint64_t start, bool child, UniqueFd fd)
      : pid(p), start_time(start), is_child(child), pidfd(executor, fd.Release()) {}

  // The status of an ended child; also keeps it from staying a zombie.
  ProcessEnd Reap() {
    ProcessEnd end;
    siginfo_t info{};
    if (!is_child || ::waitid(P_PIDFD, static_cast<id_t>(pidfd.native_handle()), &info,
                              WEXITED | WNOHANG) != 0) {
      return end;
    }
    end.known = info.si_pid != 0;
    if (info.si_code == CLD_EXITED) end.exit_code = info.si_status;
    if (info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED) end.signal = info.si_status;
    return end;
  }

  const pid_t pid;
  const uint64_t start_time;
  const bool is_child;
  asio::posix::stream_descriptor pidfd;
};

absl::StatusOr<std::unique_ptr<QemuProcess>> QemuProcess::Launch(Executor executor,
                                                                 const LaunchSpec& spec) {
  ASSIGN_OR_RETURN(const ChildPlan plan, MakePlan(spec));
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  UniqueFd report_in(ends[0]);
  UniqueFd report_out(::fcntl(ends[1], F_DUPFD_CLOEXEC, kFirstSpareDescriptor));
  ::close(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "cannot start a process");
  if (pid == 0) RunChild(plan, report_out.get());
  report_out.Reset();
  absl::Status started = AwaitExec(report_in.get(), spec);
  UniqueFd pidfd(::pidfd_open(pid, 0));
  absl::StatusOr<uint64_t> start_time = ProcessStartTime(pid);
  if (!started.ok()) {
    ::waitpid(pid, nullptr, 0);
    return started;
  }
  if (!pidfd.valid()) return absl::ErrnoToStatus(errno, "cannot hold a started process");
  auto state =
      std::make_shared<State>(executor, pid, start_time.value_or(0), true, std::move(pidfd));
  return std::unique_ptr<QemuProcess>(new QemuProcess(std::move(state)));
}

absl::StatusOr<std::unique_ptr<QemuProcess>> QemuProcess::Adopt(Executor executor, pid_t pid,
                                                                uint64_t start_time) {
  UniqueFd pidfd(::pidfd_open(pid, 0));
  if (!pidfd.valid()) return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  // Checked after the pidfd is held: from here on the number cannot go to another process.
  ASSIGN_OR_RETURN(const uint64_t found, ProcessStartTime(pid));
  if (found != start_time) {
    return absl::NotFoundError(absl::StrCat("process ", pid, " is another one by now"));
  }
  siginfo_t info{};
  const bool child =
      ::waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  auto state = std::make_shared<State>(executor, pid, found, child, std::move(pidfd));
  return std::unique_ptr<QemuProcess>(new QemuProcess(std::move(state)));
}

QemuProcess::~QemuProcess() { Release(); }

void QemuProcess::Release() {
  boost::system::error_code ignored;
  state_->pidfd.close(ignored);
}

pid_t QemuProcess::pid() const { return state_->pid; }
uint64_t QemuProcess::start_time() const { return state_->start_time; }

Task<ProcessEnd> QemuProcess::WaitEnd() {
  std::shared_ptr<State> state = state_;
  boost::system::error_code error;
  co_await state->pidfd.async_wait(asio::posix::stream_descriptor::wait_read,
                                   asio::redirect_error(asio::use_awaitable, error));
  if (error || !state->pidfd.is_open()) co_return ProcessEnd{};
  co_return state->Reap();
}

absl::StatusOr<UniqueFd> QemuProcess::TakeDescriptor(int number) const {
  if (!state_->pidfd.is_open()) return absl::FailedPreconditionError("the process was let go of");
  UniqueFd taken(::pidfd_getfd(state_->pidfd.native_handle(), number, 0));
  if (taken.valid()) return taken;
  return absl::ErrnoToStatus(
      errno, absl::StrCat("cannot take descriptor ", number, " of process ", state_->pid));
}

void QemuProcess::Kill() {
  if (!state_->pidfd.is_open()) return;
  ::pidfd_send_signal(state_->pidfd.native_handle(), SIGKILL, nullptr, 0);
}

absl::StatusOr<uint64_t> ProcessStartTime(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::stringstream text;
  text << file.rdbuf();
  const std::string stat = text.str();
  // The name in parentheses may hold anything, so fields are counted behind its end.
  const size_t name_end = stat.rfind(") ");
  if (!file.is_open() || name_end == std::string::npos) {
    return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  }
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
  constexpr size_t kStartTime = 19;  // field 22, counted from field 3
  uint64_t start_time = 0;
  if (fields.size() <= kStartTime || fields[0] == "Z" || fields[0] == "X" ||
      !absl::SimpleAtoi(fields[kStartTime], &start_time)) {
    return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  }
  return start_time;
}

std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

std::string FileTail(const std::string& path, size_t max_bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return {};
  const auto size = static_cast<size_t>(file.tellg());
  const size_t start = size > max_bytes ? size - max_bytes : 0;
  file.seekg(static_cast<std::streamoff>(start));
  std::string tail(size - start, '\0');
  file.read(tail.data(), static_cast<std::streamsize>(tail.size()));
  tail.resize(static_cast<size_t>(file.gcount()));
  const size_t line = tail.find('\n');
  if (start > 0 && line != std::string::npos) tail.erase(0, line + 1);
  return std::string(absl::StripAsciiWhitespace(tail));
}

}  // namespace ferry::vm
