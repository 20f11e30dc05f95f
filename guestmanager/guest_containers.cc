#include "guestmanager/guest_containers.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bridge/protocol/messages.h"
#include "bridge/protocol/run_failure.h"
#include "bridge/runtime/status_macros.h"

namespace ferry::guest {
namespace {

absl::StatusCode CodeOf(uint32_t hresult) {
  switch (hresult) {
    case bridge::kHresultContainerNotFound:
    case bridge::kHresultProcessNotFound:
      return absl::StatusCode::kNotFound;
    case bridge::kHresultAlreadyExists:
      return absl::StatusCode::kAlreadyExists;
    case bridge::kHresultInvalidState:
    case bridge::kHresultAlreadyStopped:
      return absl::StatusCode::kFailedPrecondition;
    case bridge::kHresultInvalidArgument:
    case bridge::kHresultBadJson:
      return absl::StatusCode::kInvalidArgument;
    case bridge::kHresultNotImplemented:
    case bridge::kHresultUnknownMessage:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kUnknown;
  }
}

// An agent of the former release has no number for it.
std::optional<bridge::RunFailure> WhyNotRun(uint32_t hresult, std::string_view message) {
  if (const auto failure = bridge::RunFailureOf(hresult)) return failure;
  if (message.substr(0, bridge::kWordsOfCrun.size()) != bridge::kWordsOfCrun) return std::nullopt;
  return bridge::RunFailureInWordsOfCrun(message.substr(bridge::kWordsOfCrun.size()));
}

constexpr char kVm[] = "";

}  // namespace

absl::Status FromAgent(const bridge::ResponseBase& response, const std::string& what) {
  const uint32_t hresult = bridge::HResult(response.result);
  if (hresult == bridge::kHresultOk) return absl::OkStatus();
  const std::string text =
      absl::StrFormat("the guest could not %s (0x%08x): %s", what, hresult, response.error_message);
  const std::optional<bridge::RunFailure> failure = WhyNotRun(hresult, response.error_message);
  if (!failure.has_value()) return absl::Status(CodeOf(hresult), text);
  return bridge::WithRunFailure(absl::FailedPreconditionError(text), *failure);
}

absl::Status GuestContainers::CheckSupported() const {
  if (!connection_->ready()) {
    return absl::UnavailableError("the guest's agent is not connected; try again when it is");
  }
  if (connection_->core().capabilities().guest_defined.containers_supported) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      "the VM's guest image has an agent that knows no containers; start the VM with a newer one");
}

Task<absl::StatusOr<std::string>> GuestContainers::Ask(uint32_t type, std::string request,
                                                       std::string what) {
  CO_RETURN_IF_ERROR(CheckSupported());
  const std::shared_ptr<GuestConnection> connection = connection_;
  absl::StatusOr<std::string> answer =
      co_await connection->Call(type, std::move(request), connection->rpc_timeout());
  if (!answer.ok()) co_return answer.status();
  const auto response = bridge::Decode<bridge::SimpleResponse>(*answer);
  if (!response.ok()) co_return response.status();
  CO_RETURN_IF_ERROR(FromAgent(*response, what));
  co_return answer;
}

Task<absl::Status> GuestContainers::AskAbout(std::string id, uint32_t type, std::string what) {
  bridge::SimpleRequest request;
  request.container_id = std::move(id);
  co_return (co_await Ask(type, Encode(request), std::move(what))).status();
}

Task<absl::Status> GuestContainers::Create(NewContainer container) {
  bridge::ContainerConfig config;
  config.oci_bundle_path = std::move(container.bundle_path);
  config.oci_specification = std::move(container.oci_specification);
  bridge::CreateRequest request;
  request.container_id = std::move(container.id);
  request.container_config = Encode(config);
  std::string text = Encode(request);
  co_return (co_await Ask(bridge::kCreate, std::move(text), "create the container")).status();
}

Task<absl::Status> GuestContainers::Pause(std::string id) {
  co_return co_await AskAbout(std::move(id), bridge::kPauseContainer, "pause the container");
}

Task<absl::Status> GuestContainers::Resume(std::string id) {
  co_return co_await AskAbout(std::move(id), bridge::kResumeContainer, "resume the container");
}

