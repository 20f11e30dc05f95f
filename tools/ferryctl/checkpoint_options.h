#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/checkpoint.pb.h"

// What people say of a checkpoint's disks.
namespace ferry::ctl {

// "root", "root,snapshot=no" or "root,snapshot=external,file=/images/root-2.qcow2".
absl::StatusOr<v1::CheckpointDiskWish> ParseDiskWish(absl::string_view text);

// The same of several, of which no two may be of one disk.
absl::StatusOr<std::vector<v1::CheckpointDiskWish>> ParseDiskWishes(
    const std::vector<std::string>& texts);

}  // namespace ferry::ctl
