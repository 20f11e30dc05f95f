#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include "absl/strings/str_cat.h"
#include "bridge/guest/guest_server.h"
#include "bridge/protocol/json_fields.h"

// GuestServer's answers, one function per request.
namespace ferry::bridge {
namespace {

bool IsVm(const std::string& container_id) {
  return container_id.empty() || container_id == kNullGuid;
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

std::string BadJson(const absl::Status& status) {
  return Encode(FailedResponse(kHresultBadJson, Text(status), kNullGuid));
}

std::string Ok(const RequestBase& request) {
  SimpleResponse response;
  response.activity_id = request.activity_id;
  return Encode(response);
}

std::string NoContainer(const RequestBase& request) {
  return Encode(FailedResponse(kHresultContainerNotFound,
                               absl::StrCat("there is no container '", request.container_id,
                                            "': this agent runs processes of the VM itself only"),
                               request.activity_id));
}

std::string NoProcess(const RequestBase& request, uint32_t pid) {
  return Encode(FailedResponse(kHresultProcessNotFound, absl::StrCat("there is no process ", pid),
                               request.activity_id));
}

uint32_t ToHresult(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return kHresultProcessNotFound;
    case absl::StatusCode::kInvalidArgument:
      return kHresultInvalidArgument;
    case absl::StatusCode::kFailedPrecondition:
      return kHresultInvalidState;
    default:
      return kHresultFailed;
  }
}

std::string FromStatus(const RequestBase& request, const absl::Status& status) {
  if (status.ok()) return Ok(request);
  return Encode(FailedResponse(ToHresult(status), Text(status), request.activity_id));
}

// The names of the properties that a query asks for. An empty text asks for none.
absl::StatusOr<std::vector<std::string>> PropertyTypes(const std::string& query) {
  std::vector<std::string> types;
  if (query.empty()) return types;
  const absl::StatusOr<boost::json::object> object = ParseObject(query);
  if (!object.ok()) return object.status();
  absl::Status status;
  FieldReader(*object, "Query", &status).TextList("PropertyTypes", &types);
  if (!status.ok()) return status;
  return types;
}

Task<absl::Status> AwaitExit(std::shared_ptr<GuestProcess> process) {
  co_await process->exited().Wait();
  co_return absl::OkStatus();
}

}  // namespace

Task<std::string> GuestServer::Answer(const Frame& frame, const RequestBase& base) {
  switch (frame.type) {
    case kCreate:
      co_return OnCreate(frame, base);
    case kStart:
      co_return Ok(base);
    case kExecuteProcess:
      co_return co_await OnExecute(frame);
    case kWaitForProcess:
      co_return co_await OnWait(frame);
    case kShutdownGraceful:
      co_return co_await OnShutdown(base, false);
    case kShutdownForced:
      co_return co_await OnShutdown(base, true);
    case kSignalProcess:
      co_return OnSignal(frame);
    case kResizeConsole:
      co_return OnResize(frame);
    case kGetProperties:
      co_return OnGetProperties(frame);
    case kAcknowledgeExit:
      co_return OnAcknowledgeExit(frame);
    case kListProcesses:
      co_return OnListProcesses(base);
    default:
      co_return Encode(FailedResponse(
          kHresultNotImplemented,
          absl::StrCat("this agent does not know message type 0x", absl::Hex(frame.type)),
          base.activity_id));
  }
}

std::string GuestServer::OnCreate(const Frame& frame, const RequestBase& base) {
  const absl::StatusOr<CreateRequest> request = Decode<CreateRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  if (IsVm(base.container_id)) return Ok(base);
  return Encode(FailedResponse(kHresultNotImplemented,
                               absl::StrCat("cannot create container '", base.container_id,
                                            "': this agent runs processes of the VM itself only"),
                               base.activity_id));
}

Task<std::string> GuestServer::OnExecute(const Frame& frame) {
  const absl::StatusOr<ExecuteProcessRequest> request =
      Decode<ExecuteProcessRequest>(frame.payload);
  if (!request.ok()) co_return BadJson(request.status());
  if (!IsVm(request->container_id) && !request->parameters.create_in_utility_vm) {
    co_return NoContainer(*request);
  }
  const absl::StatusOr<std::shared_ptr<GuestProcess>> process =
      co_await GuestProcess::Start(executor_, transport_, request->parameters, request->stdio);
  if (!process.ok()) {
    // "Process not found" is an answer about a pid; a command that is missing is a plain failure.
    co_return Encode(FailedResponse(kHresultFailed, Text(process.status()), request->activity_id));
  }
  processes_[(*process)->pid()] = *process;
  ExecuteProcessResponse response;
  response.activity_id = request->activity_id;
  response.process_id = (*process)->pid();
  co_return Encode(response);
}

Task<std::string> GuestServer::OnWait(const Frame& frame) {
  const absl::StatusOr<WaitForProcessRequest> request =
      Decode<WaitForProcessRequest>(frame.payload);
  if (!request.ok()) co_return BadJson(request.status());
  const std::shared_ptr<GuestProcess> process = Find(request->process_id);
  if (process == nullptr) co_return NoProcess(*request, request->process_id);
  if (request->timeout_ms == kWaitForever) {
    co_await process->exited().Wait();
  } else {
    Task<absl::Status> exited = AwaitExit(process);
    const absl::Status ignored =
        co_await WithDeadline(milliseconds(request->timeout_ms), "the process", std::move(exited));
  }
  if (!process->exit().has_value()) {
    co_return Encode(FailedResponse(kHresultWaitTimeout,
                                    absl::StrCat("process ", request->process_id, " still runs"),
                                    request->activity_id));
  }
  WaitForProcessResponse response;
  response.activity_id = request->activity_id;
  response.exit_code = process->exit()->code;
  response.exit_signal = process->exit()->signal;
  co_return Encode(response);
}

Task<std::string> GuestServer::OnShutdown(const RequestBase& base, bool force) {
  if (!IsVm(base.container_id)) co_return NoContainer(base);
  co_await EndProcesses(force);
  end_ = force ? End::kShutdownForced : End::kShutdownGraceful;
  scope_.Spawn(Farewell(shared_from_this()));
  co_return Ok(base);
}

std::string GuestServer::OnSignal(const Frame& frame) {
  const absl::StatusOr<SignalProcessRequest> request = Decode<SignalProcessRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  const std::shared_ptr<GuestProcess> process = Find(request->process_id);
  if (process == nullptr) return NoProcess(*request, request->process_id);
  return FromStatus(*request, process->Signal(request->signal));
}

std::string GuestServer::OnResize(const Frame& frame) {
  const absl::StatusOr<ResizeConsoleRequest> request = Decode<ResizeConsoleRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  const std::shared_ptr<GuestProcess> process = Find(request->process_id);
  if (process == nullptr) return NoProcess(*request, request->process_id);
  return FromStatus(*request, process->Resize(request->height, request->width));
}

std::string GuestServer::OnGetProperties(const Frame& frame) {
  const absl::StatusOr<GetPropertiesRequest> request = Decode<GetPropertiesRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  if (!IsVm(request->container_id)) return NoContainer(*request);
  const absl::StatusOr<std::vector<std::string>> types = PropertyTypes(request->query);
  if (!types.ok()) {
    return Encode(FailedResponse(kHresultBadJson, Text(types.status()), request->activity_id));
  }
  // Only what was asked for; a property that this agent does not have is left out.
  boost::json::object properties;
  if (std::find(types->begin(), types->end(), "ProcessList") != types->end()) {
    boost::json::array list;
    for (const auto& [pid, process] : processes_) {
      list.push_back(
          boost::json::object{{"ProcessId", pid}, {"Exited", process->exit().has_value()}});
    }
    properties["ProcessList"] = std::move(list);
  }
  GetPropertiesResponse response;
  response.activity_id = request->activity_id;
  response.properties = boost::json::serialize(properties);
  return Encode(response);
}

std::string GuestServer::OnAcknowledgeExit(const Frame& frame) {
  const absl::StatusOr<AcknowledgeExitRequest> request =
      Decode<AcknowledgeExitRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  const std::shared_ptr<GuestProcess> process = Find(request->process_id);
  if (process == nullptr) return NoProcess(*request, request->process_id);
  const absl::Status status = process->Acknowledge();
  if (status.ok()) processes_.erase(request->process_id);
  return FromStatus(*request, status);
}

std::string GuestServer::OnListProcesses(const RequestBase& base) {
  ListProcessesResponse response;
  response.activity_id = base.activity_id;
  for (const auto& [pid, process] : processes_) {
    response.processes.push_back({pid, process->exit().has_value()});
  }
  return Encode(response);
}

}  // namespace ferry::bridge
