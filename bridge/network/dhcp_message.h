#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bridge/network/address.h"

// What a DHCP client and its servers say to each other for IPv4 (RFC 2131, 2132), as pure bytes.
namespace ferry::net {

inline constexpr uint16_t kDhcpServerPort = 67;
inline constexpr uint16_t kDhcpClientPort = 68;

// As many as a resolver asks.
inline constexpr size_t kMaxNameServers = 3;

enum class DhcpType : uint8_t {
  kDiscover = 1,
  kOffer = 2,
  kRequest = 3,
  kAck = 5,
  kNak = 6,
};

// A client's.
struct DhcpRequest {
  DhcpType type = DhcpType::kDiscover;
  uint32_t transaction = 0;
  MacAddress mac;
  uint16_t seconds = 0;             // since it began to ask
  std::optional<IpAddress> has;     // its address, at which it can be answered
  std::optional<IpAddress> wants;   // the address that it asks for
  std::optional<IpAddress> server;  // whose offer it takes
};

std::string EncodeDhcp(const DhcpRequest& request);

// A server's: an offer, an acknowledgement, or that the client may not have what it asked for. What
// cannot be is left out, and nothing that is here is more than the server's word.
struct DhcpReply {
  DhcpType type = DhcpType::kOffer;
  uint32_t transaction = 0;
  MacAddress mac;    // of the client
  IpPrefix address;  // with 0 bits: none that an interface may have
  std::optional<IpAddress> server;
  std::optional<IpAddress> router;
  std::vector<IpAddress> name_servers;  // at most kMaxNameServers
  std::string domain;                   // to look for names in; empty: not said
  std::optional<uint32_t> lease_seconds;
  std::optional<uint32_t> renew_seconds;
  std::optional<uint32_t> rebind_seconds;
};

// INVALID_ARGUMENT if it is no server's message.
absl::StatusOr<DhcpReply> DecodeDhcp(std::string_view datagram);

}  // namespace ferry::net
