#include "bridge/guest/answers.h"

#include "absl/strings/str_cat.h"
#include "bridge/protocol/run_failure.h"

namespace ferry::bridge {
namespace {

uint32_t ToHresult(const absl::Status& status, uint32_t not_found) {
  if (const auto failure = RunFailureOf(status)) return ToHresult(*failure);
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return not_found;
    case absl::StatusCode::kInvalidArgument:
      return kHresultInvalidArgument;
    case absl::StatusCode::kFailedPrecondition:
      return kHresultInvalidState;
    case absl::StatusCode::kAlreadyExists:
      return kHresultAlreadyExists;
    default:
      return kHresultFailed;
  }
}

std::string FromStatusWith(const RequestBase& request, const absl::Status& status,
                           uint32_t not_found) {
  if (status.ok()) return Ok(request);
  return Encode(
      FailedResponse(ToHresult(status, not_found), StatusText(status), request.activity_id));
}

}  // namespace

bool IsVm(const std::string& container_id) {
  return container_id.empty() || container_id == kNullGuid;
}

std::string StatusText(const absl::Status& status) { return std::string(status.message()); }

std::string BadJson(const absl::Status& status) {
  return Encode(FailedResponse(kHresultBadJson, StatusText(status), kNullGuid));
}

std::string BadJsonIn(const RequestBase& request, const char* member) {
  return Encode(FailedResponse(kHresultBadJson, absl::StrCat(member, " is no JSON object"),
                               request.activity_id));
}

std::string Ok(const RequestBase& request) {
  SimpleResponse response;
  response.activity_id = request.activity_id;
  return Encode(response);
}

std::string Executed(const RequestBase& request, uint32_t pid) {
  ExecuteProcessResponse response;
  response.activity_id = request.activity_id;
  response.process_id = pid;
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

std::string FromStatus(const RequestBase& request, const absl::Status& status) {
  return FromStatusWith(request, status, kHresultProcessNotFound);
}

std::string FromContainerStatus(const RequestBase& request, const absl::Status& status) {
  return FromStatusWith(request, status, kHresultContainerNotFound);
}

}  // namespace ferry::bridge
