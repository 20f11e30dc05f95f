#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/vm.pb.h"

namespace ferry::ctl {

// "name=data,file=/images/data.qcow2,format=qcow2,ro".
absl::StatusOr<v1::DiskSpec> ParseDisk(absl::string_view text);

// "DIR", with ":ro" or ":rw" behind it.
absl::StatusOr<v1::ShareSpec> ParseShare(absl::string_view text);

}  // namespace ferry::ctl
