#include "bridge/network/address.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"

namespace ferry::net {
namespace {

constexpr size_t kMaxText = 64;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string JoinHex(const std::array<uint8_t, 6>& bytes, char separator, const char* digits) {
  std::string text;
  for (const uint8_t byte : bytes) {
    if (!text.empty()) text += separator;
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace

std::string Quoted(std::string_view text) {
  const std::string_view start = text.substr(0, kMaxText);
  return StrCat("\"", absl::CHexEscape(absl::string_view(start.data(), start.size())), "\"");
}

bool IsInterfaceName(std::string_view name) {
  if (name.empty() || name.size() > kMaxInterfaceName || !absl::ascii_isalnum(name[0])) {
    return false;
  }
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

std::string MacAddress::ToString() const { return JoinHex(bytes, ':', "0123456789abcdef"); }
std::string MacAddress::ToHcsString() const { return JoinHex(bytes, '-', "0123456789ABCDEF"); }

absl::StatusOr<MacAddress> ParseMac(std::string_view text) {
  constexpr size_t kText = 17;
  MacAddress mac;
  bool valid = text.size() == kText && (text[2] == ':' || text[2] == '-');
  for (size_t i = 0; valid && i < mac.bytes.size(); ++i) {
    const int high = HexDigit(text[3 * i]);
    const int low = HexDigit(text[3 * i + 1]);
    valid = high >= 0 && low >= 0 && (i == 5 || text[3 * i + 2] == text[2]);
    mac.bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if (valid) return mac;
  return absl::InvalidArgumentError(
      StrCat(Quoted(text), " is no MAC address; write it as 02:fe:00:00:00:01"));
}

std::string IpAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(is_v6 ? AF_INET6 : AF_INET, bytes.data(), text, sizeof(text));
  return text;
}

absl::StatusOr<IpAddress> ParseIp(std::string_view text) {
  IpAddress address;
  if (text.size() < INET6_ADDRSTRLEN && text.find('\0') == std::string_view::npos) {
    const std::string terminated(text);
    if (::inet_pton(AF_INET, terminated.c_str(), address.bytes.data()) == 1) return address;
    address.is_v6 = true;
    if (::inet_pton(AF_INET6, terminated.c_str(), address.bytes.data()) == 1) return address;
  }
  return absl::InvalidArgumentError(
      StrCat(Quoted(text), " is no IP address; write it as 192.0.2.1 or 2001:db8::1"));
}

std::string IpPrefix::ToString() const {
  return StrCat(address.ToString(), "/", static_cast<int>(length));
}

bool IpPrefix::Contains(const IpAddress& other) const {
  if (address.is_v6 != other.is_v6) return false;
  for (int bit = 0; bit < length; ++bit) {
    const int mask = 0x80 >> (bit % 8);
    if ((address.bytes[bit / 8] & mask) != (other.bytes[bit / 8] & mask)) return false;
  }
  return true;
}

absl::StatusOr<IpPrefix> ParsePrefix(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string_view rest = slash == std::string_view::npos ? "" : text.substr(slash + 1);
  IpPrefix prefix;
  uint32_t length = 0;
  const bool number = !rest.empty() && rest.size() <= 3 &&
                      std::all_of(rest.begin(), rest.end(), absl::ascii_isdigit) &&
                      absl::SimpleAtoi(absl::string_view(rest.data(), rest.size()), &length);
  if (!number) {
    return absl::InvalidArgumentError(
        StrCat(Quoted(text), " is no address with its prefix's length; write it as 192.0.2.7/24"));
  }
  ASSIGN_OR_RETURN(prefix.address, ParseIp(text.substr(0, slash)));
  if (length > prefix.address.bits()) {
    return absl::InvalidArgumentError(StrCat(Quoted(text), " has a prefix of more than ",
                                             static_cast<int>(prefix.address.bits()), " bits"));
  }
  prefix.length = static_cast<uint8_t>(length);
  return prefix;
}

bool IsHostAddress(const IpAddress& address) {
  const auto& bytes = address.bytes;
  if (!address.is_v6) return bytes[0] != 0 && bytes[0] != 127 && bytes[0] < 224;
  const bool zeros = std::all_of(bytes.begin(), bytes.end() - 1, [](uint8_t b) { return b == 0; });
  return bytes[0] != 0xff && !(zeros && bytes[15] <= 1);
}

bool IsLinkLocal(const IpAddress& address) {
  return address.is_v6 && address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80;
}

}  // namespace ferry::net
