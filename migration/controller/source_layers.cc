// What the VM's containers consist of goes to a destination that lacks it, before the VM does.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "migration/controller/source_session.h"
#include "migration/layers/layer_sender.h"
#include "vmmanager/state/saved_state.h"

namespace ferry::migration {
namespace {

bool HasLayer(const vm::PlanState& plan, const std::string& digest) {
  const auto& containers = plan.vm.containers();
  return std::any_of(containers.begin(), containers.end(), [&](const auto& container) {
    const auto& layers = container.layers();
    return std::any_of(layers.begin(), layers.end(),
                       [&](const auto& layer) { return layer.digest() == digest; });
  });
}

}  // namespace

absl::StatusOr<std::vector<LayerFile>> SourceSession::FindLayers(
    const v1::SendLayersRequest& request) const {
  ASSIGN_OR_RETURN(const vm::PlanState plan, vm::DecodePlan(sealed_plan_));
  std::vector<LayerFile> files;
  for (const std::string& digest : request.layers()) {
    if (!HasLayer(plan, digest)) {
      return absl::InvalidArgumentError(
          absl::StrCat("no container of VM ", info_.vm_name(), " has the layer ", digest));
    }
    ASSIGN_OR_RETURN(vm::ContainerExports::Layer layer, deps_.exports->FindLayer(digest));
    files.push_back({{digest, layer.bytes}, std::move(layer.path)});
  }
  return files;
}

Task<absl::Status> SourceSession::SendLayers(v1::SendLayersRequest request) {
  auto keep = self();
  if (info_.state() != v1::SESSION_STATE_SOURCE_EXPORTED || deps_.exports == nullptr) {
    co_return absl::FailedPreconditionError(
        StrCat("session ", id(), " sends no layers while it is ", ToString(info_.state())));
  }
  if (sends_layers_) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " is sending layers already"));
  }
  CO_ASSIGN_OR_RETURN(std::vector<LayerFile> files, FindLayers(request));
  CO_ASSIGN_OR_RETURN(std::string path, MakeLayerSocketPath());
  sends_layers_ = true;
  absl::Status sent = co_await SendOver(std::move(request), std::move(files), std::move(path));
  sends_layers_ = false;
  Touch();  // that took its time
  if (sent.ok() && end_reason().has_value()) {
    co_return absl::CancelledError("the session ended while its layers were sent");
  }
  co_return sent;
}

Task<absl::Status> SourceSession::SendOver(v1::SendLayersRequest request,
                                           std::vector<LayerFile> files, std::string socket_path) {
  auto dialled = co_await DialDestination(id(), request.session_address(), request.session_token());
  if (!dialled.ok()) co_return dialled.status();
  const std::shared_ptr<SessionConnection> connection = *std::move(dialled);
  if (info_.state() != v1::SESSION_STATE_SOURCE_EXPORTED) {
    co_return absl::CancelledError("the session ended before its layers were sent");
  }
  connection->set_rate_limit(options_.max_bandwidth.value_or(0));
  layers_ = connection;
  const auto begun = Clock::now();
  LayerSender sender(deps_.executor(), connection, limits_.stall);
  absl::Status sent = co_await sender.Send(std::move(files), std::move(socket_path), nullptr);
  if (trace_) trace_->Span(SessionTrace::Row::kSession, "layers", begun, Clock::now());
  connection->Close();
  layers_.reset();
  co_return AtDestination(std::move(sent));
}

}  // namespace ferry::migration
