#include "vmmanager/sandbox/vm_nics.h"

#include <algorithm>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/network/dhcp_message.h"
#include "bridge/runtime/status_macros.h"
#include "vmmanager/backend/adapters.h"

namespace ferry::vm {
namespace {

constexpr int kMaxAddresses = 8;
constexpr int kMaxNameServers = net::kMaxNameServers;
// The first bytes of what is made; the others are random.
constexpr uint8_t kMadeMac[] = {0x02, 0xfe};
// What QEMU's own network gives to its first guest, and where it is.
constexpr char kUserAddress[] = "10.0.2.15/24";
constexpr char kUserGateway[] = "10.0.2.2";

absl::Status RefuseNic(const v1::NicSpec& nic, const std::string& what, const std::string& rule) {
  return absl::InvalidArgumentError(
      absl::StrCat("network card ", net::Quoted(nic.name()), ": ", what, "; ", rule));
}

std::string NameRule() {
  return absl::StrCat("use at most ", net::kMaxInterfaceName,
                      " letters, digits, '-', '_' and '.', first a letter or digit");
}

absl::Status CheckPlace(const v1::NicSpec& nic) {
  switch (nic.place_case()) {
    case v1::NicSpec::kBridge:
      if (net::IsInterfaceName(nic.bridge())) return absl::OkStatus();
      return RefuseNic(nic, absl::StrCat("bridge is ", net::Quoted(nic.bridge())), NameRule());
    case v1::NicSpec::kTap:
      if (net::IsInterfaceName(nic.tap())) return absl::OkStatus();
      return RefuseNic(nic, absl::StrCat("tap is ", net::Quoted(nic.tap())), NameRule());
    case v1::NicSpec::kUser:
      if (nic.user()) return absl::OkStatus();
      break;
    default:
      break;
  }
  return RefuseNic(nic, "it is plugged in nowhere",
                   "say bridge=NAME, tap=NAME, or user for a network that takes no rights");
}

absl::Status CompleteMac(v1::NicSpec* nic) {
  if (nic->mac().empty()) return absl::OkStatus();
  const absl::StatusOr<net::MacAddress> mac = net::ParseMac(nic->mac());
  if (!mac.ok()) return RefuseNic(*nic, std::string(mac.status().message()), "or leave it out");
  const std::string what = absl::StrCat("mac is ", mac->ToString());
  if (mac->is_multicast() || mac->is_zero()) {
    return RefuseNic(*nic, what, "use a unicast address, such as 02:fe:00:00:00:01");
  }
  if (mac->bytes[0] == net::kHostEndByte) {
    return RefuseNic(*nic, what, "fe: is the host's end's; use another, such as 02:");
  }
  nic->set_mac(mac->ToString());
  return absl::OkStatus();
}

absl::Status CheckAddresses(const v1::NicSpec& nic, std::vector<net::IpPrefix>* prefixes) {
  if (nic.addresses_size() > kMaxAddresses) {
    return RefuseNic(nic, absl::StrCat("it has ", nic.addresses_size(), " addresses"),
                     absl::StrCat("use at most ", kMaxAddresses));
  }
  for (const std::string& text : nic.addresses()) {
    const absl::StatusOr<net::IpPrefix> prefix = net::ParsePrefix(text);
    if (!prefix.ok()) {
      return RefuseNic(nic, absl::StrCat("address: ", prefix.status().message()),
                       "the length says which others are on the same network");
    }
    if (!net::IsHostAddress(prefix->address)) {
      return RefuseNic(nic, absl::StrCat("address is ", prefix->ToString()),
                       "use one that a single host may have");
    }
    const auto same = [&prefix](const net::IpPrefix& other) {
      return other.address == prefix->address;
    };
    if (std::any_of(prefixes->begin(), prefixes->end(), same)) {
      return RefuseNic(nic, absl::StrCat("address ", prefix->ToString(), " is there twice"),
                       "leave one of them out");
    }
    prefixes->push_back(*prefix);
  }
  return absl::OkStatus();
}

absl::Status CheckGateways(const v1::NicSpec& nic, const std::vector<net::IpPrefix>& prefixes) {
  std::set<bool> families;
  if (nic.gateways_size() > 2) {
    return RefuseNic(nic, absl::StrCat("it has ", nic.gateways_size(), " gateways"),
                     "use one for IPv4 and one for IPv6");
  }
  for (const std::string& text : nic.gateways()) {
    const absl::StatusOr<net::IpAddress> gateway = net::ParseIp(text);
    if (!gateway.ok()) {
      return RefuseNic(nic, absl::StrCat("gateway: ", gateway.status().message()),
                       "or leave it out");
    }
    const std::string what = absl::StrCat("gateway is ", gateway->ToString());
    if (!families.insert(gateway->is_v6).second) {
      return RefuseNic(nic, what, "use one for IPv4 and one for IPv6");
    }
    const auto reaches = [&gateway](const net::IpPrefix& prefix) {
      return prefix.Contains(*gateway) && prefix.address != *gateway;
    };
    if (net::IsLinkLocal(*gateway)) continue;
    if (std::none_of(prefixes.begin(), prefixes.end(), reaches)) {
      return RefuseNic(nic, what, "use one that is in the network of one of the card's addresses");
    }
  }
  return absl::OkStatus();
}

absl::Status CompleteNameServers(v1::NicSpec* nic) {
  for (std::string& text : *nic->mutable_name_servers()) {
    const absl::StatusOr<net::IpAddress> server = net::ParseIp(text);
    if (!server.ok()) {
      return RefuseNic(*nic, absl::StrCat("name server: ", server.status().message()),
                       "or leave it out");
    }
    if (!net::IsHostAddress(*server)) {
      return RefuseNic(*nic, absl::StrCat("name server is ", server->ToString()),
                       "use one that a single host may have");
    }
    text = server->ToString();
  }
  return absl::OkStatus();
}

absl::Status CompleteNic(v1::NicSpec* nic) {
  if (!net::IsInterfaceName(nic->name()) || nic->name() == "lo") {
    return RefuseNic(*nic, "its name cannot be an interface's in the guest", NameRule());
  }
  RETURN_IF_ERROR(CheckPlace(*nic));
  RETURN_IF_ERROR(CompleteNameServers(nic));
  return CompleteMac(nic);
}

bool HasIpv4Gateway(const v1::NicSpec& nic) {
  return std::any_of(nic.gateways().begin(), nic.gateways().end(), [](const std::string& text) {
    const absl::StatusOr<net::IpAddress> gateway = net::ParseIp(text);
    return gateway.ok() && !gateway->is_v6;
  });
}

// What a DHCP server says is not said by anybody else.
absl::Status CheckDhcp(const v1::NicSpec& nic, const std::vector<net::IpPrefix>& prefixes) {
  if (!nic.dhcp()) return absl::OkStatus();
  if (nic.user()) {
    return RefuseNic(nic, "it asks for its address by DHCP",
                     "on the VMM's own network leave that out: the address is known there");
  }
  const auto is_v4 = [](const net::IpPrefix& prefix) { return !prefix.address.is_v6; };
  const auto given = std::find_if(prefixes.begin(), prefixes.end(), is_v4);
  if (given != prefixes.end()) {
    return RefuseNic(nic, absl::StrCat("address is ", given->ToString(), " beside dhcp"),
                     "leave one of them out; IPv6 addresses may stay");
  }
  if (!HasIpv4Gateway(nic)) return absl::OkStatus();
  return RefuseNic(nic, "it has an IPv4 gateway beside dhcp",
                   "leave the gateway out: the DHCP server names one");
}

// What the VMM's own network expects of a card without addresses. Where another card leads out of
// the VM already, this one does not.
void CompleteUserCards(v1::VmSpec* spec) {
  bool leads_out =
      std::any_of(spec->nics().begin(), spec->nics().end(),
                  [](const v1::NicSpec& nic) { return nic.dhcp() || HasIpv4Gateway(nic); });
  for (v1::NicSpec& nic : *spec->mutable_nics()) {
    const bool is_said = nic.dhcp() || !nic.addresses().empty() || !nic.gateways().empty();
    if (!nic.user() || is_said) continue;
    nic.add_addresses(kUserAddress);
    if (!std::exchange(leads_out, true)) nic.add_gateways(kUserGateway);
  }
}

// What a VM's cards have, of which there can be only one in it.
class Given {
 public:
  // INVALID_ARGUMENT if another card has any of it already. The card is complete.
  absl::Status Add(const v1::NicSpec& nic, const std::vector<net::IpPrefix>& prefixes) {
    RETURN_IF_ERROR(Take(nic, "name", nic.name(), "give each its own"));
    RETURN_IF_ERROR(Take(nic, "tap device", nic.tap(), "give each its own"));
    RETURN_IF_ERROR(Take(nic, "MAC address", nic.mac(), "give each its own, or leave them out"));
    for (const net::IpPrefix& prefix : prefixes) {
      // Of these each link may have the same.
      if (net::IsLinkLocal(prefix.address)) continue;
      RETURN_IF_ERROR(Take(
          nic, "address", prefix.address.ToString(),
          nic.user() ? "give each its own, such as address=10.0.2.16/24" : "give each its own"));
    }
    for (const std::string& text : nic.gateways()) {
      const bool is_v6 = net::ParseIp(text).value_or(net::IpAddress()).is_v6;
      RETURN_IF_ERROR(Take(nic, "way out", is_v6 ? "for IPv6" : "for IPv4",
                           "use one gateway of each kind in all of the VM"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Take(const v1::NicSpec& nic, const std::string& what, const std::string& value,
                    const std::string& rule) {
    if (value.empty() || taken_.insert({what, value}).second) return absl::OkStatus();
    return RefuseNic(nic, absl::StrCat("another card has its ", what, " ", value), rule);
  }

  std::set<std::pair<std::string, std::string>> taken_;
};

// Of what a completed specification holds; all zeros otherwise.
net::MacAddress MacOf(const v1::NicSpec& nic) {
  return net::ParseMac(nic.mac()).value_or(net::MacAddress());
}

}  // namespace

absl::Status CompleteNics(v1::VmSpec* spec) {
  if (spec->nics_size() > static_cast<int>(kMaxAdapters)) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", spec->nics_size(),
                                                   " network cards; use at most ", kMaxAdapters));
  }
  int number = 0;
  int name_servers = 0;
  for (v1::NicSpec& nic : *spec->mutable_nics()) {
    if (nic.name().empty()) nic.set_name(absl::StrCat("eth", number));
    ++number;
    RETURN_IF_ERROR(CompleteNic(&nic));
    name_servers += nic.name_servers_size();
  }
  if (name_servers > kMaxNameServers) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", name_servers,
                                                   " name servers; use at most ", kMaxNameServers,
                                                   " in all of the VM, as many as programs ask"));
  }
  CompleteUserCards(spec);
  Given given;
  for (const v1::NicSpec& nic : spec->nics()) {
    std::vector<net::IpPrefix> prefixes;
    RETURN_IF_ERROR(CheckAddresses(nic, &prefixes));
    RETURN_IF_ERROR(CheckDhcp(nic, prefixes));
    RETURN_IF_ERROR(CheckGateways(nic, prefixes));
    RETURN_IF_ERROR(given.Add(nic, prefixes));
  }
  return absl::OkStatus();
}

