#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "vmmanager/identity/certificate_files.h"
#include "vmmanager/rpc/audit_log.h"

namespace ferry::rpc {

// Mutual TLS 1.3 whose files may be replaced at any time: each handshake uses what they hold then.
// Calls that the caller's roles do not permit (see authorization.h) are refused before any handler
// sees them, and written to `audit` (may be nullptr), which must outlive the server.
std::shared_ptr<grpc::ServerCredentials> MakeTlsServerCredentials(
    std::shared_ptr<identity::CertificateFiles> files, AuditLog* audit);

}  // namespace ferry::rpc
