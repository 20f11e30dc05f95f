#pragma once

#include <google/protobuf/any.pb.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "vmmanager/state/saved_state.h"
#include "vmmanager/state/unknown_fields.h"

namespace ferry::vm {

// Parses and checks version and unknown fields of any of the payload messages.
template <typename Payload>
absl::Status ParsePayload(std::string_view bytes, Payload& payload) {
  const std::string& name = Payload::descriptor()->full_name();
  if (!payload.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError(StrCat("the saved state's ", name, " cannot be parsed"));
  }
  RETURN_IF_ERROR(RefuseUnknownCritical(payload));
  if (payload.schema_version() != kStateSchemaVersion) {
    return absl::FailedPreconditionError(StrCat("the saved state's ", name, " has version ",
                                                payload.schema_version(), "; this ferryd knows ",
                                                kStateSchemaVersion,
                                                "; bring both hosts to neighbouring releases"));
  }
  return absl::OkStatus();
}

template <typename Payload>
absl::Status UnpackPayload(const google::protobuf::Any& any, Payload& payload) {
  const std::string& name = Payload::descriptor()->full_name();
  if (any.type_url() != StrCat("type.googleapis.com/", name)) {
    return absl::InvalidArgumentError(
        StrCat("the saved state should hold a ", name, " but names \"", any.type_url(), "\""));
  }
  return ParsePayload(any.value(), payload);
}

}  // namespace ferry::vm
