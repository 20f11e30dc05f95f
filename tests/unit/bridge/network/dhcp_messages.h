#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bridge/network/dhcp_message.h"

// DHCP servers' messages, for tests and fuzzers.
namespace ferry::net {

struct DhcpOption {
  uint8_t code = 0;
  std::string value;
};

inline std::string Bytes(uint32_t number) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(number >> shift);
  return bytes;
}

inline std::string BytesOfIp(const std::string& address) {
  const IpAddress parsed = *ParseIp(address);
  return {reinterpret_cast<const char*>(parsed.bytes.data()), parsed.size()};
}

inline std::string EncodeOptions(const std::vector<DhcpOption>& options) {
  std::string bytes;
  for (const DhcpOption& option : options) {
    bytes += static_cast<char>(option.code);
    bytes += static_cast<char>(option.value.size());
    bytes += option.value;
  }
  return bytes;
}

// A message to that client, with these options after its type.
inline std::string ServerMessage(DhcpType type, uint32_t transaction, const MacAddress& mac,
                                 const std::string& address,
                                 const std::vector<DhcpOption>& options) {
  std::string bytes(240, '\0');
  bytes.replace(0, 3, std::string("\x02\x01\x06", 3));
  bytes.replace(4, 4, Bytes(transaction));
  bytes.replace(16, 4, BytesOfIp(address));
  bytes.replace(28, 6, std::string(mac.bytes.begin(), mac.bytes.end()));
  bytes.replace(236, 4, "\x63\x82\x53\x63");
  bytes += EncodeOptions({{53, std::string(1, static_cast<char>(type))}});
  return bytes + EncodeOptions(options) + '\xff';
}

}  // namespace ferry::net
