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

}  // namespace ferry
