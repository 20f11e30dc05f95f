#include "vmmanager/fence/fence.h"

#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {

absl::Status FenceHeld(absl::string_view message, absl::string_view next_step) {
  return rpc::ErrorWithReason(absl::StatusCode::kFailedPrecondition, message, kFenceHeld,
                              next_step);
}

}  // namespace ferry::vm
