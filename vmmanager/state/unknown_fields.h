#pragma once

#include <google/protobuf/message.h>

#include "absl/status/status.h"

namespace ferry::vm {

// Fields from here on may be ignored by a reader that does not know them.
inline constexpr int kFirstOptionalField = 1000;

// FAILED_PRECONDITION naming the message and the number if `message` or anything in it holds an
// unknown field below kFirstOptionalField.
absl::Status RefuseUnknownCritical(const google::protobuf::Message& message);

}  // namespace ferry::vm
