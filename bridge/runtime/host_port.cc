#include "bridge/runtime/host_port.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ferry {

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

}  // namespace ferry
