#pragma once

#include <string>

#include "vmmanager/rpc/error_info.h"

namespace ferry::vm {

// What the error tells a person to do; empty if nothing.
inline std::string NextStepOf(const absl::Status& status) {
  return rpc::GetErrorInfo(status).value_or(v1::ErrorInfo()).next_step();
}

}  // namespace ferry::vm
