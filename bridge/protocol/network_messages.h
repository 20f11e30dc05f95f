#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/protocol/messages.h"

// ModifySettings' Settings for a network card, with hcsshim's names (LCOWNetworkAdapter). Members
// that are not known are skipped.
namespace ferry::bridge {

inline constexpr char kResourceNetwork[] = "Network";  // Add

// The agent's limits; a text that goes beyond is refused.
inline constexpr size_t kMaxIpConfigs = 16;
inline constexpr size_t kMaxRoutes = 16;
inline constexpr size_t kMaxNameServerEntries = 16;

struct IpConfig {
  std::string ip_address;
  uint32_t prefix_length = 0;
  bool operator==(const IpConfig&) const = default;
};

struct NetworkRoute {
  std::string next_hop;
  std::string destination_prefix;
  bool operator==(const NetworkRoute&) const = default;
};

// The card of that MAC address becomes an interface that is named `id`, with these addresses and
// routes. Names are looked up at `name_servers`; where there are none, at those that its DHCP
// server names.
struct NetworkAdapter {
  std::string id;
  std::string mac_address;  // as HCS writes it
  std::vector<IpConfig> ip_configs;
  std::vector<NetworkRoute> routes;
  std::vector<std::string> name_servers;
  bool dhcp = false;  // Ferry's: IPv4 address and route are a DHCP server's affair
  bool operator==(const NetworkAdapter&) const = default;
};

// What a card has of a DHCP server (Ferry's, in GetProperties' answer).
struct NetworkLease {
  std::string id;                         // the card's
  std::string address;                    // with its prefix's length
  std::string gateway;                    // empty: none
  std::vector<std::string> name_servers;  // those that the server named
  std::string server;
  bool operator==(const NetworkLease&) const = default;
};

std::string Encode(const NetworkAdapter& adapter);

template <>
absl::StatusOr<NetworkAdapter> Decode(std::string_view text);

}  // namespace ferry::bridge
