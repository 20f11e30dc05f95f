#pragma once

#include <chrono>
#include <cstdint>

namespace ferry {

// The host's clock, in milliseconds since 1970. For people and records, never to measure with.
inline uint64_t NowUnixMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

}  // namespace ferry
