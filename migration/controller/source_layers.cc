// What the VM's containers consist of goes to a destination that lacks it, before the VM does.
#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"
#include "bridge/runtime/str_cat.h"
#include "migration/controller/source_session.h"
#include "migration/layers/layer_sender.h"

namespace ferry::migration {

Task<absl::Status> SourceSession::SendLayers(v1::SendLayersRequest request) {
  auto keep = self();
  if (info_.state() != v1::SESSION_STATE_SOURCE_EXPORTED || deps_.exports == nullptr) {
    co_return absl::FailedPreconditionError(
        StrCat("session ", id(), " sends no layers while it is ", ToString(info_.state())));
  }
  if (layers_ != nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("session ", id(), " is sending layers already"));
  }
  std::vector<LayerFile> files;
  for (const std::string& digest : request.layers()) {
    CO_ASSIGN_OR_RETURN(vm::ContainerExports::Layer layer, deps_.exports->FindLayer(digest));
    files.push_back({{digest, layer.bytes}, std::move(layer.path)});
  }
  CO_ASSIGN_OR_RETURN(std::string path, MakeSocketPath("l"));
  auto connection = co_await DialDestination(request.session_address(), request.session_token());
  if (!connection.ok()) co_return connection.status();
  if (info_.state() != v1::SESSION_STATE_SOURCE_EXPORTED) {
    co_return absl::CancelledError("the session ended before its layers were sent");
  }
  layers_ = *connection;
  const auto begun = Clock::now();
  LayerSender sender(deps_.executor(), layers_);
  absl::Status sent = co_await sender.Send(std::move(files), std::move(path), nullptr);
  if (trace_) trace_->Span(SessionTrace::Row::kSession, "layers", begun, Clock::now());
  layers_->Close();
  layers_.reset();
  if (sent.ok()) Touch();
  co_return AtDestination(std::move(sent));
}

}  // namespace ferry::migration