void MakeMacs(const std::set<net::MacAddress>& taken, v1::VmSpec* spec) {
  std::set<net::MacAddress> used = taken;
  for (const v1::NicSpec& nic : spec->nics()) used.insert(MacOf(nic));
  std::random_device random;
  std::uniform_int_distribution<int> byte(0, 255);
  for (v1::NicSpec& nic : *spec->mutable_nics()) {
    if (!nic.mac().empty()) continue;
    net::MacAddress mac;
    do {
      for (uint8_t& one : mac.bytes) one = static_cast<uint8_t>(byte(random));
      std::copy(std::begin(kMadeMac), std::end(kMadeMac), mac.bytes.begin());
    } while (!used.insert(mac).second);
    nic.set_mac(mac.ToString());
  }
}

std::set<net::MacAddress> MacsOf(const schema::ComputeSystem& document) {
  std::set<net::MacAddress> macs;
  for (const auto& [number, adapter] : document.virtual_machine.devices.network_adapters) {
    const absl::StatusOr<net::MacAddress> mac = net::ParseMac(adapter.mac_address);
    if (mac.ok()) macs.insert(*mac);
  }
  return macs;
}

std::map<std::string, schema::NetworkAdapter> AdaptersOf(const v1::VmSpec& spec) {
  std::map<std::string, schema::NetworkAdapter> adapters;
  for (const v1::NicSpec& nic : spec.nics()) {
    schema::NetworkAdapter& adapter = adapters[absl::StrCat(adapters.size())];
    adapter.mac_address = MacOf(nic).ToHcsString();
    adapter.name = nic.name();
    adapter.bridge = nic.bridge();
    adapter.tap = nic.tap();
    adapter.user = nic.user();
  }
  return adapters;
}

