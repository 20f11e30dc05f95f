#include "bridge/guest/guest_network.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bridge/network/route_socket.h"
#include "bridge/process/kernel_modules.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr char kDriver[] = "virtio_net";

absl::Status BadAdapter(const absl::Status& why) {
  return absl::InvalidArgumentError(absl::StrCat("a network card: ", why.message()));
}

// Interfaces get their kernel's names in the order of their finding, so another one may have it.
void ClearName(const std::string& name, int own, const std::vector<net::Link>& links,
               std::vector<NetworkStep>* steps) {
  const auto other = std::find_if(links.begin(), links.end(), [&](const net::Link& link) {
    return link.name == name && link.index != own;
  });
  if (other == links.end()) return;
  net::LinkChange aside;
  aside.index = other->index;
  aside.name = absl::StrCat("ferry-", other->index);
  steps->push_back({net::ChangeLink(aside), absl::StrCat("rename the interface ", name)});
}

}  // namespace

absl::StatusOr<std::vector<NetworkStep>> PlanNetwork(const NetworkAdapter& adapter,
                                                     const std::vector<net::Link>& links) {
  if (!net::IsInterfaceName(adapter.id) || adapter.id == "lo") {
    return absl::InvalidArgumentError("a network card's name cannot be an interface's");
  }
  const absl::StatusOr<net::MacAddress> mac = net::ParseMac(adapter.mac_address);
  if (!mac.ok()) return BadAdapter(mac.status());
  const auto link = std::find_if(links.begin(), links.end(), [&mac](const net::Link& one) {
    return one.mac == *mac && one.kind.empty();
  });
  if (link == links.end()) {
    return absl::NotFoundError(
        absl::StrCat("there is no network card with the MAC address ", mac->ToString()));
  }
  std::vector<NetworkStep> steps;
  net::LinkChange change;
  change.index = link->index;
  if (link->name != adapter.id) {
    ClearName(adapter.id, link->index, links, &steps);
    change.name = adapter.id;
    steps.push_back({net::ChangeLink(change), absl::StrCat("name an interface ", adapter.id)});
    change.name.reset();
  }
  change.up = true;
  steps.push_back({net::ChangeLink(change), absl::StrCat("set the interface ", adapter.id, " up")});
  for (const IpConfig& config : adapter.ip_configs) {
    const auto prefix =
        net::ParsePrefix(absl::StrCat(config.ip_address, "/", config.prefix_length));
    if (!prefix.ok()) return BadAdapter(prefix.status());
    steps.push_back({net::AddAddress(link->index, *prefix),
                     absl::StrCat("give ", adapter.id, " the address ", prefix->ToString()), true});
  }
  for (const NetworkRoute& route : adapter.routes) {
    const auto gateway = net::ParseIp(route.next_hop);
    if (!gateway.ok()) return BadAdapter(gateway.status());
    const auto to = net::ParsePrefix(route.destination_prefix);
    if (!to.ok()) return BadAdapter(to.status());
    if (to->address.is_v6 != gateway->is_v6) {
      return absl::InvalidArgumentError("a network card: a route mixes IPv4 and IPv6");
    }
    std::optional<net::IpPrefix> behind;
    if (to->length > 0) behind = *to;
    steps.push_back({net::AddRoute(link->index, *gateway, behind),
                     absl::StrCat("route ", to->ToString(), " through ", gateway->ToString()),
                     true});
  }
  return steps;
}

absl::Status LinuxGuestNetwork::Add(const NetworkAdapter& adapter) {
  if (!driver_loaded_) {
    const KernelModules modules;
    RETURN_IF_ERROR(modules.Load(kDriver));
    driver_loaded_ = true;
  }
  ASSIGN_OR_RETURN(net::RouteSocket kernel, net::RouteSocket::Open());
  ASSIGN_OR_RETURN(const std::vector<net::Link> links, kernel.ListLinks());
  ASSIGN_OR_RETURN(std::vector<NetworkStep> steps, PlanNetwork(adapter, links));
  for (NetworkStep& step : steps) {
    const absl::Status done = kernel.Do(std::move(step.request), step.what);
    if (!done.ok() && !(step.may_exist && absl::IsAlreadyExists(done))) return done;
  }
  return absl::OkStatus();
}

}  // namespace ferry::bridge
