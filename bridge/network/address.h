#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

// Names and addresses of network interfaces, parsed within bounds.
namespace ferry::net {

// The longest name that the kernel takes for an interface.
inline constexpr size_t kMaxInterfaceName = 15;

// What somebody gave, for a message: bounded, and without what a terminal would act on.
std::string Quoted(std::string_view text);

// Whether it can name an interface: letters, digits, '-', '_' and '.', first a letter or digit.
bool IsInterfaceName(std::string_view name);

// The first byte of the address of every host's end of a card, and so of no card. A bridge without
// an address of its own takes over the lowest among its members', which that never is.
inline constexpr uint8_t kHostEndByte = 0xfe;

struct MacAddress {
  std::array<uint8_t, 6> bytes{};
  bool operator==(const MacAddress&) const = default;
  bool operator<(const MacAddress& other) const { return bytes < other.bytes; }
  bool is_multicast() const { return (bytes[0] & 1) != 0; }
  bool is_zero() const { return *this == MacAddress(); }
  // "02:fe:00:00:00:01"; HCS puts '-' between upper-case digits.
  std::string ToString() const;
  std::string ToHcsString() const;
};

// With ':' or '-' between the bytes. INVALID_ARGUMENT otherwise.
absl::StatusOr<MacAddress> ParseMac(std::string_view text);

struct IpAddress {
  bool is_v6 = false;
  std::array<uint8_t, 16> bytes{};  // of IPv4 the first four
  size_t size() const { return is_v6 ? 16 : 4; }
  uint8_t bits() const { return is_v6 ? 128 : 32; }
  bool operator==(const IpAddress&) const = default;
  std::string ToString() const;
};

// INVALID_ARGUMENT if it is neither an IPv4 nor an IPv6 address.
absl::StatusOr<IpAddress> ParseIp(std::string_view text);

struct IpPrefix {
  IpAddress address;
  uint8_t length = 0;
  bool operator==(const IpPrefix&) const = default;
  std::string ToString() const;
  bool Contains(const IpAddress& other) const;
};

// "192.0.2.7/24". INVALID_ARGUMENT without a length, or with one that is too long.
absl::StatusOr<IpPrefix> ParsePrefix(std::string_view text);

// Whether an interface may have it: neither a multicast address, nor a loopback or unspecified one.
bool IsHostAddress(const IpAddress& address);

// Of IPv6, where each link has addresses that mean something on it alone.
bool IsLinkLocal(const IpAddress& address);

}  // namespace ferry::net
