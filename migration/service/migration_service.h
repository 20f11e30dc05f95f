#pragma once

#include "ferry/v1/migration.grpc.pb.h"
#include "migration/controller/session_registry.h"
#include "migration/preflight/preflight.h"
#include "vmmanager/rpc/caller.h"

namespace ferry::migration {

// ferry.v1.MigrationService over the host's sessions: translates, and posts to the executor.
class MigrationService final : public v1::MigrationService::CallbackService {
 public:
  MigrationService(SessionRegistry& sessions, migration::Preflight& preflight, Executor executor)
      : sessions_(sessions), preflight_(preflight), executor_(std::move(executor)) {}

  grpc::ServerUnaryReactor* Migrate(grpc::CallbackServerContext*, const v1::MigrateRequest*,
                                    v1::Session*) override;
  grpc::ServerUnaryReactor* PrepareAndExportSandbox(grpc::CallbackServerContext*,
                                                    const v1::PrepareAndExportSandboxRequest*,
                                                    v1::PrepareAndExportSandboxResponse*) override;
  grpc::ServerUnaryReactor* ImportSandbox(grpc::CallbackServerContext*,
                                          const v1::ImportSandboxRequest*,
                                          v1::ImportSandboxResponse*) override;
  grpc::ServerUnaryReactor* BindContainer(grpc::CallbackServerContext* context,
                                          const v1::BindContainerRequest* request,
                                          v1::BindContainerResponse* response) override;
  grpc::ServerUnaryReactor* ReceiveLayers(grpc::CallbackServerContext* context,
                                          const v1::ReceiveLayersRequest* request,
                                          v1::ReceiveLayersResponse* response) override;
  grpc::ServerUnaryReactor* SendLayers(grpc::CallbackServerContext* context,
                                       const v1::SendLayersRequest* request,
                                       v1::SendLayersResponse* response) override;
  grpc::ServerUnaryReactor* PrepareSandbox(grpc::CallbackServerContext*,
                                           const v1::PrepareSandboxRequest*,
                                           v1::PrepareSandboxResponse*) override;
  grpc::ServerUnaryReactor* ReceiveDisks(grpc::CallbackServerContext* context,
                                         const v1::ReceiveDisksRequest* request,
                                         v1::ReceiveDisksResponse* response) override;
  grpc::ServerUnaryReactor* SendDisks(grpc::CallbackServerContext* context,
                                      const v1::SendDisksRequest* request,
                                      v1::SendDisksResponse* response) override;
  grpc::ServerUnaryReactor* TransferSandbox(grpc::CallbackServerContext*,
                                            const v1::TransferSandboxRequest*,
                                            v1::TransferSandboxResponse*) override;
  grpc::ServerUnaryReactor* FinalizeSandbox(grpc::CallbackServerContext*,
                                            const v1::FinalizeSandboxRequest*,
                                            v1::FinalizeSandboxResponse*) override;
  grpc::ServerWriteReactor<v1::NotificationsResponse>* Notifications(
      grpc::CallbackServerContext*, const v1::NotificationsRequest*) override;
  grpc::ServerUnaryReactor* CreateDuplicateSocket(grpc::CallbackServerContext*,
                                                  const v1::CreateDuplicateSocketRequest*,
                                                  v1::CreateDuplicateSocketResponse*) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext*, const v1::CancelRequest*,
                                   v1::CancelResponse*) override;
  grpc::ServerUnaryReactor* Cleanup(grpc::CallbackServerContext*, const v1::CleanupRequest*,
                                    v1::CleanupResponse*) override;
  grpc::ServerUnaryReactor* SettleSession(grpc::CallbackServerContext* context,
                                          const v1::SettleSessionRequest* request,
                                          v1::SettleSessionResponse* response) override;
  grpc::ServerUnaryReactor* GetTrace(grpc::CallbackServerContext*, const v1::GetTraceRequest*,
                                     v1::GetTraceResponse*) override;
  grpc::ServerUnaryReactor* Preflight(grpc::CallbackServerContext*, const v1::PreflightRequest*,
                                      v1::PreflightResponse*) override;
  grpc::ServerUnaryReactor* PreflightIncoming(grpc::CallbackServerContext*,
                                              const v1::PreflightIncomingRequest*,
                                              v1::PreflightResponse*) override;
  grpc::ServerUnaryReactor* RecoverSession(grpc::CallbackServerContext*,
                                           const v1::RecoverSessionRequest*,
                                           v1::RecoverSessionResponse*) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext*, const v1::GetSessionRequest*,
                                       v1::Session*) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext*,
                                         const v1::ListSessionsRequest*,
                                         v1::ListSessionsResponse*) override;

 private:
  // Whom a session must belong to for a daemon of another host to speak of it.
  enum class Bound {
    kToCaller,      // the caller's own only
    kToNobodyElse,  // or one of which no host has shown itself yet
  };
  // PERMISSION_DENIED if a daemon speaks of another host's session. People may speak of all.
  Task<absl::Status> CheckPeer(rpc::Caller caller, std::string session_id, Bound bound);

  SessionRegistry& sessions_;
  migration::Preflight& preflight_;
  const Executor executor_;
};

}  // namespace ferry::migration
