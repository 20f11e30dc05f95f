#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace ferry {

struct HostPort {
  std::string host;
  uint16_t port = 0;
};

// "host:port", "1.2.3.4:port" or "[v6]:port".
absl::StatusOr<HostPort> ParseHostPort(std::string_view address);

std::string FormatHostPort(const HostPort& address);

// Of an address with or without a port. Names other than "localhost" are not looked up.
bool IsLoopback(std::string_view address);
// Whether it stands for all addresses of a host: good for listening, but not for dialling.
bool IsWildcard(std::string_view address);

}  // namespace ferry
