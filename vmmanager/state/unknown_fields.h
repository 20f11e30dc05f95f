#pragma once

#include <google/protobuf/message.h>

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace ferry::vm {

// Fields from here on may be ignored by a reader that does not know them.
inline constexpr int kFirstOptionalField = 1000;

struct UnknownField {
  std::string message;  // that has it, by its full name
  int number = 0;
};

// The first unknown field below kFirstOptionalField in `message` or in anything in it.
std::optional<UnknownField> FindUnknownCritical(const google::protobuf::Message& message);

// FAILED_PRECONDITION naming the message and the number if `message` or anything in it holds an
// unknown field below kFirstOptionalField.
absl::Status RefuseUnknownCritical(const google::protobuf::Message& message);

}  // namespace ferry::vm
