#include "migration/service/grpc_peer_client.h"

#include <grpcpp/channel.h>

#include <functional>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "ferry/v1/host.grpc.pb.h"
#include "ferry/v1/migration.grpc.pb.h"
#include "vmmanager/rpc/channel.h"
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
  GrpcPeerClient(std::string address, std::shared_ptr<identity::CertificateFiles> files)
      : address_(std::move(address)), files_(std::move(files)) {}

  // INVALID_ARGUMENT if the address is none.
  absl::Status Open() { return Current().status(); }

  Task<absl::StatusOr<v1::Host>> Host() override {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<const Way> way, Current());
    const v1::GetHostRequest request;
    auto result = co_await rpc::CallUnary<HostAsync, v1::GetHostRequest, v1::Host>(
        way->hosts->async(), &HostAsync::GetHost, request, kPreflightLimit);
    if (!result.ok()) co_return Explain(result.status());
    co_return result;
  }

  Task<absl::StatusOr<v1::PreflightResponse>> PreflightIncoming(
      v1::PreflightIncomingRequest request) override {
    return Call(&Async::PreflightIncoming, std::move(request), kPreflightLimit);
  }
  Task<absl::StatusOr<v1::ImportSandboxResponse>> Import(
      v1::ImportSandboxRequest request) override {
    return Call(&Async::ImportSandbox, std::move(request), kCallLimit);
  }
  Task<absl::StatusOr<v1::BindContainerResponse>> Bind(v1::BindContainerRequest request) override {
    return Call(&Async::BindContainer, std::move(request), kCallLimit);
  }
  Task<absl::StatusOr<v1::ReceiveLayersResponse>> ReceiveLayers(
      v1::ReceiveLayersRequest request) override {
    return Call(&Async::ReceiveLayers, std::move(request), kCallLimit);
  }
  Task<absl::StatusOr<v1::PrepareSandboxResponse>> Prepare(
      v1::PrepareSandboxRequest request) override {
    return Call(&Async::PrepareSandbox, std::move(request), kCallLimit);
  }
  Task<absl::StatusOr<v1::ReceiveDisksResponse>> ReceiveDisks(
      v1::ReceiveDisksRequest request) override {
    return Call(&Async::ReceiveDisks, std::move(request), kCallLimit);
  }
  Task<absl::Status> Transfer(v1::TransferSandboxRequest request) override {
    co_return (co_await Call(&Async::TransferSandbox, std::move(request), kCallLimit)).status();
  }
  Task<absl::StatusOr<v1::SettleSessionResponse>> Settle(
      v1::SettleSessionRequest request) override {
    return Call(&Async::SettleSession, std::move(request), kSettleLimit);
  }
  Task<absl::StatusOr<v1::RecoverSessionResponse>> Recover(
      v1::RecoverSessionRequest request) override {
    return Call(&Async::RecoverSession, std::move(request), kSettleLimit);
  }
  Task<absl::Status> Cancel(v1::CancelRequest request) override {
    co_return (co_await Call(&Async::Cancel, std::move(request), kCallLimit)).status();
  }
  Task<absl::Status> Cleanup(v1::CleanupRequest request) override {
    co_return (co_await Call(&Async::Cleanup, std::move(request), kCallLimit)).status();
  }

 private:
  // A channel shows the certificates that it was made with for as long as it lives.
  struct Way {
    std::shared_ptr<const identity::Credentials> credentials;
    std::unique_ptr<v1::MigrationService::Stub> sessions;
    std::unique_ptr<v1::HostService::Stub> hosts;
  };

  // Made anew when the certificates were.
  absl::StatusOr<std::shared_ptr<const Way>> Current() {
    std::shared_ptr<const identity::Credentials> now;
    if (files_ != nullptr) now = files_->Current();
    if (way_ != nullptr && way_->credentials == now) return way_;
    ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, rpc::MakeChannelWith(address_, now));
    auto way = std::make_shared<Way>();
    way->credentials = std::move(now);
    way->sessions = v1::MigrationService::NewStub(channel);
    way->hosts = v1::HostService::NewStub(std::move(channel));
    way_ = std::move(way);
    return way_;
  }

  template <typename Request, typename Response>
  Task<absl::StatusOr<Response>> Call(void (Async::*method)(grpc::ClientContext*, const Request*,
                                                            Response*,
                                                            std::function<void(grpc::Status)>),
                                      std::type_identity_t<Request> request, milliseconds limit) {
    CO_ASSIGN_OR_RETURN(const std::shared_ptr<const Way> way, Current());
    auto result = co_await rpc::CallUnary<Async, Request, Response>(way->sessions->async(), method,
                                                                    std::move(request), limit);
    if (!result.ok()) co_return Explain(result.status());
    co_return result;
  }

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
  const std::shared_ptr<identity::CertificateFiles> files_;
  std::shared_ptr<const Way> way_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<PeerClient>> MakeGrpcPeerClient(
    const std::string& address, std::shared_ptr<identity::CertificateFiles> files) {
  auto client = std::make_shared<GrpcPeerClient>(address, std::move(files));
  RETURN_IF_ERROR(client->Open());
  return client;
}

}  // namespace ferry::migration
