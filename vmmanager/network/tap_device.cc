#include "vmmanager/network/tap_device.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::vm {
namespace {

constexpr char kTunDevice[] = "/dev/net/tun";
// The kernel puts the first number there that is free.
constexpr char kNewTap[] = "ferry%d";
constexpr short kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

absl::Status Refused(const std::string& what) { return absl::FailedPreconditionError(what); }

// Why this process has no taps.
absl::Status ExplainTap(int error, const std::string& what) {
  const std::string why = absl::StrCat(what, ": ", std::strerror(error), "; ");
  if (error == EPERM || error == EACCES) {
    return Refused(absl::StrCat(why, "let ferryd run as root, or with CAP_NET_ADMIN and access to ",
                                kTunDevice, "; or give the VM a card with user in its place"));
  }
  if (error == ENOENT || error == ENODEV || error == ENXIO) {
    return Refused(absl::StrCat(why, "load the kernel's module tun (modprobe tun)"));
  }
  return Refused(absl::StrCat(why, "see the kernel's log (dmesg)"));
}

absl::StatusOr<UniqueFd> OpenTun() {
  UniqueFd fd(::open(kTunDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (fd.valid()) return fd;
  return ExplainTap(errno, absl::StrCat("cannot open ", kTunDevice));
}

struct Attached {
  UniqueFd fd;
  std::string name;
  bool persists = false;  // it was there, and stays
};

absl::StatusOr<Attached> Attach(const std::string& name) {
  Attached tap;
  ASSIGN_OR_RETURN(tap.fd, OpenTun());
  struct ifreq request {};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = kTapFlags;
  if (::ioctl(tap.fd.get(), TUNSETIFF, &request) != 0) {
    const int error = errno;
    if (error == EBUSY) {
      return Refused(absl::StrCat("the tap device ", name, " is in use; give each card its own"));
    }
    if (error == EINVAL) {
      return Refused(absl::StrCat(
          name, " is no tap device with one queue; make one: ip tuntap add ", name, " mode tap"));
    }
    return ExplainTap(error, "cannot make or open a tap device");
  }
  tap.name = request.ifr_name;
  if (::ioctl(tap.fd.get(), TUNGETIFF, &request) != 0) {
    return ExplainTap(errno, "cannot look at a tap device");
  }
  tap.persists = (request.ifr_flags & IFF_PERSIST) != 0;
  return tap;
}

absl::StatusOr<net::Link> FindBridge(net::RouteSocket& kernel, const std::string& bridge,
                                     const std::string& asked) {
  const std::string which =
      bridge == asked ? bridge : absl::StrCat(bridge, " (which stands for ", asked, " here)");
  absl::StatusOr<net::Link> link = kernel.FindLink(bridge);
  if (absl::IsNotFound(link.status())) {
    return Refused(absl::StrCat("this host has no bridge ", which, "; make it (ip link add ",
                                bridge, " type bridge; ip link set ", bridge,
                                " up), or name the one that stands for it: ferryd --bridge ", asked,
                                "=NAME"));
  }
  if (!link.ok()) return link.status();
  if (link->kind != "bridge") {
    return Refused(absl::StrCat(which,
                                " is an interface of this host, but no bridge; name the one "
                                "that stands for it: ferryd --bridge ",
                                asked, "=NAME"));
  }
  if (link->is_up) return link;
  return Refused(
      absl::StrCat("this host's bridge ", which, " is down; ip link set ", bridge, " up"));
}

}  // namespace

net::MacAddress TapAddress(const net::MacAddress& card) {
  net::MacAddress mac = card;
  mac.bytes[0] = net::kHostEndByte;
  return mac;
}

absl::StatusOr<Tap> OpenTapInBridge(net::RouteSocket& kernel, const std::string& bridge,
                                    const std::string& asked, const net::MacAddress& card) {
  ASSIGN_OR_RETURN(const net::Link in, FindBridge(kernel, bridge, asked));
  ASSIGN_OR_RETURN(Attached tap, Attach(kNewTap));
  ASSIGN_OR_RETURN(const net::Link link, kernel.FindLink(tap.name));
  net::LinkChange change;
  change.index = link.index;
  change.up = false;
  change.mac = TapAddress(card);
  // A bridge takes over the smallest of its members'.
  change.mtu = in.mtu;
  change.master = in.index;
  const absl::Status joined = kernel.Do(net::ChangeLink(change),
                                        absl::StrCat("join the tap device to the bridge ", bridge));
  if (!joined.ok()) {
    return Refused(absl::StrCat(joined.message(),
                                "; let ferryd run with CAP_NET_ADMIN, and see "
                                "that the bridge takes new members"));
  }
  // Where the host has no IPv6 there is nothing to be left to others.
  (void)kernel.Do(net::LeaveIpv6ToOthers(link.index), "keep IPv6 off the tap device");
  return Tap{std::move(tap.fd), link.index};
}

absl::StatusOr<Tap> OpenOwnTap(net::RouteSocket& kernel, const std::string& name) {
  const auto missing = [&name](const char* what) {
    return Refused(absl::StrCat(what, name, "; make one: ip tuntap add ", name,
                                " mode tap user NAME, for the user that ferryd runs as"));
  };
  absl::StatusOr<net::Link> link = kernel.FindLink(name);
  if (absl::IsNotFound(link.status())) return missing("this host has no tap device ");
  if (!link.ok()) return link.status();
  if (link->kind != "tun") return missing("an interface of this host, but no tap device, is ");
  ASSIGN_OR_RETURN(Attached tap, Attach(name));
  // It went meanwhile, and this is another one.
  if (!tap.persists) return missing("this host has no tap device that stays, named ");
  ASSIGN_OR_RETURN(link, kernel.FindLink(name));
  // Whoever owns a tap may open it, and still have no right to set it up when the guest runs.
  net::LinkChange nothing;
  nothing.index = link->index;
  const absl::Status may_change = kernel.Do(net::ChangeLink(nothing), "change the tap device");
  if (!link->is_up && absl::IsPermissionDenied(may_change)) {
    return Refused(absl::StrCat("the tap device ", name, " is down, and ferryd may not set it up; ",
                                "ip link set ", name, " up"));
  }
  return Tap{std::move(tap.fd), link->index};
}

absl::Status SetCarries(net::RouteSocket& kernel, int tap, bool carries) {
  net::LinkChange change;
  change.index = tap;
  change.up = carries;
  const absl::Status set = kernel.Do(net::ChangeLink(change),
                                     carries ? "set the tap device up" : "set the tap device down");
  if (set.ok() || !absl::IsPermissionDenied(set)) return set;
  // Who may not change it may find that it is as it should be.
  ASSIGN_OR_RETURN(const std::vector<net::Link> links, kernel.ListLinks());
  for (const net::Link& link : links) {
    if (link.index == tap && link.is_up == carries) return absl::OkStatus();
  }
  return set;
}

}  // namespace ferry::vm
