#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tools/ferry-guest/init.h"

// Kernel modules, and the device that they bring.
namespace ferry {
namespace {

namespace fs = std::filesystem;

constexpr char kModuleList[] = "/etc/ferry/modules";
constexpr char kModuleFolder[] = "/lib/modules/ferry/";
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

// The kernel's announcements of devices.
UniqueFd OpenDeviceEvents() {
  UniqueFd events(
      socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  struct sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;
  if (bind(events.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) != 0) {
    events.Reset();
  }
  return events;
}

}  // namespace

void LoadModules() {
  std::ifstream list(kModuleList);
  for (std::string name; list >> name;) {
    UniqueFd file(open(absl::StrCat(kModuleFolder, name).c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) {
      Say(absl::StrCat("module ", name, ": ", strerror(errno)));
    } else if (syscall(SYS_finit_module, file.get(), "", 0) != 0 && errno != EEXIST) {
      Say(absl::StrCat("module ", name, ": ", strerror(errno)));
    }
  }
}

absl::StatusOr<UniqueFd> OpenVirtioPort(const std::string& name) {
  const UniqueFd events = OpenDeviceEvents();
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
    char event[4096];
    while (recv(events.get(), event, sizeof(event), 0) > 0) {
    }
    device = FindPort(name);
  }
  UniqueFd port(open(device.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (port.valid()) return port;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", device));
}

}  // namespace ferry
