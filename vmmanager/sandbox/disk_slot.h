#pragma once

#include <cstdint>

namespace ferry::vm {

// Where a disk is in its machine.
struct DiskSlot {
  uint32_t controller = 0;
  uint32_t lun = 0;
  bool operator==(const DiskSlot&) const = default;
};

}  // namespace ferry::vm
