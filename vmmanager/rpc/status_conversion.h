#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

// The one place where Ferry's statuses become gRPC's and back. Payloads travel as the details of a
// rich status (google.rpc.Status), one Any for each.
namespace ferry::rpc {

grpc::Status ToGrpcStatus(const absl::Status& status);

// Details that cannot be read are dropped; code and text always survive.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace ferry::rpc
