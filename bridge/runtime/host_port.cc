#include "bridge/runtime/host_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ferry {
namespace {

// Without its port and brackets.
std::string HostOf(std::string_view address) {
  if (const absl::StatusOr<HostPort> parsed = ParseHostPort(address); parsed.ok()) {
    return parsed->host;
  }
  if (address.size() >= 2 && address.front() == '[' && address.back() == ']') {
    address = address.substr(1, address.size() - 2);
  }
  return std::string(address);
}

// As IPv6, in which IPv4 has a place of its own; nullopt if the host is a name.
std::optional<in6_addr> NumberOf(const std::string& host) {
  in6_addr number{};
  if (::inet_pton(AF_INET6, host.c_str(), &number) == 1) return number;
  in_addr v4{};
  if (::inet_pton(AF_INET, host.c_str(), &v4) != 1) return std::nullopt;
  number.s6_addr32[2] = htonl(0xffff);
  number.s6_addr32[3] = v4.s_addr;
  return number;
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(std::string_view address) {
  const auto bad = [address](const char* why) {
    return absl::InvalidArgumentError(absl::StrCat("\"", std::string(address.substr(0, 300)),
                                                   "\" is no address: ", why,
                                                   "; write host:port or [v6]:port"));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return bad("it has no port");
  std::string_view host = address.substr(0, colon);
  const std::string_view port_text = address.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return bad("a numeric IPv6 host belongs in brackets");
  }
  constexpr size_t kMaxHost = 253;
  const bool clean = std::all_of(host.begin(), host.end(), [](unsigned char c) { return c > ' '; });
  if (host.empty() || host.size() > kMaxHost || !clean)
    return bad("the host is missing or unusable");
  uint32_t port = 0;
  const bool digits =
      !port_text.empty() && port_text.size() <= 5 &&
      std::all_of(port_text.begin(), port_text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || !absl::SimpleAtoi(absl::string_view(port_text.data(), port_text.size()), &port) ||
      port > 65535) {
    return bad("the port must be a number up to 65535");
  }
  return HostPort{std::string(host), static_cast<uint16_t>(port)};
}

std::string FormatHostPort(const HostPort& address) {
  if (address.host.find(':') != std::string::npos) {
    return absl::StrCat("[", address.host, "]:", address.port);
  }
  return absl::StrCat(address.host, ":", address.port);
}

bool IsLoopback(std::string_view address) {
  const std::string host = HostOf(address);
  if (host == "localhost") return true;
  const std::optional<in6_addr> number = NumberOf(host);
  if (!number) return false;
  return IN6_IS_ADDR_LOOPBACK(&*number) ||
         (IN6_IS_ADDR_V4MAPPED(&*number) && number->s6_addr[12] == 127);
}

bool IsWildcard(std::string_view address) {
  const std::optional<in6_addr> number = NumberOf(HostOf(address));
  if (!number) return false;
  return IN6_IS_ADDR_UNSPECIFIED(&*number) ||
         (IN6_IS_ADDR_V4MAPPED(&*number) && number->s6_addr32[3] == 0);
}

}  // namespace ferry
