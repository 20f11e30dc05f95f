#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"
#include "ferry/v1/host.pb.h"
#include "ferry/v1/migration.pb.h"

namespace ferry::migration {

// The other host's daemon, as a source needs it.
class PeerClient {
 public:
  virtual ~PeerClient() = default;
  virtual Task<absl::StatusOr<v1::Host>> Host() = 0;
  virtual Task<absl::StatusOr<v1::PreflightResponse>> PreflightIncoming(
      v1::PreflightIncomingRequest request) = 0;
  virtual Task<absl::StatusOr<v1::ImportSandboxResponse>> Import(
      v1::ImportSandboxRequest request) = 0;
  virtual Task<absl::StatusOr<v1::BindContainerResponse>> Bind(
      v1::BindContainerRequest request) = 0;
  virtual Task<absl::StatusOr<v1::ReceiveLayersResponse>> ReceiveLayers(
      v1::ReceiveLayersRequest request) = 0;
  virtual Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(
      v1::PrepareSandboxRequest request) = 0;
  virtual Task<absl::StatusOr<v1::ReceiveDisksResponse>> ReceiveDisks(
      v1::ReceiveDisksRequest request) = 0;
  virtual Task<absl::Status> Transfer(v1::TransferSandboxRequest request) = 0;
  virtual Task<absl::StatusOr<v1::SettleSessionResponse>> Settle(
      v1::SettleSessionRequest request) = 0;
  virtual Task<absl::StatusOr<v1::RecoverSessionResponse>> Recover(
      v1::RecoverSessionRequest request) = 0;
  virtual Task<absl::Status> Cancel(v1::CancelRequest request) = 0;
  virtual Task<absl::Status> Cleanup(v1::CleanupRequest request) = 0;
};

// Makes a client for a daemon's address; INVALID_ARGUMENT if it is no address.
using PeerFactory =
    std::function<absl::StatusOr<std::shared_ptr<PeerClient>>(const std::string& address)>;

}  // namespace ferry::migration
