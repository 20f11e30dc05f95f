#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <csignal>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/qemu_img.h"
#include "tests/integration/qemu_machine_fixture.h"
#include "vmmanager/qemu/disk_nodes.h"
#include "vmmanager/qemu/qemu_disks.h"
#include "vmmanager/qemu/qemu_machine.h"
#include "vmmanager/qemu/qemu_overlays.h"
#include "vmmanager/qemu/unix_socket.h"

namespace ferry::vm {

inline const DiskPlace kFirst{"0", "0"};
inline const DiskPlace kSecond{"0", "1"};

// Two disks, a qcow2 and a raw one.
class QemuOverlayTest : public QemuMachineFixture {
 public:
  using Machine = std::shared_ptr<QemuMachine>;
  using QemuFixture::Config;
  using QemuFixture::executor;
  using QemuFixture::folder_;

  void SetUp() override {
    QemuFixture::SetUp();
    std::signal(SIGPIPE, SIG_IGN);  // as the daemon does
    MakeDisk(PathOf("disk0"), "qcow2");
    MakeDisk(PathOf("disk1"), "raw");
    MakeOverlayDisk(PathOf("over0"), PathOf("disk0"), "qcow2");
    MakeOverlayDisk(PathOf("over1"), PathOf("disk1"), "raw");
  }

  std::string PathOf(const std::string& name) const { return folder_ + "/" + name; }

  std::vector<DiskOverlay> Both() const {
    return {{kFirst, PathOf("over0")}, {kSecond, PathOf("over1")}};
  }

  Task<absl::StatusOr<std::shared_ptr<QemuMachine>>> Launch() {
    schema::ComputeSystem document = Document();
    document.virtual_machine.compute_topology.memory.size_in_mb = 64;
    auto& disks = document.virtual_machine.devices.scsi["0"].attachments;
    disks["0"].path = PathOf("disk0");
    disks["1"].path = PathOf("disk1");
    disks["1"].format = "raw";
    std::set<std::string> behind = {"events", "background-snapshot"};
    co_return co_await LaunchMachine(std::move(document), std::move(behind));
  }

  // Runs the test's coroutine on a machine with those disks, and ends that.
  using Body = Task<void> (*)(QemuOverlayTest* test, Machine machine);
  void OnMachine(Body body) {
    Run([](QemuOverlayTest* test, Body inner) -> Task<void> {
      auto launched = co_await test->Launch();
      CO_EXPECT_OK(launched.status());
      Machine machine = *launched;
      co_await inner(test, machine);
      CO_EXPECT_OK(co_await machine->End(SystemExit::Cause::kTerminated));
    }(this, body));
  }

  // Gives a command to the only QEMU there is, and returns its answer in JSON. The command is one
  // that Ferry itself does not use, so it has a monitor of its own.
  std::string Monitor(const std::string& line) const {
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/state")) {
      auto monitor = ConnectUnixPath(entry.path().string() + "/qmp-spare");
      if (!monitor.ok()) continue;
      ::fcntl(monitor->get(), F_SETFL, ::fcntl(monitor->get(), F_GETFL) & ~O_NONBLOCK);
      Tell(monitor->get(), R"({"execute":"qmp_capabilities"})");
      const boost::json::object command = {{"execute", "human-monitor-command"},
                                           {"arguments", {{"command-line", line}}}};
      return Tell(monitor->get(), boost::json::serialize(command));
    }
    return "there is no monitor";
  }

  // Writes 64 KiB of `pattern` at so many MiB, through the disk's device as a guest does.
  Task<absl::Status> Write(std::string device, int pattern, int at_mib) const {
    const std::string answer =
        Monitor("qemu-io -d " + device + " \"write -P " + std::to_string(pattern) + " " +
                std::to_string(at_mib) + "M 64k\"");
    if (answer.find(R"("return": "")") != std::string::npos) co_return absl::OkStatus();
    co_return absl::InternalError(answer);
  }

  // Sends a command and returns what comes up to its answer.
  static std::string Tell(int monitor, const std::string& command) {
    EXPECT_EQ(::write(monitor, command.data(), command.size()),
              static_cast<ssize_t>(command.size()));
    std::string said;
    char next = 0;
    while (::read(monitor, &next, 1) == 1) {
      said += next;
      if (next != '\n') continue;
      if (said.find("\"return\"") != std::string::npos) break;
      if (said.find("\"error\"") != std::string::npos) break;
    }
    return said;
  }

  // What a file and those below it hold at so many MiB; no QEMU has them open.
  static void ExpectHolds(const std::string& file, const char* format, int pattern, int at_mib) {
    RunTool({"qemu-io", "-r", "-f", format, "-c",
             "read -P " + std::to_string(pattern) + " " + std::to_string(at_mib) + "M 64k", file});
  }

  static Task<absl::Status> Merge(std::shared_ptr<QemuMachine> machine, DiskPlace place,
                                  std::string format) {
    PlaceDiskFile nothing;
    co_return co_await MergeQemuOverlay(machine, std::move(place), std::move(format),
                                        std::move(nothing), nullptr);
  }

  static Task<size_t> CountOf(QemuMachine* machine, std::string command) {
    const auto answer = co_await machine->Command(command);
    co_return answer.ok() && answer->is_array() ? answer->get_array().size() : 99;
  }

  static Task<absl::Status> SaveIntoNothing(std::shared_ptr<QemuMachine> machine) {
    UniqueFd to(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    schema::SaveOptions options;
    co_return co_await SaveToStream(machine, options, std::move(to));
  }
};

}  // namespace ferry::vm
