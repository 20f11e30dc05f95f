#include "migration/controller/fake_peer_client.h"

#include <utility>

#include "bridge/runtime/status_macros.h"

namespace ferry::migration {

Task<absl::StatusOr<v1::Host>> FakePeerClient::Host() {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Host"));
  if (!on_host) co_return absl::UnimplementedError("no such call");
  co_return on_host();
}

Task<absl::StatusOr<v1::PreflightResponse>> FakePeerClient::PreflightIncoming(
    v1::PreflightIncomingRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("PreflightIncoming"));
  if (!on_preflight) co_return absl::UnimplementedError("no such call");
  co_return co_await on_preflight(std::move(request));
}

Task<absl::StatusOr<v1::ImportSandboxResponse>> FakePeerClient::Import(
    v1::ImportSandboxRequest request) {
  const std::string id = request.session_id();
  CO_RETURN_IF_ERROR(co_await script_->Pass("Import"));
  CO_RETURN_IF_ERROR(co_await peer_.Import(std::move(request)));
  v1::ImportSandboxResponse response;
  for (auto& container : peer_.Incoming(id)) *response.add_containers() = std::move(container);
  for (auto& disk : peer_.IncomingDisks(id)) *response.add_disks() = std::move(disk);
  CO_RETURN_IF_ERROR(co_await script_->Pass("Import answer"));
  co_return response;
}

Task<absl::StatusOr<v1::BindContainerResponse>> FakePeerClient::Bind(
    v1::BindContainerRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Bind"));
  co_return co_await peer_.Bind(std::move(request));
}

Task<absl::StatusOr<v1::ReceiveLayersResponse>> FakePeerClient::ReceiveLayers(
    v1::ReceiveLayersRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ReceiveLayers"));
  co_return co_await peer_.ReceiveLayers(std::move(request));
}

Task<absl::StatusOr<v1::PrepareSandboxResponse>> FakePeerClient::Prepare(
    v1::PrepareSandboxRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Prepare"));
  auto response = co_await peer_.Prepare(std::move(request));
  if (!response.ok()) co_return response.status();
  CO_RETURN_IF_ERROR(co_await script_->Pass("Prepare answer"));
  if (on_prepared_) on_prepared_(*response);
  co_return response;
}

Task<absl::StatusOr<v1::ReceiveDisksResponse>> FakePeerClient::ReceiveDisks(
    v1::ReceiveDisksRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("ReceiveDisks"));
  co_return co_await peer_.ReceiveDisks(std::move(request));
}

Task<absl::Status> FakePeerClient::Transfer(v1::TransferSandboxRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Transfer"));
  auto session = peer_.Find(request.session_id());
  if (!session.ok()) co_return session.status();
  CO_RETURN_IF_ERROR(co_await (*session)->Transfer(std::move(request)));
  co_return co_await script_->Pass("Transfer answer");
}

Task<absl::StatusOr<v1::SettleSessionResponse>> FakePeerClient::Settle(
    v1::SettleSessionRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Settle"));
  std::string unnamed;
  auto response = co_await peer_.Settle(std::move(request), std::move(unnamed), MayForce::kYes);
  if (!response.ok()) co_return response.status();
  CO_RETURN_IF_ERROR(co_await script_->Pass("Settle answer"));
  co_return response;
}

Task<absl::StatusOr<v1::RecoverSessionResponse>> FakePeerClient::Recover(
    v1::RecoverSessionRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Recover"));
  co_return co_await peer_.RecoverSession(std::move(request));
}

Task<absl::Status> FakePeerClient::Cancel(v1::CancelRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Cancel"));
  auto session = peer_.Find(request.session_id());
  if (!session.ok()) co_return session.status();
  std::string reason = "cancelled by the source";
  CO_RETURN_IF_ERROR(co_await (*session)->Cancel(std::move(reason)));
  co_return co_await script_->Pass("Cancel answer");
}

Task<absl::Status> FakePeerClient::Cleanup(v1::CleanupRequest request) {
  CO_RETURN_IF_ERROR(co_await script_->Pass("Cleanup"));
  CO_RETURN_IF_ERROR(co_await peer_.Cleanup(request.session_id()));
  co_return co_await script_->Pass("Cleanup answer");
}

}  // namespace ferry::migration
