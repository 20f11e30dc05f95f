#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferry::vm {

// Sizes that a container's scratch disk may have, in bytes, and the usual one.
inline constexpr uint64_t kMinScratchDisk = uint64_t{16} << 20;
inline constexpr uint64_t kMaxScratchDisk = uint64_t{8} << 40;
inline constexpr uint64_t kDefaultScratchDisk = uint64_t{10} << 30;

// INVALID_ARGUMENT unless it is whole MiB within these bounds.
absl::Status CheckScratchSize(uint64_t size);

// The bytes of a qcow2 file (version 3, clusters of 64 KiB) of a disk of so many bytes on which
// nothing was written. Some 200 KiB, or with the largest disk twice that.
std::string EmptyQcow2(uint64_t size);

// How much of a file CheckStandsAlone() wants to see.
inline constexpr size_t kQcow2Header = 104;
// FAILED_PRECONDITION unless `start` begins a qcow2 file all of whose data are in it: one that
// names another file would open that to its guest.
absl::Status CheckStandsAlone(std::string_view start);
// How many bytes the disk has whose file begins so, and stands alone.
uint64_t DiskBytesIn(std::string_view start);

}  // namespace ferry::vm
