#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "ferry/v1/error.pb.h"

// The typed payload that every error of Ferry's API carries: what a person or a program needs
// beyond the code and the text.
namespace ferry::rpc {

inline constexpr char kErrorInfoTypeUrl[] = "type.googleapis.com/ferry.v1.ErrorInfo";

// `status` with `info` as its payload (an older one is replaced). An OK status stays as it is.
absl::Status WithErrorInfo(absl::Status status, const v1::ErrorInfo& info);

// The payload of `status`, if it has a readable one.
std::optional<v1::ErrorInfo> GetErrorInfo(const absl::Status& status);

// For the common case: a reason for machines and a next step for people.
absl::Status ErrorWithReason(absl::StatusCode code, absl::string_view message,
                             absl::string_view reason, absl::string_view next_step = "");

// The same error in other words: what it carries stays.
absl::Status Reworded(const absl::Status& status, absl::StatusCode code, absl::string_view message);

// The VM is another host's since a moment ago: what was asked for is to be asked for there.
absl::Status ErrorOfMove(absl::StatusCode code, absl::string_view message,
                         absl::string_view destination);
// Where the VM went, if that is what the error says; else empty.
std::string MovedTo(const absl::Status& status);

// The error's reason or, where it has none, its code in lower case ("deadline_exceeded").
std::string ReasonOf(const absl::Status& status);
// What to do about it; empty if the error does not say.
std::string NextStepOf(const absl::Status& status);

}  // namespace ferry::rpc
