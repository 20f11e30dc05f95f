#include "migration/service/grpc_peer_client.h"

#include <grpcpp/channel.h>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "ferry/v1/host.grpc.pb.h"
#include "ferry/v1/migration.grpc.pb.h"
#include "vmmanager/rpc/client_call.h"
#include "vmmanager/rpc/error_info.h"

namespace ferry::migration {
namespace {

constexpr milliseconds kCallLimit{30'000};
// Asked again and again, so a peer that hangs is given up early.
constexpr milliseconds kSettleLimit{5'000};

// Somebody waits for it at a terminal; hashing a guest image takes the longest.
constexpr milliseconds kPreflightLimit{10'000};

using Async = v1::MigrationService::StubInterface::async_interface;
using HostAsync = v1::HostService::StubInterface::async_interface;

class GrpcPeerClient final : public PeerClient {
 public:
  GrpcPeerClient(std::string address, std::shared_ptr<grpc::Channel> channel)
      : address_(std::move(address)),
        stub_(v1::MigrationService::NewStub(channel)),
        hosts_(v1::HostService::NewStub(std::move(channel))) {}

  Task<absl::StatusOr<v1::Host>> Host() override {
    const v1::GetHostRequest request;
    auto result = co_await rpc::CallUnary<HostAsync, v1::GetHostRequest, v1::Host>(
        hosts_->async(), &HostAsync::GetHost, request, kPreflightLimit);
    if (!result.ok()) co_return Explain(result.status());
    co_return result;
  }

  Task<absl::StatusOr<v1::PreflightResponse>> PreflightIncoming(
      v1::PreflightIncomingRequest request) override {
    auto result =
        co_await rpc::CallUnary<Async, v1::PreflightIncomingRequest, v1::PreflightResponse>(
            stub_->async(), &Async::PreflightIncoming, std::move(request), kPreflightLimit);
    if (!result.ok()) co_return Explain(result.status());
    co_return result;
  }

  Task<absl::Status> Import(v1::ImportSandboxRequest request) override {
    auto result =
        co_await rpc::CallUnary<Async, v1::ImportSandboxRequest, v1::ImportSandboxResponse>(
            stub_->async(), &Async::ImportSandbox, std::move(request), kCallLimit);
    co_return Explain(result.status());
  }

  Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(
      v1::PrepareSandboxRequest request) override {
    auto result =
        co_await rpc::CallUnary<Async, v1::PrepareSandboxRequest, v1::PrepareSandboxResponse>(
            stub_->async(), &Async::PrepareSandbox, std::move(request), kCallLimit);
    if (!result.ok()) co_return Explain(result.status());
    co_return result;
  }

  Task<absl::Status> Transfer(v1::TransferSandboxRequest request) override {
    auto result =
        co_await rpc::CallUnary<Async, v1::TransferSandboxRequest, v1::TransferSandboxResponse>(
            stub_->async(), &Async::TransferSandbox, std::move(request), kCallLimit);
    co_return Explain(result.status());
  }

  Task<absl::StatusOr<v1::SettleSessionResponse>> Settle(
      v1::SettleSessionRequest request) override {
    auto result =
        co_await rpc::CallUnary<Async, v1::SettleSessionRequest, v1::SettleSessionResponse>(
            stub_->async(), &Async::SettleSession, std::move(request), kSettleLimit);
    if (!result.ok()) co_return Explain(result.status());
    co_return result;
  }

  Task<absl::Status> Cancel(v1::CancelRequest request) override {
    auto result = co_await rpc::CallUnary<Async, v1::CancelRequest, v1::CancelResponse>(
        stub_->async(), &Async::Cancel, std::move(request), kCallLimit);
    co_return Explain(result.status());
  }

  Task<absl::Status> Cleanup(v1::CleanupRequest request) override {
    auto result = co_await rpc::CallUnary<Async, v1::CleanupRequest, v1::CleanupResponse>(
        stub_->async(), &Async::Cleanup, std::move(request), kCallLimit);
    co_return Explain(result.status());
  }

 private:
  // Says which host it was; an unreachable one gets the fix.
  absl::Status Explain(const absl::Status& status) const {
    if (status.ok()) return status;
    if (absl::IsUnavailable(status) && !rpc::GetErrorInfo(status).has_value()) {
      return rpc::ErrorWithReason(
          absl::StatusCode::kUnavailable,
          absl::StrCat("the destination ", address_, " cannot be reached: ", status.message()),
          "destination_unreachable", "check that ferryd runs there and that the address is right");
    }
    absl::Status explained(status.code(), absl::StrCat(address_, ": ", status.message()));
    if (auto info = rpc::GetErrorInfo(status)) explained = rpc::WithErrorInfo(explained, *info);
    return explained;
  }

  const std::string address_;
  const std::unique_ptr<v1::MigrationService::Stub> stub_;
  const std::unique_ptr<v1::HostService::Stub> hosts_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<PeerClient>> MakeGrpcPeerClient(const std::string& address,
                                                               const rpc::TlsFiles& tls) {
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, rpc::MakeChannel(address, tls));
  return std::make_shared<GrpcPeerClient>(address, std::move(channel));
}

}  // namespace ferry::migration
