#include "absl/strings/str_cat.h"
#include "bridge/guest/answers.h"
#include "bridge/guest/guest_server.h"

// GuestServer's answers, one function per request.
namespace ferry::bridge {

Task<std::string> GuestServer::Answer(const Frame& frame, const RequestBase& base) {
  switch (frame.type) {
    case kCreate:
      co_return co_await OnCreate(frame, base);
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
    case kGetClock:
      if (options_.clock != nullptr) co_return OnGetClock(base);
      break;
    case kAdjustClock:
      if (options_.clock != nullptr) co_return OnAdjustClock(frame);
      break;
    case kFreezeFilesystems:
      if (freezer_ != nullptr) co_return co_await OnFreeze(frame);
      break;
    case kThawFilesystems:
      if (freezer_ != nullptr) co_return co_await OnThaw(base);
      break;
    case kModifySettings:
      if (containers_.has_value() || options_.network != nullptr) {
        co_return co_await OnModifySettings(frame);
      }
      break;
    case kPauseContainer:
    case kResumeContainer:
    case kDeleteContainerState:
      if (containers_.has_value()) co_return co_await OnContainerRequest(frame.type, base);
      break;
    default:
      break;
  }
  co_return Encode(FailedResponse(
      kHresultNotImplemented,
      absl::StrCat("this agent does not know message type 0x", absl::Hex(frame.type)),
      base.activity_id));
}

Task<std::string> GuestServer::OnExecute(const Frame& frame) {
  const absl::StatusOr<ExecuteProcessRequest> request =
      Decode<ExecuteProcessRequest>(frame.payload);
  if (!request.ok()) co_return BadJson(request.status());
  if (!IsVm(request->container_id) && !request->parameters.create_in_utility_vm) {
    co_return co_await OnExecuteInContainer(frame.id, *request);
  }
  const absl::StatusOr<std::shared_ptr<GuestProcess>> process =
      co_await GuestProcess::Start(executor_, transport_, request->parameters, request->stdio);
  if (!process.ok()) {
    // "Process not found" is an answer about a pid; a command that is missing is a plain failure.
    co_return Encode(
        FailedResponse(kHresultFailed, StatusText(process.status()), request->activity_id));
  }
  Add(*process);
  co_return Executed(*request, (*process)->id());
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
    Task<void> exited = process->exited().Wait();
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
  if (!IsVm(base.container_id)) {
    if (!containers_.has_value()) co_return NoContainer(base);
    const absl::Status status = containers_->Shutdown(base.container_id, force);
    if (!absl::IsFailedPrecondition(status)) co_return FromContainerStatus(base, status);
    co_return Encode(FailedResponse(kHresultAlreadyStopped, StatusText(status), base.activity_id));
  }
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

std::string GuestServer::OnGetClock(const RequestBase& base) {
  GetClockResponse response;
  response.activity_id = base.activity_id;
  response.unix_ns = static_cast<uint64_t>(options_.clock->Now());
  return Encode(response);
}

std::string GuestServer::OnAdjustClock(const Frame& frame) {
  const absl::StatusOr<AdjustClockRequest> request = Decode<AdjustClockRequest>(frame.payload);
  if (!request.ok()) return BadJson(request.status());
  const absl::Status adjusted = options_.clock->Adjust(request->offset_ns);
  if (adjusted.ok() && options_.network != nullptr) {
    options_.network->StoodStill(std::chrono::nanoseconds(request->offset_ns));
  }
  return FromStatus(*request, adjusted);
}

Task<std::string> GuestServer::OnFreeze(const Frame& frame) {
  const absl::StatusOr<FreezeFilesystemsRequest> request =
      Decode<FreezeFilesystemsRequest>(frame.payload);
  if (!request.ok()) co_return BadJson(request.status());
  const milliseconds limit(request->timeout_ms);
  const absl::StatusOr<size_t> frozen = co_await freezer_->Freeze(limit);
  if (!frozen.ok()) co_return FromStatus(*request, frozen.status());
  FreezeFilesystemsResponse response;
  response.activity_id = request->activity_id;
  response.frozen = static_cast<uint32_t>(*frozen);
  co_return Encode(response);
}

Task<std::string> GuestServer::OnThaw(const RequestBase& base) {
  const absl::Status thawed = co_await freezer_->Thaw();
  co_return FromStatus(base, thawed);
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
