#include "bridge/guest/guest_network.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/guest/resolver.h"
#include "bridge/network/route_socket.h"
#include "bridge/process/kernel_modules.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::bridge {
namespace {

constexpr char kDriver[] = "virtio_net";
// Ways out that a DHCP server names come after those that were given, and among each other in the
// order of the interfaces.
constexpr uint32_t kLeaseMetric = 1024;

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

absl::StatusOr<std::vector<net::IpAddress>> NameServersOf(const NetworkAdapter& adapter) {
  std::vector<net::IpAddress> servers;
  for (const std::string& text : adapter.name_servers) {
    const absl::StatusOr<net::IpAddress> server = net::ParseIp(text);
    if (!server.ok()) return BadAdapter(server.status());
    servers.push_back(*server);
  }
  return servers;
}

uint32_t MetricOf(int index) { return kLeaseMetric + static_cast<uint32_t>(index); }

// For people, of what a server said.
std::string LeaseText(const std::string& name, const DhcpClient::Lease& lease) {
  if (!lease.has_value()) return absl::StrCat(name, " has no address by DHCP any more");
  return absl::StrCat(name, " has the address ", lease->address.ToString(),
                      " from the DHCP server ", lease->server.ToString());
}

}  // namespace

absl::StatusOr<net::Link> FindCard(const NetworkAdapter& adapter,
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
  return *link;
}