Task<absl::Status> GuestContainers::Delete(std::string id) {
  co_return co_await AskAbout(std::move(id), bridge::kDeleteContainerState, "remove the container");
}

Task<absl::Status> GuestContainers::Update(std::string id, std::string linux_resources) {
  bridge::ContainerConstraints constraints;
  constraints.linux_resources = std::move(linux_resources);
  std::string settings = Encode(constraints);
  co_return co_await Modify(std::move(id), "Update", bridge::kResourceContainerConstraints,
                            std::move(settings), "change the container's limits");
}

Task<absl::StatusOr<bridge::ContainerProperties>> GuestContainers::Properties(
    std::string id, std::vector<std::string> types) {
  bridge::PropertyQuery query;
  query.property_types = std::move(types);
  bridge::GetPropertiesRequest request;
  request.container_id = std::move(id);
  request.query = Encode(query);
  std::string text = Encode(request);
  CO_ASSIGN_OR_RETURN(
      const std::string answer,
      co_await Ask(bridge::kGetProperties, std::move(text), "tell the container's properties"));
  const auto response = bridge::Decode<bridge::GetPropertiesResponse>(answer);
  if (!response.ok()) co_return response.status();
  co_return bridge::Decode<bridge::ContainerProperties>(response->properties);
}

Task<absl::Status> GuestContainers::Modify(std::string container_id, std::string request_type,
                                           std::string resource_type, std::string settings,
                                           std::string what) {
  bridge::ModifySettingsRequest request;
  if (container_id != kVm) request.container_id = std::move(container_id);
  request.request_type = std::move(request_type);
  request.resource_type = std::move(resource_type);
  request.settings = std::move(settings);
  std::string text = Encode(request);
  co_return (co_await Ask(bridge::kModifySettings, std::move(text), std::move(what))).status();
}

Task<absl::Status> GuestContainers::AddDisk(bridge::MappedVirtualDisk disk) {
  std::string settings = Encode(disk);
  co_return co_await Modify(kVm, "Add", bridge::kResourceMappedVirtualDisk, std::move(settings),
                            absl::StrCat("mount the disk at ", disk.mount_path));
}

Task<absl::Status> GuestContainers::RemoveDisk(bridge::MappedVirtualDisk disk) {
  std::string settings = Encode(disk);
  co_return co_await Modify(kVm, "Remove", bridge::kResourceMappedVirtualDisk, std::move(settings),
                            absl::StrCat("unmount the disk at ", disk.mount_path));
}

Task<absl::Status> GuestContainers::GrowDisk(bridge::MappedVirtualDisk disk) {
  std::string settings = Encode(disk);
  co_return co_await Modify(kVm, "Update", bridge::kResourceMappedVirtualDisk, std::move(settings),
                            absl::StrCat("enlarge the file system at ", disk.mount_path));
}

Task<absl::Status> GuestContainers::EjectDisk(bridge::ScsiDevice disk) {
  std::string settings = Encode(disk);
  co_return co_await Modify(kVm, "Remove", bridge::kResourceScsiDevice, std::move(settings),
                            absl::StrCat("let go of the disk ", disk.controller, "/", disk.lun));
}

Task<absl::Status> GuestContainers::AddDirectory(bridge::MappedDirectory directory) {
  std::string settings = Encode(directory);
  co_return co_await Modify(kVm, "Add", bridge::kResourceMappedDirectory, std::move(settings),
                            absl::StrCat("mount the shared folder at ", directory.mount_path));
}

Task<absl::Status> GuestContainers::CombineLayers(bridge::CombinedLayers layers) {
  std::string settings = Encode(layers);
  co_return co_await Modify(kVm, "Add", bridge::kResourceCombinedLayers, std::move(settings),
                            absl::StrCat("combine layers at ", layers.container_root_path));
}

Task<absl::Status> GuestContainers::SeparateLayers(bridge::CombinedLayers layers) {
  std::string settings = Encode(layers);
  co_return co_await Modify(kVm, "Remove", bridge::kResourceCombinedLayers, std::move(settings),
                            absl::StrCat("unmount the layers at ", layers.container_root_path));
}

}  // namespace ferry::guest
