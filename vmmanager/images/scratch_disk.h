#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "vmmanager/images/image_store.h"
#include "vmmanager/images/tool_runner.h"

namespace ferry::vm {

// Sizes that a scratch disk may have, in bytes.
inline constexpr uint64_t kMinScratch = uint64_t{16} << 20;
inline constexpr uint64_t kMaxScratch = uint64_t{8} << 40;  // of ext4 a file may be 16 TiB

// Makes the file `path`, which must not exist, a qcow2 disk with an empty ext4 file system of so
// many bytes, a multiple of 1 MiB. It takes little space before it is written to. It must be on the
// store's file system, and belongs to `user`, or to us if there is none. INVALID_ARGUMENT for
// another size, ALREADY_EXISTS, FAILED_PRECONDITION if mkfs.ext4 or qemu-img is missing.
Task<absl::Status> MakeScratchDisk(ImageStore& store, ToolRunner& runner, std::string path,
                                   uint64_t size, std::optional<ProcessUser> user);

}  // namespace ferry::vm