absl::StatusOr<std::vector<NetworkStep>> PlanNetwork(const NetworkAdapter& adapter,
                                                     const std::vector<net::Link>& links) {
  ASSIGN_OR_RETURN(const net::Link link, FindCard(adapter, links));
  std::vector<NetworkStep> steps;
  net::LinkChange change;
  change.index = link.index;
  if (link.name != adapter.id) {
    ClearName(adapter.id, link.index, links, &steps);
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
    steps.push_back({net::AddAddress(link.index, *prefix),
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
    steps.push_back({net::AddRoute(link.index, *gateway, behind),
                     absl::StrCat("route ", to->ToString(), " through ", gateway->ToString()),
                     true});
  }
  return steps;
}

std::vector<NetworkStep> PlanLease(int index, const std::string& name,
                                   const DhcpClient::Lease& before, const DhcpClient::Lease& now) {
  std::vector<NetworkStep> steps;
  const bool moves = before.has_value() && (!now.has_value() || before->address != now->address);
  const bool reroutes = moves || (before.has_value() && before->router != now->router);
  if (reroutes && before->router.has_value()) {
    steps.push_back({net::RemoveRoute(index, *before->router, std::nullopt, MetricOf(index)),
                     absl::StrCat("route through ", before->router->ToString(), " no more"), false,
                     true});
  }
  if (moves) {
    steps.push_back({net::RemoveAddress(index, before->address),
                     absl::StrCat("take ", before->address.ToString(), " from ", name), false,
                     true});
  }
  if (!now.has_value()) return steps;
  // Somebody else in the guest may have taken it away meanwhile.
  steps.push_back({net::AddAddress(index, now->address),
                   absl::StrCat("give ", name, " the address ", now->address.ToString()), true});
  if (now->router.has_value()) {
    steps.push_back({net::AddRoute(index, *now->router, std::nullopt, MetricOf(index)),
                     absl::StrCat("route through ", now->router->ToString()), true});
  }
  return steps;
}

LinuxGuestNetwork::LinuxGuestNetwork(Executor executor, Options options)
    : executor_(std::move(executor)), options_(std::move(options)) {}

absl::Status LinuxGuestNetwork::Add(const NetworkAdapter& adapter) {
  Card card;
  card.name = adapter.id;
  ASSIGN_OR_RETURN(card.name_servers, NameServersOf(adapter));
  if (!driver_loaded_) {
    const KernelModules modules;
    RETURN_IF_ERROR(modules.Load(kDriver));
    driver_loaded_ = true;
  }
  ASSIGN_OR_RETURN(net::RouteSocket kernel, net::RouteSocket::Open());
  ASSIGN_OR_RETURN(const std::vector<net::Link> links, kernel.ListLinks());
  ASSIGN_OR_RETURN(const net::Link link, FindCard(adapter, links));
  ASSIGN_OR_RETURN(std::vector<NetworkStep> steps, PlanNetwork(adapter, links));
  RETURN_IF_ERROR(Apply(std::move(steps)));
  const auto known = std::find_if(cards_.begin(), cards_.end(), [&adapter](const Card& other) {
    return other.name == adapter.id;
  });
  if (known != cards_.end()) return absl::OkStatus();
  if (adapter.dhcp) RETURN_IF_ERROR(Ask(link, &card));
  const std::shared_ptr<DhcpClient> asks = card.dhcp;
  cards_.push_back(std::move(card));
  SetResolver();
  if (asks != nullptr) asks->Start();
  return absl::OkStatus();
}

absl::Status LinuxGuestNetwork::Apply(std::vector<NetworkStep> steps) {
  ASSIGN_OR_RETURN(net::RouteSocket kernel, net::RouteSocket::Open());
  for (NetworkStep& step : steps) {
    const absl::Status done = kernel.Do(std::move(step.request), step.what);
    const bool harmless = step.may_fail || (step.may_exist && absl::IsAlreadyExists(done));
    if (!done.ok() && !harmless) return done;
  }
  return absl::OkStatus();
}

absl::Status LinuxGuestNetwork::Ask(const net::Link& link, Card* card) {
  DhcpClient::OnChange on_change = [this, index = link.index, name = card->name](
                                       const DhcpClient::Lease& before,
                                       const DhcpClient::Lease& now) {
    OnLease(index, name, before, now);
  };
  ASSIGN_OR_RETURN(card->dhcp,
                   DhcpClient::Open(executor_, card->name, link.mac, std::move(on_change)));
  return absl::OkStatus();
}

void LinuxGuestNetwork::OnLease(int index, const std::string& name, const DhcpClient::Lease& before,
                                const DhcpClient::Lease& now) {
  const absl::Status applied = Apply(PlanLease(index, name, before, now));
  if (options_.log &&
      (!before.has_value() || !now.has_value() || before->address != now->address)) {
    options_.log(LeaseText(name, now));
  }
  if (options_.log && !applied.ok()) options_.log(std::string(applied.message()));
  SetResolver();
}

void LinuxGuestNetwork::SetResolver() {
  std::vector<CardNames> names;
  for (const Card& card : cards_) {
    CardNames& all = names.emplace_back();
    all.interface = card.name;
    all.servers = card.name_servers;
    if (card.dhcp == nullptr || !card.dhcp->lease().has_value()) continue;
    all.domain = card.dhcp->lease()->domain;
    if (all.servers.empty()) all.servers = card.dhcp->lease()->name_servers;
  }
  std::string text = ResolverText(names);
  if (text == resolver_) return;
  resolver_ = std::move(text);
  const absl::Status written = WriteResolver(options_.resolver_file, resolver_);
  if (options_.log && !written.ok()) options_.log(std::string(written.message()));
  if (on_resolver_) on_resolver_();
}

void LinuxGuestNetwork::Confirm() {
  for (const Card& card : cards_) {
    if (card.dhcp != nullptr) card.dhcp->Confirm();
  }
}

void LinuxGuestNetwork::StoodStill(std::chrono::nanoseconds duration) {
  for (const Card& card : cards_) {
    if (card.dhcp != nullptr) card.dhcp->StoodStill(duration);
  }
}

std::vector<NetworkLease> LinuxGuestNetwork::leases() const {
  std::vector<NetworkLease> all;
  for (const Card& card : cards_) {
    if (card.dhcp == nullptr || !card.dhcp->lease().has_value()) continue;
    const net::DhcpLease& from = *card.dhcp->lease();
    NetworkLease& lease = all.emplace_back();
    lease.id = card.name;
    lease.address = from.address.ToString();
    if (from.router.has_value()) lease.gateway = from.router->ToString();
    for (const net::IpAddress& server : from.name_servers) {
      lease.name_servers.push_back(server.ToString());
    }
    lease.server = from.server.ToString();
  }
  return all;
}

}  // namespace ferry::bridge
