#pragma once

#include <cstdint>
#include <string>

// What the host and the guest must agree on about the folders that a VM shares with its host.
namespace ferry::vm {

inline constexpr uint32_t kMaxShares = 8;

// By which the guest finds the folder's device; at most 36 bytes.
inline std::string ShareTag(const std::string& number) { return "ferry-share-" + number; }

}  // namespace ferry::vm
