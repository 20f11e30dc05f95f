#include "absl/strings/str_cat.h"
#include "bridge/guest/answers.h"
#include "bridge/guest/guest_server.h"

// GuestServer's answers about containers, and to queries of properties.
namespace ferry::bridge {

Task<std::string> GuestServer::OnCreate(const Frame& frame, const RequestBase& base) {
  const absl::StatusOr<CreateRequest> request = Decode<CreateRequest>(frame.payload);
  if (!request.ok()) co_return BadJson(request.status());
  if (IsVm(base.container_id)) co_return Ok(base);
  if (!containers_.has_value()) {
    co_return Encode(
        FailedResponse(kHresultNotImplemented,
                       absl::StrCat("cannot create container '", base.container_id,
                                    "': this agent runs processes of the VM itself only"),
                       base.activity_id));
  }
  if (!IsJsonObject(request->container_config)) co_return BadJsonIn(base, "ContainerConfig");
  const absl::StatusOr<ContainerConfig> config = Decode<ContainerConfig>(request->container_config);
  if (!config.ok()) co_return FromContainerStatus(base, config.status());
  co_return FromContainerStatus(
      base, co_await containers_->Create(base.container_id, *config, base.activity_id));
}

Task<std::string> GuestServer::OnExecuteInContainer(int64_t call, ExecuteProcessRequest request) {
  if (!containers_.has_value()) co_return NoContainer(request);
  const std::string& process = request.parameters.oci_process;
  if (process.empty()) co_return co_await OnStartInit(call, std::move(request));
  if (!IsJsonObject(process)) co_return BadJsonIn(request, "OciProcess");
  uint32_t id = 0;
  const ContainerHost::Keep keep = [this, &id](std::shared_ptr<GuestProcess> made) {
    Add(made);
    id = made->id();
  };
  const absl::Status status =
      co_await containers_->Exec(request.container_id, request.parameters, request.stdio, keep);
  if (!status.ok()) co_return FromContainerStatus(request, status);
  co_return Executed(request, id);
}

Task<std::string> GuestServer::OnStartInit(int64_t call, ExecuteProcessRequest request) {
  ContainerHost::StartCall start;
  start.id = call;
  start.stdio = request.stdio;
  uint32_t id = 0;
  const ContainerHost::Keep keep = [this, &id](std::shared_ptr<GuestProcess> init) {
    Add(init);
    id = init->id();
  };
  const ContainerHost::Start* known = containers_->FindStart(request.container_id, start);
  if (known != nullptr && !known->done) co_return "";
  absl::Status status;
  if (known != nullptr) {
    status = known->status;
    id = known->process_id;
  } else {
    status = co_await containers_->StartInit(request.container_id, start, request.parameters, keep);
  }
  if (!status.ok()) co_return FromContainerStatus(request, status);
  co_return Executed(request, id);
}

Task<std::string> GuestServer::OnContainerRequest(uint32_t type, const RequestBase& base) {
  absl::Status status;
  if (type == kPauseContainer) {
    status = co_await containers_->Pause(base.container_id);
  } else if (type == kResumeContainer) {
    status = co_await containers_->Resume(base.container_id);
  } else {
    status = co_await containers_->Delete(base.container_id);
  }
  co_return FromContainerStatus(base, status);
}

Task<std::string> GuestServer::OnModifySettings(const Frame& frame) {
  const absl::StatusOr<ModifySettingsRequest> request =
      Decode<ModifySettingsRequest>(frame.payload);
  if (!request.ok()) co_return BadJson(request.status());
  if (!request->settings.empty() && !IsJsonObject(request->settings)) {
    co_return BadJsonIn(*request, "Settings");
  }
  const bool vm = IsVm(request->container_id);
  if (vm && request->resource_type == kResourceNetwork && options_.network != nullptr) {
    co_return AddAdapter(*request);
  }
  if (!containers_.has_value()) co_return NoContainer(*request);
  const std::string id = vm ? "" : request->container_id;
  const absl::Status status = co_await containers_->Modify(id, *request);
  // Of a resource of the VM it is a device that is not there, and no container.
  if (vm && absl::IsNotFound(status)) {
    co_return Encode(FailedResponse(kHresultFailed, StatusText(status), request->activity_id));
  }
  co_return FromContainerStatus(*request, status);
}

std::string GuestServer::AddAdapter(const ModifySettingsRequest& request) {
  if (request.request_type != "Add") {
    return FromStatus(request, absl::InvalidArgumentError("network cards can only be added"));
  }
  const absl::StatusOr<NetworkAdapter> adapter = Decode<NetworkAdapter>(request.settings);
  if (!adapter.ok()) return FromStatus(request, adapter.status());
  const absl::Status added = options_.network->Add(*adapter);
  if (!absl::IsNotFound(added)) return FromStatus(request, added);
  // Not found is an answer about a process.
  return Encode(FailedResponse(kHresultFailed, StatusText(added), request.activity_id));
}

ContainerProperties GuestServer::PropertiesOfVm(const PropertyQuery& query) const {
  ContainerProperties properties;
  if (query.Asks("ProcessList")) {
    properties.process_list.emplace();
    for (const auto& [id, process] : processes_) {
      properties.process_list->push_back({id, process->exit().has_value()});
    }
  }
  if (query.Asks("NetworkLeases") && options_.network != nullptr) {
    properties.network_leases = options_.network->leases();
  }
  return properties;
}

std::string GuestServer::OnGetProperties(const Frame& frame) {
  const absl::StatusOr<GetPropertiesRequest> request = Decode<GetPropertiesRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  const bool vm = IsVm(request->container_id);
  if (!vm && !containers_.has_value()) return NoContainer(*request);
  const absl::StatusOr<PropertyQuery> query = Decode<PropertyQuery>(request->query);
  if (!query.ok()) {
    return Encode(
        FailedResponse(kHresultBadJson, StatusText(query.status()), request->activity_id));
  }
  // Only what was asked for; a property that this agent does not have is left out.
  ContainerProperties properties;
  if (!vm) {
    absl::StatusOr<ContainerProperties> found =
        containers_->Properties(request->container_id, *query);
    if (!found.ok()) return FromContainerStatus(*request, found.status());
    properties = *std::move(found);
  } else {
    properties = PropertiesOfVm(*query);
  }
  GetPropertiesResponse response;
  response.activity_id = request->activity_id;
  response.properties = Encode(properties);
  return Encode(response);
}

}  // namespace ferry::bridge
