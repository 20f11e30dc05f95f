#pragma once

#include <functional>
#include <memory>

#include "migration/controller/peer_client.h"
#include "migration/controller/session_registry.h"
#include "vmmanager/backend/fake_backend.h"

namespace ferry::migration {

// Leads straight to another host's sessions in the same process. Each call passes the script twice:
// under its name before it takes effect, and as "<name> answer" after it.
class FakePeerClient final : public PeerClient {
 public:
  using OnPrepared = std::function<void(v1::PrepareSandboxResponse&)>;
  using OnHost = std::function<v1::Host()>;
  using OnPreflight =
      std::function<Task<absl::StatusOr<v1::PreflightResponse>>(v1::PreflightIncomingRequest)>;

  FakePeerClient(SessionRegistry& peer, std::shared_ptr<vm::FakeScript> script,
                 OnPrepared on_prepared)
      : peer_(peer), script_(std::move(script)), on_prepared_(std::move(on_prepared)) {}

  Task<absl::StatusOr<v1::Host>> Host() override;
  Task<absl::StatusOr<v1::PreflightResponse>> PreflightIncoming(
      v1::PreflightIncomingRequest request) override;
  Task<absl::StatusOr<v1::ImportSandboxResponse>> Import(v1::ImportSandboxRequest request) override;
  Task<absl::StatusOr<v1::BindContainerResponse>> Bind(v1::BindContainerRequest request) override;
  Task<absl::StatusOr<v1::ReceiveLayersResponse>> ReceiveLayers(
      v1::ReceiveLayersRequest request) override;
  Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(
      v1::PrepareSandboxRequest request) override;
  Task<absl::StatusOr<v1::ReceiveDisksResponse>> ReceiveDisks(
      v1::ReceiveDisksRequest request) override;
  Task<absl::Status> Transfer(v1::TransferSandboxRequest request) override;
  Task<absl::StatusOr<v1::SettleSessionResponse>> Settle(v1::SettleSessionRequest request) override;
  Task<absl::StatusOr<v1::RecoverSessionResponse>> Recover(
      v1::RecoverSessionRequest request) override;
  Task<absl::Status> Cancel(v1::CancelRequest request) override;
  Task<absl::Status> Cleanup(v1::CleanupRequest request) override;

  // What the other host answers before a migration; without them it does not know such calls.
  OnHost on_host;
  OnPreflight on_preflight;

 private:
  SessionRegistry& peer_;
  std::shared_ptr<vm::FakeScript> script_;
  OnPrepared on_prepared_;
};

}  // namespace ferry::migration