std::vector<bridge::NetworkAdapter> GuestAdaptersOf(const v1::VmSpec& spec) {
  std::vector<bridge::NetworkAdapter> adapters;
  for (const v1::NicSpec& nic : spec.nics()) {
    bridge::NetworkAdapter& adapter = adapters.emplace_back();
    adapter.id = nic.name();
    adapter.mac_address = MacOf(nic).ToHcsString();
    for (const std::string& text : nic.addresses()) {
      const absl::StatusOr<net::IpPrefix> prefix = net::ParsePrefix(text);
      if (prefix.ok()) adapter.ip_configs.push_back({prefix->address.ToString(), prefix->length});
    }
    for (const std::string& text : nic.gateways()) {
      const absl::StatusOr<net::IpAddress> gateway = net::ParseIp(text);
      if (!gateway.ok()) continue;
      adapter.routes.push_back({gateway->ToString(), gateway->is_v6 ? "::/0" : "0.0.0.0/0"});
    }
    adapter.name_servers.assign(nic.name_servers().begin(), nic.name_servers().end());
    adapter.dhcp = nic.dhcp();
  }
  return adapters;
}

bool AsksForLeases(const v1::VmSpec& spec) {
  return std::any_of(spec.nics().begin(), spec.nics().end(),
                     [](const v1::NicSpec& nic) { return nic.dhcp(); });
}

