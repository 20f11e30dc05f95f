#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/vm.pb.h"

namespace ferry::ctl {

// "name=eth0,bridge=br0,mac=02:fe:00:00:00:01,address=192.0.2.7/24,gateway=192.0.2.1"; "user" or
// "tap=NAME" in place of the bridge, and "address=dhcp". address, gateway and dns may be repeated.
absl::StatusOr<v1::NicSpec> ParseNic(absl::string_view text);

}  // namespace ferry::ctl
