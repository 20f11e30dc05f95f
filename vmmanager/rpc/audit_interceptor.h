#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "vmmanager/rpc/audit_log.h"

namespace ferry::rpc {

// Writes every call that changes state to the log, when it is known what it is about and when it
// ends, and every one that was refused for want of a permission. The log must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAuditInterceptors(
    AuditLog* log);

// "VmService/StopVm" of "/ferry.v1.VmService/StopVm"; of a method that is not listed "unlisted "
// and its beginning, escaped.
std::string LoggedMethod(absl::string_view method);

}  // namespace ferry::rpc