std::vector<v1::NicLease> LeasesOf(const v1::VmSpec& spec,
                                   const std::vector<bridge::NetworkLease>& told) {
  std::vector<v1::NicLease> leases;
  for (const v1::NicSpec& nic : spec.nics()) {
    const auto lease = std::find_if(told.begin(), told.end(), [&nic](const auto& one) {
      return nic.dhcp() && one.id == nic.name();
    });
    if (lease == told.end()) continue;
    const absl::StatusOr<net::IpPrefix> address = net::ParsePrefix(lease->address);
    const absl::StatusOr<net::IpAddress> server = net::ParseIp(lease->server);
    if (!address.ok() || !server.ok()) continue;
    v1::NicLease& made = leases.emplace_back();
    made.set_nic(nic.name());
    made.set_address(address->ToString());
    made.set_server(server->ToString());
    const absl::StatusOr<net::IpAddress> gateway = net::ParseIp(lease->gateway);
    if (gateway.ok()) made.set_gateway(gateway->ToString());
    for (const std::string& text : lease->name_servers) {
      const absl::StatusOr<net::IpAddress> name_server = net::ParseIp(text);
      if (!name_server.ok() || made.name_servers_size() >= kMaxNameServers) continue;
      made.add_name_servers(name_server->ToString());
    }
  }
  return leases;
}

}  // namespace ferry::vm
