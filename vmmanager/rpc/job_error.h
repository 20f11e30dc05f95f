#pragma once

#include "absl/status/status.h"
#include "ferry/v1/job.pb.h"

// The status that a job ended with, as its record keeps it.
namespace ferry::rpc {

// Of an OK status: an empty one.
v1::JobError ToJobError(const absl::Status& status);

// With its ErrorInfo. An unknown code becomes UNKNOWN.
absl::Status FromJobError(const v1::JobError& error);

}  // namespace ferry::rpc
