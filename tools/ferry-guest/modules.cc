#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "bridge/process/device_events.h"
#include "bridge/process/kernel_modules.h"
#include "tools/ferry-guest/init.h"

// Kernel modules, and the device that they bring.
namespace ferry {
namespace {

namespace fs = std::filesystem;

constexpr char kModuleList[] = "/etc/ferry/modules";
constexpr char kPortClass[] = "/sys/class/virtio-ports";
constexpr std::chrono::seconds kPortDeadline{20};

// The device node of the port with this name, empty if it is not there (yet).
std::string FindPort(const std::string& name) {
  std::error_code ignored;
  for (const fs::directory_entry& port : fs::directory_iterator(kPortClass, ignored)) {
    std::ifstream file(port.path() / "name");
    std::string found;
    if (std::getline(file, found) && found == name) {
      return absl::StrCat("/dev/", port.path().filename().string());
    }
  }
  return "";
}

}  // namespace

void LoadModules() {
  const bridge::KernelModules modules;
  std::ifstream list(kModuleList);
  for (std::string name; list >> name;) {
    const absl::Status status = modules.LoadFile(name);
    if (!status.ok()) Say(std::string(status.message()));
  }
}

absl::StatusOr<UniqueFd> OpenVirtioPort(const std::string& name) {
  const UniqueFd events = bridge::OpenDeviceEvents();
  const auto deadline = std::chrono::steady_clock::now() + kPortDeadline;
  std::string device = FindPort(name);
  while (device.empty()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0 || !events.valid()) {
      return absl::NotFoundError(absl::StrCat("there is no virtio-serial port '", name,
                                              "'; give the VM one, or boot with ferry.link=vsock"));
    }
    struct pollfd wait = {events.get(), POLLIN, 0};
    poll(&wait, 1, static_cast<int>(left.count()));
    bridge::DrainDeviceEvents(events.get());
    device = FindPort(name);
  }
  UniqueFd port(open(device.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (port.valid()) return port;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", device));
}

}  // namespace ferry
