#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/container/crun_runtime.h"
#include "bridge/container/linux_filesystems.h"
#include "bridge/container/linux_volumes.h"
#include "bridge/guest/guest_network.h"
#include "bridge/guest/guest_server.h"
#include "bridge/guest/log_stream.h"
#include "bridge/guest/orphan_reaper.h"
#include "bridge/guest/wall_clock.h"
#include "bridge/mux/serial_guest_transport.h"
#include "bridge/process/helper.h"
#include "bridge/process/open_files.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/vsock.h"
#include "tools/ferry-guest/crash_report.h"
#include "tools/ferry-guest/init.h"

// The guest agent. As process 1 it is the guest's init as well; otherwise it serves the host at the
// other end of a Unix socket, for tests without a VM.
namespace ferry {
namespace {

constexpr char kPortName[] = "ferry.bridge";
constexpr char kUsage[] =
    "usage: ferry-guest --socket PATH\n"
    "Serves the host at the other end of the Unix socket PATH, which carries the same multiplexer\n"
    "as a virtio-serial port. Without arguments, as process 1 of a guest, it is the guest's "
    "init.\n";

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path '", path, "' is too long"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot connect to ", path));
  }
  return fd;
}

Task<void> RunServer(std::shared_ptr<bridge::GuestServer> server, bridge::LinuxVolumes* volumes,
                     asio::io_context* io) {
  Say("ready");
  co_await server->Run();
  co_await volumes->UnmountAll();
  io->stop();
}

// Ends when the host asks for it, or on SIGTERM and SIGINT.
void Serve(asio::io_context& io, bridge::GuestTransport& transport, bool init) {
  bridge::HelperPids helpers;
  const bridge::CrunRuntime::Options crun;
  bridge::CrunRuntime runtime(io.get_executor(), crun, helpers);
  bridge::LinuxFilesystems filesystems((bridge::LinuxFilesystems::Options()));
  bridge::LinuxVolumes::Options mounts;
  mounts.held = [&filesystems] { return filesystems.holds(); };
  bridge::LinuxVolumes volumes(std::move(mounts), helpers);
  std::weak_ptr<bridge::GuestServer> weak;
  const bridge::IsOwned owned = [&helpers, &weak](uint32_t pid) {
    const auto live = weak.lock();
    return helpers.Contains(static_cast<pid_t>(pid)) || (live != nullptr && live->Owns(pid));
  };
  bridge::GuestServer::Options options;
  options.log = Say;
  bridge::KernelWallClock clock;
  // Otherwise they are those of whoever runs the agent without a VM.
  if (init) options.clock = &clock;
  if (init) options.filesystems = &filesystems;
  bridge::LinuxGuestNetwork::Options cards;
  cards.log = Say;
  bridge::LinuxGuestNetwork network(io.get_executor(), std::move(cards));
  if (init) options.network = &network;
  // Containers' processes come to process 1 when crun has left them behind.
  if (init && access(crun.program.c_str(), X_OK) == 0) {
    bridge::ContainerParts& parts = options.containers.emplace();
    parts.runtime = &runtime;
    parts.volumes = &volumes;
    parts.collect_orphans = [&owned] { bridge::CollectOrphans(owned); };
  }
  auto server =
      std::make_shared<bridge::GuestServer>(io.get_executor(), transport, std::move(options));
  weak = server;
  asio::signal_set stop(io);
  if (init) {
    Spawn(io.get_executor(), bridge::StreamLog(transport, {.open = OpenKernelLog}));
    Spawn(io.get_executor(), bridge::ReapOrphans(owned));
  } else {
    stop.add(SIGTERM);
    stop.add(SIGINT);
    stop.async_wait([&io](const boost::system::error_code& error, int) {
      if (!error) io.stop();
    });
  }
  Spawn(io.get_executor(), RunServer(std::move(server), &volumes, &io));
  io.run();
}

// Before what it serves: a busy process must not keep the agent from passing on its output. What
// the agent starts has the ordinary priority again.
void PreferAgent() {
  constexpr int kUrgent = -20;
  const struct sched_param plain = {};
  if (sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &plain) != 0 ||
      setpriority(PRIO_PROCESS, 0, kUrgent) != 0) {
    Say("the agent keeps the ordinary priority");
  }
}

absl::Status RunAsInit() {
  PreferAgent();
  bridge::AllowManyOpenFiles();
  if (absl::Status status = PrepareRoot(); !status.ok()) return status;
  LoadModules();
  asio::io_context io(1);
  if (KernelArgument("ferry.link=vsock")) {
    bridge::VsockGuestTransport transport(io.get_executor());
    Serve(io, transport, true);
    PowerOff();
  }
  absl::StatusOr<UniqueFd> port = OpenVirtioPort(kPortName);
  if (!port.ok()) return port.status();
  bridge::SerialGuestTransport transport(io.get_executor(), *std::move(port));
  Serve(io, transport, true);
  PowerOff();
}

absl::Status RunOnSocket(const std::string& path) {
  absl::StatusOr<UniqueFd> socket = ConnectTo(path);
  if (!socket.ok()) return socket.status();
  asio::io_context io(1);
  bridge::SerialGuestTransport transport(io.get_executor(), *std::move(socket));
  Serve(io, transport, false);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  ReportCrashes();
  // A process may close its stdin at any time.
  signal(SIGPIPE, SIG_IGN);
  const bool init = getpid() == 1;
  if (!init && (argc != 3 || std::string(argv[1]) != "--socket")) {
    fputs(kUsage, stderr);
    return 2;
  }
  const absl::Status status = init ? RunAsInit() : RunOnSocket(argv[2]);
  if (status.ok()) return 0;
  Say(std::string(status.message()));
  return 1;
}

}  // namespace
}  // namespace ferry

int main(int argc, char** argv) { return ferry::Main(argc, argv); }
