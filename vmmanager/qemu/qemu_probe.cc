#include "vmmanager/qemu/qemu_probe.h"

#include <sys/socket.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr milliseconds kProbeGreetingDeadline{20'000};
constexpr int kMonitorFd = 10;

}  // namespace

Task<absl::StatusOr<std::unique_ptr<QemuProbe>>> QemuProbe::Launch(std::string binary,
                                                                   std::string accelerator) {
  const Executor executor = co_await asio::this_coro::executor;
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    co_return absl::ErrnoToStatus(errno, "cannot make a socket pair");
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  LaunchSpec spec;
  spec.argv = {binary,
               "-machine",
               "none",
               "-nodefaults",
               "-no-user-config",
               "-display",
               "none",
               "-S",
               "-chardev",
               absl::StrCat("socket,id=qmp0,fd=", kMonitorFd),
               "-mon",
               "chardev=qmp0,mode=control"};
  if (!accelerator.empty()) spec.argv.insert(spec.argv.end(), {"-accel", accelerator});
  spec.descriptors[kMonitorFd] = theirs.get();
  CO_ASSIGN_OR_RETURN(std::unique_ptr<QemuProcess> process, QemuProcess::Launch(executor, spec));
  theirs.Reset();
  auto qmp = std::make_unique<QmpClient>(executor, std::move(ours));
  std::unique_ptr<QemuProbe> probe(new QemuProbe(std::move(process), std::move(qmp)));
  CO_RETURN_IF_ERROR(co_await probe->qmp().WaitReady(kProbeGreetingDeadline));
  co_return probe;
}

Task<void> QemuProbe::End() {
  process_->Kill();
  (void)co_await process_->WaitEnd();
}

}  // namespace ferry::vm
