#pragma once

#include <cstdint>

namespace ferry::vm {

// How many network cards a machine may have. They are numbered from 0.
inline constexpr uint32_t kMaxAdapters = 6;

}  // namespace ferry::vm
